"""Tables with a text column: CSV, TSV, Parquet, and Hugging Face `datasets`.

A row is a record of our JSON lines whose `entities` stand in their own column, in CSV as JSON; rows
with `tokens` and `ner_tags` (or `labels`) are read as well. Other columns are kept in `extra`.
"""

from __future__ import annotations

import csv
import difflib
import itertools
import json
import shutil
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nomina.corpora.corpus import Report
from nomina.corpora.files import (
    BadLine,
    check_writable,
    read_lines,
    take_bad_line,
    write_whole,
    write_whole_folder,
    write_whole_path,
)
from nomina.corpora.jsonl import (
    DIALECTS,
    TEXT_LEFT_OUT,
    label_table,
    say_why,
    scored_entities,
)
from nomina.entities import Example
from nomina.errors import DataError, MissingExtraError

_encode = json.JSONEncoder(ensure_ascii=False).encode
_COLUMNS = ("id", "text", "entities", "offsets", "label_set", "source")
_SAMPLE = 1000  # rows looked at for further columns; a table's header stands first
_WORDS, _TAGS = ("tokens", "words"), ("ner_tags", "labels", "tags")


# --------------------------------------------------------------------------------------------------
# Rows


def _find_text(columns: Sequence[str], wanted: str, place: str) -> str:
    name = wanted or "text"
    if name in columns:
        return name
    folded = {column.strip().casefold(): column for column in columns}
    if not wanted and "text" in folded:
        return folded["text"]
    close = difflib.get_close_matches(name, columns, n=1, cutoff=0.5)
    hint = f"Did you mean --text-column {close[0]!r}?" if close else "Name it with --text-column."
    raise DataError(
        f"{place}: there is no column {name!r}; the columns are {list(columns)}. {hint}"
    )


def _parse_row(
    row: Mapping[str, Any], text_column: str, report: Report, place: str, index: str
) -> Example | None:
    record = {key: value for key, value in row.items() if value is not None}
    if not text_column:
        return DIALECTS["gner"].parse(record, report, place, index)
    if text_column != "text":
        if "text" in record:
            report.lose(TEXT_LEFT_OUT, place)
        record["text"] = record.pop(text_column, None)
    if record.get("text") is None:
        raise DataError("the text is missing (null)")
    if record.get("is_joined") == "true":  # the one field of ours that is not text
        record["is_joined"] = True
    for key in ("entities", "offsets", "label_set"):
        if isinstance(value := record.get(key), str):
            if value.strip():
                try:
                    record[key] = json.loads(value)
                except ValueError as error:
                    raise DataError(f"column {key!r} must hold JSON: {error}") from error
            else:
                del record[key]
    return DIALECTS["nomina"].parse(record, report, place, index)


def _parse_rows(
    rows: Iterable[tuple[str, Mapping[str, Any]]], text_column: str, report: Report
) -> Iterator[Example]:
    for index, (place, row) in enumerate(rows):
        try:
            example = _parse_row(row, text_column, report, place, str(index))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raw = json.dumps(row, ensure_ascii=True, default=str)
            shape = DIALECTS["nomina" if text_column else "tokens"].shape
            report.reject(place, say_why(error, place, "a row with such columns", shape), raw)
        else:
            if example is not None:
                yield example


def _render_row(example: Example, report: Report) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": example.id or None,
        "text": example.text,
        "entities": [entity.to_dict() for entity in scored_entities(example)],
        "offsets": None if example.has_default_words else [list(x) for x in example.offsets],
        "label_set": None if example.labels is None else label_table(example.labels),
        "source": example.source or None,
    }
    for key, value in example.extra.items():
        if key in _COLUMNS:
            report.lose(f"fields left out, because the target has its own: {key}")
        elif key != "scores":
            row[key] = value
    return row


# --------------------------------------------------------------------------------------------------
# CSV, TSV


def guess_delimiter(header: str) -> str:
    r"""Return the sign that parts the columns of a header line: tab, comma or semicolon.

    Example:
        >>> guess_delimiter("id;text;note, if any")
        ';'
    """
    return max("\t,;", key=header.count)


def read_csv(path: Path, report: Report, text_column: str = "") -> Iterator[Example]:
    """Yield the rows of a CSV or TSV file with a header.

    Args:
        path: The file.
        report: Where losses are counted and bad rows set aside.
        text_column: Name of the column with the text. Defaults to `text`.

    Raises:
        DataError: If the text column is missing or the header is malformed; unless errors are
            skipped, for a malformed row.
    """
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    bad: deque[BadLine] = deque()
    numbered = read_lines(path, bad, keep_ends=True)
    head = next(numbered, None)
    if head is None:
        return
    lines = _Numbered(itertools.chain([head], numbered))
    reader = csv.reader(lines, delimiter=guess_delimiter(head[1]), strict=True)
    try:
        columns = next(reader)
    except (csv.Error, StopIteration) as error:
        raise DataError(f"{path}:1: is not CSV: {error}") from error
    if bad:
        raise DataError(f"{path}:{bad[0].number}: {bad[0].reason}")
    text_name = _find_text(columns, text_column, f"{path}:1")
    doubled = sorted({column for column in columns if columns.count(column) > 1})
    if doubled:
        raise DataError(f"{path}:1: two columns have the same name: {doubled}. Rename one.")
    rows = _csv_rows(path, reader, lines, bad, columns, report)
    yield from _parse_rows(rows, text_name, report)


