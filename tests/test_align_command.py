"""`nomina align`: completions of a file, and what happened to each."""

import json
import os
import shlex
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from nomina.alignment import AlignmentSummary
from nomina.commands import aligning, scoring

app = typer.Typer()
scoring.register(app)
aligning.register(app)
runner = CliRunner()


@pytest.fixture
def completions(tmp_path):
    rows = [
        {"id": "1", "words": ["in", "New", "York"], "completion": "in(O) NewYork(B-city)"},
        {"id": "2", "tokens": ["in", "Rome"], "completion": "in [Rome](town)", "format": "inline"},
        {
            "id": "3",
            "label_list": ["city"],
            "instance": {"words": ["Rome"]},
            "prediction": "Rome(B-town)",
        },
    ]
    path = tmp_path / "c.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_align_says_what_happened(completions, tmp_path):
    result = runner.invoke(app, ["align", str(completions)])
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert rows[0]["tags"] == ["O", "B-city", "I-city"]
    assert rows[0]["status"] == "substitution"
    assert rows[1]["tags"] == ["O", "B-town"]
    assert rows[2]["unknown_labels"] == {"town": 1}
    assert "exact" in result.stderr
    out = tmp_path / "out.jsonl"
    result = runner.invoke(app, ["align", str(completions), "--output", str(out)])
    assert [json.loads(line) for line in out.read_text().splitlines()] == rows


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--alignment", "worst"], "best or published"),
        (["--unknown", "guess"], "must be report, nearest, keep or error"),
        (["--unknown", "error"], "has the label 'town'"),
        (["--format", "yaml"], "'gner' or 'inline'"),
        (["--output", "/no/such/folder/x"], "No such file"),
    ],
)
def test_align_names_what_is_wrong(completions, args, message):
    result = runner.invoke(app, ["align", str(completions), *args])
    assert result.exit_code == 1
    assert message in result.stderr


def test_gold_beside_a_completion_is_not_what_was_asked_for(tmp_path):
    words, tags, completion = ["in", "Paris"], ["O", "B-city"], "in(O) Paris(B-city)"
    rows = [
        {"words": words, "labels": tags, "completion": completion},
        {"words": words, "labels": ["city", "town"], "completion": "in(O) Paris(B-park)"},
        {
            "label_list": ["city"],
            "instance": {"id": "s7", "words": words, "labels": tags},
            "prediction": completion,
        },
    ]
    path = tmp_path / "c.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = list(aligning.align_file(path, AlignmentSummary()))
    assert [row["tags"] for row in found] == [tags, ["O", "O"], tags]
    assert found[1]["unknown_labels"] == {"park": 1}
    assert [row["id"] for row in found] == ["", "", "s7"]


@pytest.mark.parametrize(
    ("line", "message"),
    [("{}", "needs `words`"), ('{"words": ["a"]}', "needs `completion`"), ("x", "not JSON")],
)
def test_align_names_bad_lines(tmp_path, line, message):
    path = tmp_path / "c.jsonl"
    path.write_text(line)
    result = runner.invoke(app, ["align", str(path)])
    assert result.exit_code == 1
    assert message in result.stderr
    assert "c.jsonl:1" in result.stderr


def test_a_stopped_align_leaves_the_old_file(completions, tmp_path):
    out = tmp_path / "out.jsonl"
    assert runner.invoke(app, ["align", str(completions), "--output", str(out)]).exit_code == 0
    before = out.read_text()
    with completions.open("a") as file:
        file.write("{\n")
    assert runner.invoke(app, ["align", str(completions), "--output", str(out)]).exit_code == 1
    assert out.read_text() == before
    assert {x.name for x in tmp_path.iterdir()} == {"c.jsonl", "out.jsonl"}


def test_json_is_utf8_in_every_locale(tmp_path):
    path = tmp_path / "c.jsonl"
    row = {"words": ["in", "😀"], "completion": "in(O) 😀(B-city)"}
    gold = {**row, "corpus": "😀", "gold": ["O", "B-city"]}
    path.write_text(json.dumps(gold))
    code = "from nomina.cli import main; main()"
    env = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    for args in (["align", path], ["score", path, "--json"], ["compare", path, path, "--json"]):
        command = [sys.executable, "-c", code, *map(str, args)]
        found = json.loads(subprocess.run(command, env=env, capture_output=True, check=True).stdout)
        assert found.get("words", row["words"]) == row["words"]
        assert "corpora" not in found or "😀" in found["corpora"]


@pytest.mark.skipif(os.name != "posix", reason="needs a shell")
def test_a_reader_that_goes_is_no_error(completions):
    completions.write_text(completions.read_text() * 2000)
    code = "from nomina.cli import main; main()"
    words = [sys.executable, "-c", code, "align", str(completions)]
    command = " ".join(map(shlex.quote, words)) + " | head -1; exit ${PIPESTATUS[0]}"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
