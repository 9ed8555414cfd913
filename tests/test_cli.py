"""The command line: texts in, entities out, one line for every error."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys

import pytest
from typer.testing import CliRunner

import nomina
from nomina.cli import app
from nomina.commands.extract import print_document
from nomina.documents import Document
from nomina.entities import Entity
from nomina.extractor import Tagger

run = CliRunner().invoke


@pytest.fixture(autouse=True)
def _tiny(tagger, monkeypatch):
    monkeypatch.setattr(nomina, "load", lambda name=None, **_: tagger, raising=False)


def lines(result):
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_arguments_are_documents():
    have = lines(run(app, ["extract", "did george act", "in 1980", "--labels", "actor, year"]))
    assert [row["text"] for row in have] == ["did george act", "in 1980"]
    assert set(have[0]) == {"text", "entities", "warnings"}
    for row in have:
        for entity in row["entities"]:
            assert set(entity) == {"text", "label", "start", "end", "score"}
            assert row["text"][entity["start"] : entity["end"]] == entity["text"]


def test_plain_standard_input_is_one_document():
    have = lines(run(app, ["extract", "--labels", "actor"], input="george\nclooney\n"))
    assert [row["text"] for row in have] == ["george\nclooney\n"]


def test_json_lines_are_a_document_each(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text('\n{"text": "a b", "id": 7}\n\n{"text": "c"}\n')
    have = lines(run(app, ["extract", "--labels", "actor", "--file", str(path)]))
    assert [(row["text"], row.get("id")) for row in have] == [("a b", 7), ("c", None)]


def test_json_that_is_no_document_is_text():
    have = lines(run(app, ["extract", "--labels", "actor", "--file", "-"], input='{"a": 1}\nb'))
    assert [row["text"] for row in have] == ['{"a": 1}\nb']


@pytest.mark.parametrize("options", [["--decoding", "free"], ["--beams", "2"]])
def test_other_ways_to_decode(tagger, monkeypatch, options):
    def load(name=None, *, format=None, num_workers=1, **given):
        return Tagger(tagger.model, **given)

    monkeypatch.setattr(nomina, "load", load, raising=False)
    (have,) = lines(run(app, ["extract", "george", "--labels", "actor", *options]))
    assert have["text"] == "george"


def test_ways_to_decode_that_exclude_each_other(tagger, monkeypatch):
    def load(name, format, num_workers, **given):
        return Tagger(tagger.model, **given)

    monkeypatch.setattr(nomina, "load", load, raising=False)
    result = run(app, "extract x --labels a --decoding free --beams 2".split())
    assert result.exit_code == 1
    assert result.stderr.startswith("error: free decoding is greedy search")


def test_labels_from_a_file(tmp_path):
    path = tmp_path / "labels.toml"
    path.write_text('[actor]\ndefinition = "plays"\nexamples = ["george"]\n[year]\n')
    assert lines(run(app, ["extract", "x", "--labels-file", str(path)]))[0]["text"] == "x"


@pytest.mark.parametrize("title", ["docs[old]/a.txt", "[/etc]"])
def test_brackets_are_no_markup(title, capsys):
    text = "List[str] :smile: [/etc]"
    entities = (Entity("List[str]", "code [x]", 0, 9), Entity("[/etc]", "[/b]", 18, 24))
    print_document(Document(text, entities), title)
    shown = capsys.readouterr().out
    for part in (title, "List[str]", "code [x]", ":smile:", "[/etc]", "[/b]"):
        assert part in shown


@pytest.mark.parametrize("output", ["jsonl", "text", "table"])
def test_an_old_locale_costs_no_text(output):
    code = "import nomina, sys; from nomina.cli import main\n"
    code += "from nomina.documents import Document\n"
    code += "class Fake:\n  def pipe(self, texts, *a, **k):\n"
    code += "    return (Document(getattr(x, 'text', x), ()) for x in texts)\n"
    code += "nomina.load = lambda *a, **k: Fake()\n"
    code += f"sys.argv = ['nomina', 'extract', 'Łódź', '--labels', 'a', '--output', '{output}']\n"
    code += "main()"
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "cp1252"},
    )
    assert result.returncode == 0, result.stderr
    if output == "jsonl":  # a file of lines is UTF-8, whatever the locale
        assert json.loads(result.stdout.decode("utf-8"))["text"] == "Łódź"
    else:
        assert b"\\u0141" in result.stdout


@pytest.mark.parametrize("output", ["table", "text", "html"])
def test_people_look(output):
    text = "did george clooney [act] in 1980?"
    result = run(app, ["extract", text, "--labels", "actor,year", "--output", output])
    assert result.exit_code == 0
    assert "clooney" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["x"], 2, "--labels"),
        (["x", "--labels", ","], 1, "at least one"),
        (["x", "--labels", "a,a"], 1, "the same"),
        (["x", "--labels", "a\nb"], 1, "one line"),
        (["x", "--labels", "a", "--output", "xml"], 2, "--output"),
        (["x", "--labels", "a", "--threshold", "3"], 2, "threshold"),
        (["--labels", "a", "--file", "/nowhere.txt"], 1, "/nowhere.txt: cannot be read"),
        (["x", "--labels-file", "/nowhere.toml"], 1, "nowhere.toml"),
    ],
)
def test_errors_are_one_line_and_a_code(arguments, code, message):
    result = run(app, ["extract", *arguments])
    assert result.exit_code == code
    assert message in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"ok\nbad \xff\xfe", r":2: not UTF-8 at byte 7"),
        (b'{"text": "a"}\nnonsense\n', ":2: expected a JSON object"),
    ],
)
def test_bad_files_name_the_line(tmp_path, data, message):
    path = tmp_path / "bad.txt"
    path.write_bytes(data)
    result = run(app, ["extract", "--labels", "a", "--file", str(path)])
    assert result.exit_code == 1
    assert message in result.output


def test_mentions_agree_if_asked(tagger, monkeypatch):
    asked = []
    monkeypatch.setattr(nomina, "load", lambda name=None, **rest: asked.append(rest) or tagger)
    lines(run(app, ["extract", "x", "--labels", "actor", "--consistent"]))
    lines(run(app, ["extract", "x", "--labels", "actor"]))
    assert [rest["consistent"] for rest in asked] == [True, False]


def test_the_demo_shows_three_texts():
    result = run(app, ["demo"])
    assert result.exit_code == 0
    assert [t in result.stdout for t in ("news item", "contract clause", "abstract")] == [True] * 3


def test_models_lists_what_is_there():
    rows = lines(run(app, ["models", "--json"]))[0]
    assert {row["name"] for row in rows} >= {"gemma-3-270m"}


def test_a_missing_model_is_one_line():
    result = subprocess.run(
        [sys.executable, "-m", "nomina.cli", "extract", "x", "--labels", "a", "--model", "./no"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert result.stderr.startswith("error: there is no model './no'")
    assert "Traceback" not in result.stderr


def test_every_command_has_help():
    for command in app.registered_commands:
        result = run(app, [command.name or "", "--help"])
        assert result.exit_code == 0
        assert len(result.stdout) > 100


def test_the_package_loads_no_torch():
    code = (
        "import sys, nomina, nomina.evaluation, nomina.alignment, nomina.corpora, nomina.mixture, "
        "nomina.grounding, nomina.cli; "
        "sys.exit(','.join(m for m in ('torch', 'transformers', 'peft') if m in sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert result.stderr.strip() in ("", "\n"), result.stderr


def test_public_names_are_sorted_and_there():
    assert nomina.__all__ == sorted(nomina.__all__)
    assert all(getattr(nomina, name) is not None for name in nomina.__all__)


def extract(tail, tmp_path, *options):
    """Run `nomina extract` on many lines in a shell, with a tagger that finds nothing."""
    code = "import nomina; from nomina.cli import main\nfrom nomina.documents import Document\n"
    code += "class Fake:\n  def pipe(self, texts, *a, **k):\n"
    code += "    return (Document(x) for x in texts)\n"
    code += "nomina.load = lambda *a, **k: Fake()\nmain()"
    path = tmp_path / "big.txt"
    path.write_text("in Paris\n" * 20_000)
    words = ["-c", code, "extract", "--file", str(path), "--lines", "--labels", "a", *options]
    command = " ".join(map(shlex.quote, [sys.executable, *words])) + " " + tail
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True)


@pytest.mark.parametrize("output", ["jsonl", "text", "html"])
def test_a_reader_that_goes_is_no_error(tmp_path, output):
    result = extract("| head -1; exit ${PIPESTATUS[0]}", tmp_path, "--output", output)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
@pytest.mark.parametrize("output", ["jsonl", "html"])
def test_a_full_disk_is_one_line(tmp_path, output):
    result = extract("> /dev/full", tmp_path, "--output", output)
    assert result.returncode == 1
    assert result.stderr == "error: output: No space left on device\n"


def test_no_output_at_all_is_one_line(tmp_path):
    result = extract(">&-", tmp_path)
    assert (result.returncode, result.stderr) == (1, "error: standard output is closed\n")


def test_a_table_shows_entities_whole(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    name = "x" * 70
    print_document(nomina.Document(name, (nomina.Entity(name, "url", 0, 70, 0.5),)))
    shown = capsys.readouterr().out
    assert "…" not in shown
    assert "0-70" in shown