class _Numbered:
    """Lines for a reader of CSV, which counts only those that it is given.

    Attributes:
        taken: The lines taken since this was emptied, with their numbers.
    """

    def __init__(self, lines: Iterable[tuple[int, str]]) -> None:
        self._lines = iter(lines)
        self.taken: list[tuple[int, str]] = []

    def __iter__(self) -> _Numbered:
        return self

    def __next__(self) -> str:
        numbered = next(self._lines)
        self.taken.append(numbered)
        return numbered[1]


def _csv_rows(
    path: Path,
    reader: Any,
    lines: _Numbered,
    bad: deque[BadLine],
    columns: list[str],
    report: Report,
) -> Iterator[tuple[str, dict[str, Any]]]:
    optional = {"id", "entities", "offsets", "label_set", "source"}
    while True:
        lines.taken.clear()
        row, reason = [], ""
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            reason = f"is not CSV: {error}"
            if (count := len(lines.taken)) > 1:
                reason += f" (in a quote over {count} lines, all set aside)"
        if not (row or reason):
            continue
        line, last = lines.taken[0][0], lines.taken[-1][0]
        if bad_line := take_bad_line(bad, last):
            line, reason = bad_line
        elif not reason and len(row) != len(columns):
            reason = f"the row has {len(row)} columns, the header has {len(columns)}"
        if reason:
            raw = "".join(text for _, text in lines.taken).removesuffix("\n")
            report.reject(f"{path}:{line}", reason, raw)
            continue
        pairs = zip(columns, row, strict=True)
        # An empty cell of ours is "none"; of another column it is what the table says.
        yield f"{path}:{line}", {k: v for k, v in pairs if v != "" or k not in optional}


def write_csv(
    examples: Iterable[Example], path: Path, report: Report, delimiter: str = ","
) -> None:
    """Write a table with the columns id, text, entities (JSON) and what else the examples have.

    Raises:
        DataError: If the file cannot be written.
    """
    rows = (_render_checked(example, path, report) for example in examples)
    sample = list(itertools.islice(rows, _SAMPLE))
    columns = ["id", "text", "entities"]
    columns += [k for k in _COLUMNS[3:] if any(row[k] is not None for row in sample)]
    columns += list(dict.fromkeys(key for row in sample for key in row if key not in _COLUMNS))
    known = set(columns)
    with write_whole(path) as file:
        writer = csv.writer(file, delimiter=delimiter, lineterminator="\r\n")
        writer.writerow(columns)
        for row in itertools.chain(sample, rows):
            for key, value in row.items():
                if key not in known and value is not None:
                    report.lose(f"fields left out, first seen after row {_SAMPLE}: {key}")
            writer.writerow([_csv_cell(row.get(key), report) for key in columns])


def _render_checked(example: Example, path: Path, report: Report) -> dict[str, Any]:
    check_writable(example.text, path, f"example {example.id}")
    for key, value in example.extra.items():
        if key not in ("scores", "is_joined") and value is not None and not isinstance(value, str):
            report.lose(f"values that become text: {key}")
    return _render_row(example, report)


def _csv_cell(value: Any, report: Report) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    try:
        return _encode(value)
    except (TypeError, ValueError):
        report.lose(f"values written as plain text: {type(value).__name__}")
        return str(value)


def read_tsv(path: Path, report: Report, text_column: str = "") -> Iterator[Example]:
    """Yield the rows of a TSV file: `read_csv`, which finds the delimiter itself."""
    return read_csv(path, report, text_column)


def write_tsv(examples: Iterable[Example], path: Path, report: Report) -> None:
    """Write a table parted by tabs: `write_csv`."""
    write_csv(examples, path, report, delimiter="\t")


# --------------------------------------------------------------------------------------------------
# Parquet


