"""`nomina train`: one's own file on the command line, errors in one line."""

from __future__ import annotations

import json

import pytest
from conftest import build_module
from typer.testing import CliRunner

from nomina.cli import app
from nomina.models import LanguageModel, ModelConfig

run = CliRunner().invoke
RECORDS = [
    {"text": "Anna met Ben.", "entities": [{"start": 0, "end": 4, "label": "person"}]},
    {"text": "Oslo is cold.", "entities": [{"start": 0, "end": 4, "label": "city"}]},
]


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "my.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in RECORDS * 4))
    return path


def test_a_dry_run_shows_examples_as_the_model_sees_them(data):
    result = run(app, ["train", "--data", str(data), "--dry-run", "3"])
    assert result.exit_code == 0, result.output
    assert "100.0%" in result.output
    assert result.output.count("Marked:") == 3
    assert "Types: " in result.output
    assert "no dev set" in result.output


def test_brackets_in_a_name_are_no_markup(data, monkeypatch):
    monkeypatch.chdir(data.parent)
    name = "my [copy][/b].jsonl"  # in a folder, that is
    (data.parent / name).parent.mkdir()
    (data.parent / name).write_text(data.read_text())
    result = run(app, ["train", "--data", name, "--dry-run", "1"], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    assert result.output.count(name) >= 2


def test_own_data_becomes_an_adapter(data, tmp_path, byte_tokenizer):
    base = tmp_path / "base"
    LanguageModel(build_module("llama", scale=0.3), byte_tokenizer, ModelConfig()).save(base)
    labels = tmp_path / "labels.toml"
    labels.write_text('[person]\ndefinition = "a human being"\n[city]\n')
    output = tmp_path / "my-adapter"
    arguments = ["--labels-file", str(labels), "--output", str(output), "--model", str(base)]
    arguments += ["--dev", str(data), "--steps", "2", "--learning-rate", "0.001", "--seed", "7"]
    result = run(app, ["train", "--data", str(data), *arguments])
    assert result.exit_code == 0, result.output
    assert f"trained: {output}" in result.stdout
    assert "2/2  loss" in result.stderr
    assert "dev F1" in result.stderr
    assert "8 dev sentences are also trained on" in result.stderr
    assert "| seed | 7 |" in (output / "README.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "give a recipe, or --data"),
        (["--data", "my.jsonl"], 2, "--output"),
        (["--data", "my.jsonl", "--dry-run", "-1"], 2, "--dry-run"),
        (["--data", "/nowhere.jsonl", "--output", "x"], 1, "no such file"),
        (["/nowhere.toml"], 1, "cannot be read"),
        (["--data", "x", "--output", "y", "--steps", "-1"], 1, "steps must be"),
        (["--data", "x", "--output", "y", "--method", "z"], 1, "method must be lora or full"),
    ],
)
def test_errors_are_one_line_and_a_code(arguments, code, message):
    result = run(app, ["train", *arguments])
    assert result.exit_code == code
    assert message in result.output
    assert "Traceback" not in result.output
