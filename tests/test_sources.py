"""Texts from files of any kind: every one is read, or set aside with its place and a reason."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import nomina
from nomina import sources
from nomina.cli import app
from nomina.corpora import Report
from nomina.errors import DataError
from nomina.sources import Source, file_key, read_files, read_texts

GOOD = ["did george act", "in 1980"]


def read(*names, skip=False, **options):
    report = Report(skip_errors=skip)
    texts = list(read_files([str(n) for n in names], io.BytesIO(b"piped"), report, **options))
    return texts, [(x.place, x.reason) for x in report.rejected]


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def test_files_of_all_kinds(tmp_path):
    rows = "".join(json.dumps({"text": text, "id": i}) + "\n" for i, text in enumerate(GOOD))
    files = {
        "a.txt": "\ufeffone\ntext\n",
        "b.jsonl": rows,
        "c.csv": "note,text\nx,did george act\ny,in 1980\n",
        "d.conll": "did O\ngeorge B-actor\n\nin O\n",
        "e/f.jsonl.gz": gzip.compress(rows.encode()),
        "e/g.json": json.dumps([{"text": text, "entities": []} for text in GOOD]),
        "e/h.md": "",
    }
    for name, data in files.items():
        write(tmp_path / name, data)
    write(tmp_path / ".hidden", b"\0")
    write(tmp_path / "a.ann", "T1\tactor 0 3\tone\n")  # brat's marks of a.txt
    texts, _ = read(tmp_path)
    by_file = {}
    for source in texts:
        by_file.setdefault(source.file.removeprefix(f"{tmp_path}/"), []).append(source.text)
    two = GOOD
    assert by_file == {
        **{"a.txt": ["one\ntext\n"], "b.jsonl": two, "c.csv": two, "d.conll": ["did george", "in"]},
        **{"e/f.jsonl.gz": two, "e/g.json": two, "e/h.md": [""]},
    }
    assert [s.id for s in texts if s.file.endswith("b.jsonl")] == [0, 1]
    assert read("-")[0] == [Source("piped")]


def test_columns_and_keys_are_named(tmp_path):
    csv = write(tmp_path / "a.csv", "body;n\nin 1980;1\n")
    lines = write(tmp_path / "a.jsonl", '{"body": "in 1980"}\n')
    for path in (csv, lines):
        assert [s.text for s in read(path, text_column="body")[0]] == ["in 1980"]
        with pytest.raises(DataError, match=r"text"):
            read(path)


BAD = {
    "binary.txt": (b"\x7fELF\0\0", "binary.txt", "binary file"),
    "binary.csv": (b"text\n\0\0", "binary.csv", "binary file"),
    "late.txt": (b"fine\nthen\0\n", "late.txt:2", "NUL character in column 5"),
    "utf16.txt": ("text".encode("utf-16"), "utf16.txt:1", "UTF-16"),
    "latin.txt": (b"one\ncaf\xe9\n", "latin.txt:2", "not UTF-8 at byte 7"),
    "column.csv": (b"body\nx\n", "column.csv:1", "no column 'text'"),
    "row.csv": (b"text,n\nx\n", "row.csv:2", "1 columns"),
    "broken.jsonl": (b'{"text": "a"\n', "broken.jsonl:1", "expected a JSON object"),
    "array.jsonl": (b"[1]\n", "array.jsonl:1", "was: list"),
    "key.jsonl": (b'{"body": "a"}\n', "key.jsonl:1", "'body'"),
    "null.jsonl": (b'{"text": null}\n', "null.jsonl:1", "string `text`"),
    "byte.jsonl": (b'{"text": "\xe9"}\n', "byte.jsonl:1", "not UTF-8"),
    "deep.jsonl": (b'{"text": ' + b"[" * 100_000 + b"\n", "deep.jsonl:1", "expected a JSON"),
    "odd.json": (b'{"x": 1}', "odd.json: record 1", "kind of record"),
    "not.parquet": (b"text", "not.parquet", "Parquet"),
    "not.spacy": (b"text", "not.spacy", "DocBin"),
    "cut.jsonl.gz": (gzip.compress(b'{"text": "a"}\n' * 99)[:20], "cut.jsonl.gz", "unpacked"),
    "missing.txt": (None, "missing.txt", "cannot be read"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_read_ends_or_is_set_aside(tmp_path, name):
    data, place, reason = BAD[name]
    path = tmp_path / name if data is None else write(tmp_path / name, data)
    good = write(tmp_path / "good.txt", "fine")
    with pytest.raises(DataError) as error:
        read(path, good)
    assert f"{tmp_path}/{place}: " in str(error.value)
    assert reason in str(error.value)
    texts, rejected = read(path, good, skip=True)
    assert texts[-1].text == "fine"
    assert [p for p, _ in rejected] == [f"{tmp_path}/{place}"]
    assert reason in rejected[0][1]


def test_a_link_back_to_its_folder_is_not_followed(tmp_path):
    write(tmp_path / "loop" / "a.txt", "hello")
    write(tmp_path / "loop" / "deep" / "b.txt", "in 1980")
    try:
        (tmp_path / "loop" / "loop").symlink_to(".")
        (tmp_path / "loop" / "again").symlink_to("deep")  # not around itself: followed
    except OSError:
        pytest.skip("needs links")
    texts, bad = read(tmp_path / "loop", skip=True)
    assert [source.text for source in texts] == ["hello", "in 1980", "in 1980"]
    assert not bad


def test_one_bad_line_costs_one_line(tmp_path):
    good = [json.dumps({"text": text}).encode() for text in GOOD]
    path = write(tmp_path / "x.jsonl", b"\n".join([good[0], b"{", b"\xff", b"", good[1]]))
    texts, rejected = read(path, skip=True)
    assert [s.text for s in texts] == GOOD
    assert [p for p, _ in rejected] == [f"{path}:2", f"{path}:3"]


def test_a_line_without_end_is_named_and_left(monkeypatch):
    monkeypatch.setattr(sources, "MAX_LINE_BYTES", 100)
    data = b'{"text": "a"}\n' + b"x" * 3_000_000 + b'\n{"text": "b"}\n'
    report = Report(skip_errors=True)
    assert [s.text for s in read_texts(io.BytesIO(data), "f", report)] == ["a", "b"]
    assert [x.place for x in report.rejected] == ["f:2"]
    assert "longer than" in report.rejected[0].reason


def test_an_endless_stream_is_read_as_it_comes():
    class Endless(io.RawIOBase):
        def readline(self, size=-1):
            return b'{"text": "again"}\n'

    stream = read_texts(Endless(), "f", Report())
    assert [s.text for s in itertools.islice(stream, 2)] == ["again", "again"]


@given(st.lists(st.binary(max_size=30), max_size=6), st.booleans())
def test_any_bytes_are_texts_or_set_aside(parts, is_lines):
    data = b"\n".join(parts)
    report = Report(skip_errors=True)
    try:
        texts = [s.text for s in read_texts(io.BytesIO(data), "f", report, is_lines=is_lines)]
    except DataError:
        return  # binary: the whole file
    if not is_lines:
        assert len(texts) + len(report.rejected) == 1
        assert report.rejected or texts[0].encode() == data.removeprefix(b"\xef\xbb\xbf")
    else:
        lines = [x for x in data.split(b"\n") if x.decode("utf-8", "replace").strip()]
        assert len(texts) + len(report.rejected) in (len(lines), len(lines) - 1)


# --------------------------------------------------------------------------------------------------
# On the command line


@pytest.fixture
def extract(tagger, monkeypatch, tmp_path):
    monkeypatch.setattr(nomina, "load", lambda name=None, **_: tagger, raising=False)
    monkeypatch.chdir(tmp_path)

    def extract(*arguments):
        result = CliRunner().invoke(app, ["extract", "--labels", "actor,year", *arguments])
        rows = [json.loads(x) for x in result.stdout.splitlines() if x.startswith("{")]
        return result, rows

    return extract


def test_errors_go_to_the_side_file(extract, tmp_path):
    write(tmp_path / "in/a.jsonl", b'{"text": "in 1980", "id": "x"}\n{\n')
    write(tmp_path / "in/b.csv", "body\n1\n")
    write(tmp_path / "in/c.txt", "did george act")
    result, rows = extract("--file", "in", "--skip-errors", "bad.jsonl")
    assert result.exit_code == 3
    assert "2 texts read; 2 records or files could not be read" in result.stderr
    assert [(r["text"], r.get("id"), r["file"]) for r in rows] == [
        ("in 1980", "x", "in/a.jsonl"),
        ("did george act", None, "in/c.txt"),
    ]
    bad = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    assert [(b["file"], b["line"]) for b in bad] == [("in/a.jsonl", 2), ("in/b.csv", 1)]
    assert bad[0]["raw"] == "{\n"
    assert "no column 'text'" in bad[1]["reason"]


def test_nothing_bad_is_exit_code_0_and_an_empty_side_file(extract, tmp_path):
    write(tmp_path / "a.txt", "in 1980")
    write(tmp_path / "bad.jsonl", "of an earlier run")
    result, rows = extract("--file", "a.txt", "--skip-errors", "bad.jsonl")
    assert (result.exit_code, len(rows), result.stderr) == (0, 1, "")
    assert "file" not in rows[0]
    assert (tmp_path / "bad.jsonl").read_text() == ""


def test_without_it_the_first_error_stops_behind_what_was_good(extract, tmp_path):
    write(tmp_path / "a.jsonl", b'{"text": "in 1980"}\n{"text": 3}\n{"text": "never"}\n')
    result, rows = extract("--file", "a.jsonl")
    assert result.exit_code == 1
    assert [row["text"] for row in rows] == ["in 1980"]
    assert result.stderr.startswith("error: a.jsonl:2: expected a JSON object")


def test_half_surrogates_go_out_as_they_came(extract, tmp_path):
    write(tmp_path / "a.jsonl", '{"text": "a \\ud800 b"}\n')
    result, rows = extract("--file", "a.jsonl")
    assert (result.exit_code, rows[0]["text"]) == (0, "a \ud800 b")


def test_the_side_file_cannot_be_an_input_or_nowhere(extract, tmp_path):
    write(tmp_path / "a.txt", "x")
    assert extract("--file", "a.txt", "--skip-errors", "a.txt")[0].exit_code == 2
    result, _ = extract("--file", "a.txt", "--skip-errors", "no/where")
    assert result.exit_code == 1
    assert "cannot be written" in result.stderr


def test_another_spelling_of_the_input_is_the_input(extract, tmp_path):
    write(tmp_path / "a.jsonl", '{"text": "x"}\n')
    assert extract("--file", "./a.jsonl", "--skip-errors", "a.jsonl")[0].exit_code == 2
    assert (
        extract("--file", str(tmp_path / "a.jsonl"), "--skip-errors", "a.jsonl")[0].exit_code == 2
    )
    assert (tmp_path / "a.jsonl").read_text() == '{"text": "x"}\n'


def test_what_is_written_into_the_folder_is_not_read(extract, tmp_path):
    write(tmp_path / "in/a.jsonl", '{"text": "x"}\n{\n')
    result, rows = extract("--file", "in", "--skip-errors", "in/bad.jsonl")
    assert (result.exit_code, len(rows)) == (3, 1)
    assert len((tmp_path / "in/bad.jsonl").read_text().splitlines()) == 1
    code = "import sys; from nomina.sources import *; from nomina.corpora import Report\n"
    code += "written = {file_key(sys.stdout.fileno())}\n"
    code += "for x in read_files(['in'], sys.stdin.buffer, Report(), written=written):"
    code += " print(x.text, flush=True)"
    (tmp_path / "in/bad.jsonl").unlink()
    write(tmp_path / "in/a.jsonl", '{"text": "x"}\n')
    with open(tmp_path / "in/out.txt", "w") as file:
        subprocess.run([sys.executable, "-c", code], stdout=file, check=True, timeout=60)
    assert (tmp_path / "in/out.txt").read_text() == "x\n"
    key = file_key(tmp_path / "in/a.jsonl")
    with pytest.raises(DataError, match="is written to"):
        read(tmp_path / "in/a.jsonl", written={key})


def test_a_text_that_an_annotator_rejected_is_named(extract, tmp_path):
    rows = [{"text": "x", "spans": [], "answer": "reject"}, {"text": "y", "spans": []}]
    write(tmp_path / "a.json", json.dumps(rows))
    result, rows = extract("--file", "a.json")
    assert [row["text"] for row in rows] == ["y"]
    assert "note: 1 " in result.stderr


@pytest.mark.parametrize(
    ("piped", "key", "message"),
    [
        (b'{"body":"george"}\n{"body":"met"}\n', "bdoy", "a string `bdoy`"),
        (b'{"text": null}\n{"text": "met"}\n', "", "a string `text`"),
    ],
)
def test_a_first_record_without_text_does_not_make_all_one_text(piped, key, message):
    with pytest.raises(DataError, match=message):
        list(read_files(["-"], io.BytesIO(piped), Report(), key))


def test_a_key_names_the_text_in_json_files_too(tmp_path):
    path = write(tmp_path / "a.json", '[{"text": "title", "body": "george", "id": 7}]')
    tasks = write(tmp_path / "b.json", '[{"id": 3, "data": {"body": "met"}}]')
    texts, _ = read(path, tasks, text_column="body")
    assert [(x.text, x.id) for x in texts] == [("george", 7), ("met", 3)]
    with pytest.raises(DataError, match=r"a.json.*a string `bdoy`"):
        read(path, text_column="bdoy")


def test_a_pipe_is_a_file_too(tmp_path):
    for data in (b"in 1980", gzip.compress(b"in 1980")):
        number, out = os.pipe()
        os.write(out, data)
        os.close(out)
        assert [x.text for x in read(f"/dev/fd/{number}")[0]] == ["in 1980"]
        os.close(number)


def test_names_that_cannot_be_are_one_line(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="File name too long"):
        read("x" * 300)

    def forbidden(self):
        raise PermissionError(13, "Permission denied")

    write(tmp_path / "in/a.txt", "x")
    write(tmp_path / "in/b/c.txt", "y")
    listed = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda x: (forbidden if x.name == "b" else listed)(x))
    texts, rejected = read(tmp_path / "in", skip=True)
    assert [x.text for x in texts] == ["x"]
    assert rejected == [(str(tmp_path / "in/b"), "cannot be read: Permission denied")]


def test_each_line_can_be_a_text(tmp_path):
    log = write(tmp_path / "app.log", '\ufeffsshd[1]: up\r\n\n  \nsshd[2]: döwn\n{"a": 1}')
    texts, _ = read(log, by_line=True)
    want = [("sshd[1]: up", 1), ("sshd[2]: döwn", 4), ('{"a": 1}', 5)]
    assert [(source.text, source.id) for source in texts] == want
    assert [source.text for source in read("-", by_line=True)[0]] == ["piped"]
    # JSON lines and tables stay what they are
    rows = write(tmp_path / "b.jsonl", '{"text": "one", "id": "x"}\n')
    assert read(rows, by_line=True)[0] == [Source("one", "x", str(rows))]
    bad = write(tmp_path / "bad.log", b"fine\na\0b\n\xff\nalso fine\n")
    texts, problems = read(bad, skip=True, by_line=True)
    assert [source.text for source in texts] == ["fine", "also fine"]
    assert [place for place, _ in problems] == [f"{bad}:2", f"{bad}:3"]
    with pytest.raises(DataError, match=r"bad\.log:2: a NUL character in column 2"):
        read(bad, by_line=True)