def read_parquet(path: Path, report: Report, text_column: str = "") -> Iterator[Example]:
    """Yield the rows of a Parquet file with a text column, or with columns of words and tags.

    Tags may be numbers if the file carries the names of Hugging Face's `ClassLabel`.

    Raises:
        MissingExtraError: If pyarrow is not installed.
        DataError: If the file is not Parquet or a column is missing; unless errors are skipped, for
            a malformed row.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "tables") from error
    try:
        file = pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: is not a Parquet file: {error}") from error
    with file:
        metadata = (file.schema_arrow.metadata or {}).get(b"huggingface", b"{}")
        names = _class_names(json.loads(metadata).get("info", {}).get("features", {}))
        rows = (row for batch in file.iter_batches(batch_size=4096) for row in batch.to_pylist())
        yield from _read_columns(
            rows, file.schema_arrow.names, names, str(path), text_column, report
        )


def _class_names(features: Mapping[str, Any]) -> dict[str, list[str]]:
    found = {}
    for column, feature in features.items():
        inner = feature.get("feature", feature) if isinstance(feature, dict) else {}
        if isinstance(inner, dict) and isinstance(inner.get("names"), list):
            found[column] = inner["names"]
    return found


def _read_columns(
    rows: Iterable[dict[str, Any]],
    columns: Sequence[str],
    names: Mapping[str, list[str]],
    where: str,
    text_column: str,
    report: Report,
) -> Iterator[Example]:
    words = next((key for key in _WORDS if key in columns), None)
    tags = next((key for key in _TAGS if key in columns), None)
    if words and tags and not text_column:

        def tagged() -> Iterator[tuple[str, dict[str, Any]]]:
            for number, row in enumerate(rows, start=1):
                row["tokens"], row["labels"] = row.pop(words), row.pop(tags)
                if tags in names and row["labels"] is not None:
                    row["labels"] = [names[tags][x] if x >= 0 else "O" for x in row["labels"]]
                yield f"{where}: row {number}", row

        yield from _parse_rows(tagged(), "", report)
        return
    text_name = _find_text(columns, text_column, where)
    numbered = ((f"{where}: row {number}", row) for number, row in enumerate(rows, start=1))
    yield from _parse_rows(numbered, text_name, report)


def write_parquet(examples: Iterable[Example], path: Path, report: Report) -> None:
    """Write a Parquet file; entities are a list of structs, what is not plain is JSON.

    Raises:
        MissingExtraError: If pyarrow is not installed.
        DataError: If the file cannot be written.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingExtraError("pyarrow", "tables") from error
    rows = (_render_row(example, report) for example in examples)
    sample = list(itertools.islice(rows, _SAMPLE))
    others = list(dict.fromkeys(key for row in sample for key in row if key not in _COLUMNS))
    entity = pa.struct(
        [
            ("text", pa.string()),
            ("label", pa.string()),
            ("start", pa.int64()),
            ("end", pa.int64()),
            ("score", pa.float64()),
        ]
    )
    fields = [("id", pa.string()), ("text", pa.string()), ("entities", pa.list_(entity))]
    fields += [("offsets", pa.list_(pa.list_(pa.int64()))), ("label_set", pa.string())]
    fields += [("source", pa.string()), *((key, pa.string()) for key in others)]
    schema = pa.schema(fields)
    plain = {"id", "text", "entities", "offsets", "source"}
    with write_whole_path(path) as temporary:
        try:
            with pq.ParquetWriter(temporary, schema) as writer:
                chain = itertools.chain(sample, rows)
                while batch := list(itertools.islice(chain, 4096)):
                    for row in batch:
                        for key in [key for key in row if key not in schema.names]:
                            report.lose(f"fields left out, first seen after row {_SAMPLE}: {key}")
                            del row[key]
                        for key in row:
                            if key not in plain and row[key] is not None:
                                row[key] = _csv_cell(row[key], report)
                    writer.write_table(pa.Table.from_pylist(batch, schema=schema))
        except (pa.ArrowInvalid, UnicodeEncodeError) as error:
            raise DataError(f"{path}: cannot be written: {error}") from error


# --------------------------------------------------------------------------------------------------
# Hugging Face datasets


def read_dataset(source: Any, report: Report, text_column: str = "") -> Iterator[Example]:
    """Yield the rows of a Hugging Face dataset.

    Args:
        source: A `datasets.Dataset`, or the path of a folder that `save_to_disk` wrote.
        report: Where losses are counted and bad rows set aside.
        text_column: Name of the column with the text. Defaults to `text`.

    Raises:
        MissingExtraError: If `datasets` is not installed.
        DataError: If the folder is not such a dataset, has several splits, or a column is missing.
    """
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError("datasets", "datasets") from error
    where = "dataset"
    if isinstance(source, (str, Path)):
        where = str(source)
        try:
            source = datasets.load_from_disk(where)
        except (OSError, ValueError) as error:
            raise DataError(f"{where}: is not a folder that save_to_disk wrote: {error}") from error
    if isinstance(source, datasets.DatasetDict):
        splits = ", ".join(str(Path(where) / name) for name in source)
        raise DataError(f"{where}: holds several splits. Give one of them: {splits}")
    names = _class_names(source.features.to_dict())
    yield from _read_columns(source, source.column_names, names, where, text_column, report)


def write_dataset(examples: Iterable[Example], path: Path, report: Report) -> None:
    """Write a folder that `datasets.load_from_disk` reads.

    Raises:
        MissingExtraError: If `datasets` is not installed.
        DataError: If the folder exists and is not empty.
    """
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError("datasets", "datasets") from error
    with write_whole_folder(path) as folder:
        parquet = folder / "rows.parquet"
        write_parquet(examples, parquet, report)
        cache = folder / "cache"
        dataset = datasets.Dataset.from_parquet(str(parquet), cache_dir=str(cache))
        dataset.save_to_disk(str(folder / "out"))
        del dataset
        parquet.unlink()
        for file in (folder / "out").iterdir():
            file.rename(folder / file.name)
        (folder / "out").rmdir()
        shutil.rmtree(cache, ignore_errors=True)
