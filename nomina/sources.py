"""Where texts come from: files, folders and streams of any kind, one text at a time.

A plain text file is one text, or a text a line if asked for (logs). JSON lines are a text a line,
told by their content or by the ending `.jsonl`; tables (CSV, TSV, Parquet) are a text a row;
corpora (`.json`, `.conll`, `.spacy`, a folder of datasets) give their texts without what is marked.
What cannot be read ends the reading with file and line, or is set aside through a `Report`, and the
rest goes on.

Knows nothing of labels or models.
"""

from __future__ import annotations

import json
import os
import re
import stat
import zlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

from nomina.corpora import FileOptions, Report, read_examples
from nomina.corpora.files import MAX_LINE_BYTES, check_is_text, open_bytes
from nomina.corpora.jsonl import read_records
from nomina.errors import DataError

_FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".spacy": "spacy",
    ".conll": "conll",
    ".json": None,  # several tools write it: the content says which
}
_LINES = (".jsonl", ".ndjson")
STDIN = "standard input"


@dataclass(frozen=True)
class Source:
    """A text and where it stands.

    Attributes:
        text: The text.
        id: What its record calls it, or the number of its line where lines are texts; None if
            nothing.
        file: The file it comes from; empty for none.
    """

    text: str
    id: Any = None
    file: str = ""


def read_files(
    names: Iterable[str],
    stdin: IO[bytes],
    report: Report,
    text_column: str = "",
    *,
    by_line: bool = False,
    written: Collection[tuple[int, int]] = (),
) -> Iterator[Source]:
    """Yield the texts of files, one file after the other.

    Args:
        names: Paths of files or folders, whose files are read in the order of their names (hidden
            ones are not, and links back to a folder around them are not followed); `-` for
            standard input.
        stdin: What to read for `-`.
        report: Where bad records and files are set aside, if it skips errors.
        text_column: Column or key that holds the text. Defaults to `text`.
        by_line: Whether each line of plain text is a text of its own; empty lines are none.
        written: Device and inode of files that are written meanwhile; in a folder they are no
            texts, or what is written would be read without end.

    Raises:
        DataError: If one of the files is written meanwhile; unless errors are skipped, if a file
            or record cannot be read. Names file and line.
        MissingExtraError: If a format needs a package that is not installed.
    """
    for name in names:
        if name == "-":
            texts = read_texts(stdin, STDIN, report, key=text_column, by_line=by_line)
            yield from _read(STDIN, texts, report)
            continue
        for path in _walk(Path(name), report):
            if written and file_key(path) in written:
                if str(path) == str(Path(name)):
                    raise DataError(f"{path}: is written to, and cannot be read too")
                continue
            yield from _read(str(path), _read_path(path, report, text_column, by_line), report)


