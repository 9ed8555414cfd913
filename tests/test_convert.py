import gzip
import json
import os
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from nomina.commands.convert import convert, register
from nomina.corpora import FORMATS, FileOptions, read_examples
from nomina.errors import DataError
from nomina.predictions import read_json_lines

DATA = Path(__file__).parent / "data"
CLEAN = '{"text": "Ann saw New York.", "entities": [{"label": "city", "start": 8, "end": 16}]}\n'

app = typer.Typer()
app.callback()(lambda: None)
register(app)


def run(*words):
    return CliRunner().invoke(app, ["convert", *map(str, words)])


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text(CLEAN, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", [n for n in FORMATS if n not in ("spacy", "parquet", "dataset")])
def test_any_format_to_any_and_back(source, tmp_path, name):
    target = tmp_path / f"out{FORMATS[name].suffix}"
    result = run(source, target, "--to", name)
    assert result.exit_code == 0, result.output
    assert f"nomina -> {name}: 1 texts, 5 words, 1 entities of 1 labels" in result.output
    back = convert(target, tmp_path / "back.jsonl", "nomina")
    assert (back.num_examples, back.num_words, back.num_entities) == (1, 5, 1)
    (example,) = read_examples(tmp_path / "back.jsonl")
    assert example.text in ("Ann saw New York.", "Ann saw New York .")
    assert [e.text for e in example.entities()] == ["New York"]


def test_losses_are_printed_with_counts_and_places(tmp_path):
    result = run(DATA / "brat", tmp_path / "out.conll")
    assert result.exit_code == 0
    assert "brat -> conll: 1 texts" in result.output
    assert "reading: 1 discontinuous entities dropped: Person" in result.output
    assert "doc.ann:4" in result.output
    assert "reading: 2 overlapping entities left out, the longest kept" in result.output
    assert "writing: 1 texts lost their spacing" in result.output


def test_nothing_lost_is_said(source, tmp_path):
    assert "nothing lost" in run(source, tmp_path / "out.csv").output


def test_json_for_machines(source, tmp_path):
    result = run(source, tmp_path / "out.conll", "--json")
    counts = json.loads(result.output)
    assert counts["texts"] == counts["entities"] == 1
    assert counts["labels"] == {"city": 1}
    assert counts["lost_in_writing"] == ["1 texts lost their spacing, only words are written"]
    assert (counts["from"], counts["to"], counts["rejected"]) == ("nomina", "conll", 0)


def test_skip_errors_writes_a_side_file(tmp_path):
    source = tmp_path / "in.jsonl"
    source.write_text(CLEAN + "nonsense\n" + CLEAN, encoding="utf-8")
    target = tmp_path / "out.jsonl"
    result = run(source, target, "--to", "doccano")
    assert result.exit_code == 1
    assert "in.jsonl:2: is not JSON" in result.stderr
    assert not target.exists()
    result = run(source, target, "--to", "doccano", "--skip-errors")
    assert result.exit_code == 0
    assert len(target.read_text().splitlines()) == 2
    (record,) = map(json.loads, (tmp_path / "out.jsonl.errors.jsonl").read_text().splitlines())
    assert record["place"].endswith("in.jsonl:2")
    assert record["raw"] == "nonsense"
    assert "what could not be read is in" in result.output


def test_options_reach_the_files(tmp_path):
    result = run(DATA / "semicolons.csv", tmp_path / "a.jsonl", "--text-column", "note")
    assert result.exit_code == 0
    assert [e.text for e in read_examples(tmp_path / "a.jsonl")] == ["x", ""]
    convert(
        DATA / "four_columns_iob1.conll",
        tmp_path / "b.conll",
        options=FileOptions(tag_column=3, scheme="BIOES"),
    )
    assert "EU\tS-NP" in (tmp_path / "b.conll").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["no.jsonl", "out.jsonl"], "no.jsonl: no such file or folder"),
        (["IN", "out.xyz"], "does not say which format to write. Add --to"),
        (["IN", "out.jsonl", "--to", "xml"], "there is no format 'xml'. Formats: nomina, gner"),
        (["IN", "out.jsonl", "--from", "xml"], "there is no format 'xml'"),
        (["IN", "IN"], "is the file that is read"),
        (["IN", "no/folder/out.jsonl"], "cannot be written: No such file or directory"),
        (["IN", "out.conll", "--scheme", "IOB7"], "scheme must be one of"),
    ],
)
def test_wrong_calls_are_explained(source, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    result = run(*(source if word == "IN" else word for word in words))
    assert result.exit_code == 1
    assert message in result.stderr
    assert sorted(tmp_path.iterdir()) == before


def test_a_file_without_records_is_an_error(tmp_path):
    (tmp_path / "a.csv").write_text("id,text\n", encoding="utf-8")
    with pytest.raises(DataError, match="holds no text"):
        convert(tmp_path / "a.csv", tmp_path / "b.jsonl")


def test_a_split_of_a_named_set(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    with gzip.open(tmp_path / "mine" / "dev.jsonl.gz", "wt") as file:
        file.write('{"tokens": ["Ann"], "labels": ["B-person"]}\n')
    monkeypatch.setenv("NOMINA_DATA", str(tmp_path))
    assert convert("mine:dev", tmp_path / "out.conll").num_entities == 1
    with pytest.raises(DataError, match="no such file"):
        convert("mine:test", tmp_path / "out.conll")


def side_records(path):
    return [json.loads(line) for line in Path(f"{path}.errors.jsonl").read_text().splitlines()]


def test_the_side_file_is_of_this_run(tmp_path):
    source, target = tmp_path / "a.csv", tmp_path / "b.jsonl"
    source.write_text("id,text\n1\n")
    with pytest.raises(DataError, match=r"holds no text. .* All are in .*b.jsonl.errors.jsonl"):
        convert(source, target, skip_errors=True)
    assert side_records(target)[0]["reason"] == "the row has 1 columns, the header has 2"
    source.write_text("id,text\n1,fine\n")
    assert convert(source, target, skip_errors=True).errors == ""
    assert sorted(os.listdir(tmp_path)) == ["a.csv", "b.jsonl"]


def test_the_side_file_of_a_target_is_not_its_source(tmp_path):
    source = tmp_path / "o.csv.errors.jsonl"
    source.write_text('{"raw": "fine"}\n{}\n')
    options = FileOptions(text_column="raw")
    with pytest.raises(DataError, match="what cannot be read would be written to it"):
        convert(source, tmp_path / "o.csv", skip_errors=True, options=options)
    assert os.listdir(tmp_path) == [source.name]


def test_an_open_quote_keeps_what_it_takes(tmp_path):
    source, target = tmp_path / "a.csv", tmp_path / "b.jsonl"
    source.write_text('id,text\n0,ok\n1,"open\n2,fine\n3,good\n')
    assert convert(source, target, skip_errors=True).num_examples == 1
    (record,) = side_records(target)
    assert record["place"].endswith("a.csv:3")
    assert "in a quote over 3 lines" in record["reason"]
    assert record["raw"] == '1,"open\n2,fine\n3,good'


@pytest.fixture
def pipe():
    """Makes a pipe that holds bytes (64 KiB at most), and gives its name."""
    opened = []

    def fill(data):
        source, sink = os.pipe()
        opened.append(source)
        os.write(sink, data)
        os.close(sink)
        return f"/dev/fd/{source}"

    yield fill
    for number in opened:
        os.close(number)


def test_a_pipe_is_read_once(pipe, tmp_path):
    """Its head went to the guess: 17,437 of 20,000 texts were left, the first a fragment."""
    path = pipe(b"in\tO\nParis\tB-city\n\n" * 1000)
    with pytest.raises(DataError, match=r"is a pipe .* only once. Name its format with --from"):
        convert(path, tmp_path / "out.jsonl")
    done = convert(path, tmp_path / "out.jsonl", from_format="conll")
    assert (done.num_examples, done.num_entities) == (1000, 1000)
    with pytest.raises(DataError, match="Save the JSON array to a file first"):
        convert(pipe(b'[{"text": "a"}]'), tmp_path / "out.jsonl", from_format="nomina")


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_predictions_in_a_pipe(pipe, pack):
    path = pipe(pack(b'{"id": "a"}\n' * 5))
    assert [row for _, row in read_json_lines(path)] == [{"id": "a"}] * 5