def file_key(path: Path | int) -> tuple[int, int] | None:
    """Return what tells a file (or what is open under a number) from others, if it is one."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if stat.S_ISREG(found.st_mode) else None


def _walk(
    path: Path, report: Report, above: frozenset[tuple[int, int]] = frozenset()
) -> Iterator[Path]:
    """Yield the files of a folder; `above` are the folders on the way to it, as links lead back."""
    try:
        is_leaf = not path.is_dir() or any(
            (path / name).exists() for name in ("dataset_info.json", "dataset_dict.json")
        )
        children = [] if is_leaf else sorted(path.iterdir())
        found = None if is_leaf else path.stat()
    except OSError as error:  # no permission, a name too long
        report.reject(str(path), f"cannot be read: {error.strerror}")
        return
    if found is None:
        yield path
        return
    key = (found.st_dev, found.st_ino)
    if key in above:
        return
    for child in children:
        # what brat marked in the text beside it is no text
        is_marks = child.suffix == ".ann" and child.with_suffix(".txt").exists()
        if not child.name.startswith(".") and not is_marks:
            yield from _walk(child, report, above | {key})


def _read_path(path: Path, report: Report, text_column: str, by_line: bool) -> Iterator[Source]:
    suffix = (path.with_suffix("") if path.suffix == ".gz" else path).suffix.lower()
    if suffix == ".json" and text_column:
        yield from _read_key(path, report, text_column)
        return
    if suffix in _FORMATS or path.is_dir():
        options = FileOptions(text_column=text_column)
        for example in read_examples(path, _FORMATS.get(suffix), options, report):
            yield Source(example.text, example.id or None, str(path))
        return
    with open_bytes(path) as stream:
        is_lines = True if suffix in _LINES else None
        yield from read_texts(
            stream, str(path), report, is_lines=is_lines, key=text_column, by_line=by_line
        )


def _read_key(path: Path, report: Report, key: str) -> Iterator[Source]:
    """Yield what stands under a key in the objects of a JSON file, or in their `data`."""
    for place, record, raw in read_records(path, report):
        held = record if isinstance(record, dict) else {}
        if key not in held and isinstance(held.get("data"), dict):  # a task of Label Studio
            held = held["data"]
        if isinstance(held.get(key), str):
            yield Source(held[key], record.get("id"), str(path))
        else:
            report.reject(place, f"expected an object with a string `{key}`", raw)


def _read(name: str, sources: Iterator[Source], report: Report) -> Iterator[Source]:
    """Hand texts through; an error that ends the file is set aside like that of a record."""
    try:
        yield from sources
    except DataError as error:
        if not report.skip_errors:
            raise
        message = str(error)
        place = re.match(rf"{re.escape(name)}(:\d+|: (?:row|record|doc) \d+)?: ", message)
        reason = message[place.end() :] if place else message
        report.reject(place.group()[:-2] if place else name, reason)
    except (OSError, EOFError, zlib.error) as error:
        report.reject(name, f"cannot be unpacked: {error}")


# --------------------------------------------------------------------------------------------------
# Streams of text or JSON lines


class _Line(NamedTuple):
    number: int
    text: str  # as far as it could be read
    problem: str = ""


def read_texts(
    stream: IO[bytes],
    name: str,
    report: Report,
    *,
    is_lines: bool | None = None,
    key: str = "",
    by_line: bool = False,
) -> Iterator[Source]:
    """Yield the texts of a stream: a JSON object with `text` a line, or else all of it as one text.

    Args:
        stream: Bytes; read line by line if it is JSON lines, so it may be endless.
        name: Of the file, for messages.
        report: Where bad lines are set aside, if it skips errors. A text with a bad line is set
            aside as a whole.
        is_lines: Whether it is JSON lines. Defaults to what the first line looks like.
        key: Key of the text. Defaults to `text`.
        by_line: Whether each line is a text of its own where the stream is not JSON lines.

    Raises:
        DataError: If the stream is binary; unless errors are skipped, if it is not UTF-8, a line is
            longer than 64 MiB, or one is no such object; names the line.
    """
    is_named, key = bool(key), key or "text"
    file = "" if name == STDIN else name
    lines = _lines(stream, name)
    head: list[_Line] = []
    for line in lines:
        head.append(line)
        if line.text.strip() or line.problem:
            break
    if is_lines is None:
        is_lines = bool(head) and not head[-1].problem and _has_text(head[-1].text, key, is_named)
    if not is_lines:
        read = _each if by_line else _whole
        yield from read(_chain(head, lines), name, file, report)
        return
    for line in _chain(head, lines):
        place = f"{name}:{line.number}"
        if line.problem:
            report.reject(place, line.problem, line.text)
        elif line.text.strip():
            try:
                record = json.loads(line.text)
                reason = "" if isinstance(record, dict) else f"was: {type(record).__name__}"
                if not reason and not isinstance(record.get(key), str):
                    reason = f"its keys are {sorted(record)[:8]}"
            except (ValueError, RecursionError) as error:
                reason = str(error)
            if reason:
                report.reject(
                    place, f"expected a JSON object with a string `{key}`: {reason}", line.text
                )
            else:
                yield Source(record[key], record.get("id"), file)


def _whole(lines: Iterator[_Line], name: str, file: str, report: Report) -> Iterator[Source]:
    parts = []
    for line in lines:
        if reason := _fault(line):
            report.reject(f"{name}:{line.number}", reason, line.text)
            return
        parts.append(line.text)
    yield Source("".join(parts), None, file)


def _each(lines: Iterator[_Line], name: str, file: str, report: Report) -> Iterator[Source]:
    for line in lines:
        if reason := _fault(line):
            report.reject(f"{name}:{line.number}", reason, line.text)
        elif line.text.strip():
            yield Source(line.text.rstrip("\r\n"), line.number, file)


def _fault(line: _Line) -> str:
    zero = line.text.find("\0")
    if zero >= 0 and not line.problem:
        return f"a NUL character in column {zero + 1}: is it a text file?"
    return line.problem


def _chain(head: list[_Line], rest: Iterator[_Line]) -> Iterator[_Line]:
    yield from head
    yield from rest


def _has_text(line: str, key: str, is_named: bool) -> bool:
    if not line.lstrip().startswith("{"):
        return False
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return False
    # who names a key has records; a first one without it is an error and not plain text
    return isinstance(record, dict) and (is_named or key in record)


def _lines(stream: IO[bytes], name: str) -> Iterator[_Line]:
    position = 0
    number = 0
    while data := stream.readline(MAX_LINE_BYTES + 1):
        number += 1
        if number == 1:
            check_is_text(Path(name), data)
        start, position = position, position + len(data)
        if len(data) > MAX_LINE_BYTES:
            while data and not data.endswith(b"\n"):
                data = stream.readline(2**20)
                position += len(data)
            limit = MAX_LINE_BYTES // 2**20
            problem = f"the line is longer than {limit} MiB ({(position - start) / 2**20:.0f} MiB)"
            yield _Line(number, "", problem)
            continue
        try:
            yield _Line(number, data.decode("utf-8-sig" if number == 1 else "utf-8"))
        except UnicodeDecodeError as error:
            problem = (
                f"not UTF-8 at byte {start + error.start}: "
                f"{data[error.start : error.start + 4]!r}. Convert it, for instance with: "
                f"iconv -f WINDOWS-1252 -t UTF-8 {name}"
            )
            yield _Line(number, data.decode("utf-8", "backslashreplace"), problem)
