"""Corpora and files: everything people have labelled text in, read as `Example` and written back.

One file a family of formats; `FORMATS` is the table of them all. `collection` holds the named sets
of `NOMINA_DATA`, `corpus` what all readers share. A new format is one reader and one writer in one
file, and a line in the table. Knows nothing of prompts, tokenizers or models.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from nomina.corpora.collection import data_folder, default_sets, read_index, read_set
from nomina.corpora.conll import guess_columns, read_conll, write_conll
from nomina.corpora.corpus import Corpus, Rejected, Report, collect_labels, paused_gc
from nomina.corpora.docbin import read_docbin, write_docbin
from nomina.corpora.files import check_is_file, check_is_text, read_head
from nomina.corpora.jsonl import guess_dialect, read_dialect, read_records, write_dialect
from nomina.corpora.labelstudio import is_task, read_label_studio, write_label_studio
from nomina.corpora.standoff import read_brat, write_brat
from nomina.corpora.tables import (
    guess_delimiter,
    read_csv,
    read_dataset,
    read_parquet,
    read_tsv,
    write_csv,
    write_dataset,
    write_parquet,
    write_tsv,
)
from nomina.entities import Example, LabelSet
from nomina.errors import DataError

__all__ = [
    "DEFAULT_OPTIONS",
    "FORMATS",
    "Corpus",
    "FileFormat",
    "FileOptions",
    "Rejected",
    "Report",
    "collect_labels",
    "default_sets",
    "guess_format",
    "read_corpus",
    "read_examples",
    "read_index",
    "write_examples",
]


@dataclass(frozen=True)
class FileOptions:
    """What a file does not say of itself.

    Attributes:
        text_column: Column or key that holds the text (tables, JSON); empty for `text`.
        tag_column: Column of the tags in CoNLL, from 1; `None` for the last one that holds tags.
        scheme: Tags to write in CoNLL: "BIO", "IOB1" or "BIOES".
    """

    text_column: str = ""
    tag_column: int | None = None
    scheme: str = "BIO"


DEFAULT_OPTIONS = FileOptions()
_SAMPLE = 1000  # records looked at to tell whose they are


@dataclass(frozen=True)
class FileFormat:
    """A file format: its reader, its writer, and what they are for."""

    name: str
    suffix: str
    about: str
    read: Callable[[Path, Report, FileOptions], Iterator[Example]]
    write: Callable[[Iterable[Example], Path, Report, FileOptions], None]


def _dialect(name: str, about: str) -> FileFormat:
    read, write = read_dialect(name), write_dialect(name)
    return FileFormat(
        name,
        ".jsonl",
        about,
        lambda path, report, options: read(path, report, options.text_column),
        lambda examples, path, report, options: write(examples, path, report),
    )


FORMATS: dict[str, FileFormat] = {
    form.name: form
    for form in (
        _dialect("nomina", "JSON lines: text, entities with offsets and scores; carries all"),
        _dialect("gner", "JSON lines of GNER: instance with words and labels"),
        _dialect("tokens", "JSON lines: tokens and labels (IOB2)"),
        _dialect("gliner", "JSON lines of GLiNER: tokenized_text and ner"),
        _dialect("doccano", "JSON lines of doccano: text and label"),
        _dialect("prodigy", "JSON lines of Prodigy: text, tokens and spans"),
        FileFormat(
            "conll",
            ".conll",
            "a word a line with its tag, 2 to n columns, IOB1, IOB2, BIOES",
            lambda path, report, options: read_conll(path, report, options.tag_column),
            lambda examples, path, report, options: write_conll(
                examples, path, report, options.scheme
            ),
        ),
        FileFormat(
            "spacy",
            ".spacy",
            "spaCy's DocBin (extra: spacy)",
            lambda path, report, options: read_docbin(path, report),
            lambda examples, path, report, options: write_docbin(examples, path, report),
        ),
        FileFormat(
            "brat",
            "",
            "a folder of .txt and .ann files",
            lambda path, report, options: read_brat(path, report),
            lambda examples, path, report, options: write_brat(examples, path, report),
        ),
        FileFormat(
            "label-studio",
            ".json",
            "tasks of Label Studio, JSON or JSON_MIN",
            lambda path, report, options: read_label_studio(path, report, options.text_column),
            lambda examples, path, report, options: write_label_studio(examples, path, report),
        ),
        FileFormat(
            "csv",
            ".csv",
            "a table with a text column, entities as JSON",
            lambda path, report, options: read_csv(path, report, options.text_column),
            lambda examples, path, report, options: write_csv(examples, path, report),
        ),
        FileFormat(
            "tsv",
            ".tsv",
            "the same, parted by tabs",
            lambda path, report, options: read_tsv(path, report, options.text_column),
            lambda examples, path, report, options: write_tsv(examples, path, report),
        ),
        FileFormat(
            "parquet",
            ".parquet",
            "the same as Parquet (extra: tables)",
            lambda path, report, options: read_parquet(path, report, options.text_column),
            lambda examples, path, report, options: write_parquet(examples, path, report),
        ),
        FileFormat(
            "dataset",
            "",
            "a folder of Hugging Face datasets (extra: datasets)",
            lambda path, report, options: read_dataset(path, report, options.text_column),
            lambda examples, path, report, options: write_dataset(examples, path, report),
        ),
    )
}


# --------------------------------------------------------------------------------------------------
# Reading and writing


def read_corpus(
    name: str,
    split: str | None = None,
    *,
    file_format: str | None = None,
    options: FileOptions = DEFAULT_OPTIONS,
    report: Report | None = None,
) -> Corpus:
    """Read a corpus by name (`conll2003`, `conll2003:dev`) or by the path of a file.

    Args:
        name: A path; else `NAME` or `NAME:SPLIT` of a set in the folder of `NOMINA_DATA`.
        split: `train`, `dev` or `test`; the same as writing it behind the name. Defaults to the
            first of these that the set has. Only a name for a file.
        file_format: A key of `FORMATS`, for a file. Defaults to what its content says.
        options: What a file does not say of itself.
        report: Where losses are counted, and bad records set aside. Defaults to a new one that
            raises at the first bad record.

    Raises:
        DataError: If there is no such set, split or file, or it is malformed, or has no example.
    """
    path = Path(name)
    if not path.exists():
        if "/" in name or "\\" in name or path.suffix or file_format:
            raise DataError(f"{name}: no such file.")
        set_name, _, own_split = name.partition(":")
        if split and own_split and split != own_split:
            raise DataError(f"the split is {own_split!r} in {name!r}, but {split!r} was asked for")
        return read_set(set_name, split or own_split)
    report = Report() if report is None else report
    with paused_gc():
        examples = list(read_examples(path, file_format, options, report))
    if not examples:
        raise DataError(f"{name}: holds no text. {' '.join(report.lines())}".rstrip())
    labels = collect_labels(examples)
    if labels is None:
        report.lose("texts without any entity: the file names no labels", str(path), len(examples))
        labels = LabelSet.of(["entity"])
    return Corpus(name, split or "", examples, labels, report.lines())


def read_examples(
    path: Path | str,
    file_format: str | None = None,
    options: FileOptions = DEFAULT_OPTIONS,
    report: Report | None = None,
) -> Iterator[Example]:
    """Yield the examples of a file one by one; what `read_corpus` does in bounded memory.

    Args:
        path: File or folder.
        file_format: A key of `FORMATS`. Defaults to what the content says.
        options: What a file does not say of itself.
        report: Where losses are counted, and bad records set aside.

    Raises:
        DataError: If the file is malformed or its format cannot be told or is not known.
        MissingExtraError: If the format needs a package that is not installed.
    """
    path = Path(path)
    chosen = find_format(file_format or guess_format(path, options.text_column))
    yield from chosen.read(path, Report() if report is None else report, options)


def write_examples(
    examples: Iterable[Example],
    path: Path | str,
    file_format: str = "nomina",
    options: FileOptions = DEFAULT_OPTIONS,
    report: Report | None = None,
) -> None:
    """Write examples to a file that appears when it is complete.

    Args:
        examples: What to write; consumed one by one where the format allows it.
        path: File, or folder for `brat` and `dataset`.
        file_format: A key of `FORMATS`. Defaults to "nomina", which carries everything.
        options: What to write where there is a choice.
        report: Where losses are counted. Defaults to a new one, so that they are lost.

    Raises:
        DataError: If the format is not known or the file cannot be written.
        MissingExtraError: If the format needs a package that is not installed.
    """
    chosen = find_format(file_format)
    chosen.write(examples, Path(path), Report() if report is None else report, options)


def find_format(name: str) -> FileFormat:
    """Return a format by name.

    Raises:
        DataError: If there is none; names them all.
    """
    if name not in FORMATS:
        raise DataError(f"there is no format {name!r}. Formats: {', '.join(FORMATS)}")
    return FORMATS[name]


# --------------------------------------------------------------------------------------------------
# Which format is it?


def guess_format(path: Path, text_column: str = "") -> str:
    """Return the format of a file, as its content says; the name only settles ties.

    Args:
        path: File or folder.
        text_column: Key of the text in JSON. Defaults to `text`.

    Raises:
        DataError: If there is no such file, it is empty, or its content is of no known format; if
            it is a pipe, of which nothing would be left to read.
    """
    if path.is_dir():
        return _guess_folder(path)
    if path.suffix == ".ann" or (path.suffix == ".txt" and path.with_suffix(".ann").exists()):
        return "brat"
    check_is_file(path, "Name its format with --from, or save it to a file first.")
    head = read_head(path)
    if head[:4] == b"PAR1":
        return "parquet"
    # zlib's first byte; DocBin is zlib around msgpack and says nothing more of itself
    if path.suffix == ".spacy" or (head[:1] == b"\x78" and head[1:2] in b"\x01\x5e\x9c\xda"):
        return "spacy"
    check_is_text(path, head)
    text = head.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace")
    if not text.strip():
        raise DataError(
            f"{path}: the file is empty. Expected texts in one of: {', '.join(FORMATS)}"
        )
    start = text.lstrip()[:1]
    if start and start in "{[" and (found := _guess_json(path, text.lstrip(), text_column)):
        return found
    lines = text.split("\n")
    lines = [line.removesuffix("\r") for line in lines[: max(1, len(lines) - 1)]]
    header = lines[0]
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    if suffix not in (".csv", ".tsv") and guess_columns(lines):
        return "conll"
    columns = [re.sub(r'^"|"$', "", c.strip()) for c in header.split(guess_delimiter(header))]
    if suffix in (".csv", ".tsv") or "text" in map(str.casefold, columns):
        return "tsv" if guess_delimiter(header) == "\t" else "csv"
    raise DataError(
        f"{path}: cannot tell the format; the first line is {header[:80]!r}. "
        f"Name it with --from: {', '.join(FORMATS)}"
    )


def _guess_folder(path: Path) -> str:
    if (path / "dataset_info.json").exists() or (path / "dataset_dict.json").exists():
        return "dataset"
    if next(path.rglob("*.ann"), None):
        return "brat"
    raise DataError(
        f"{path}: a folder must be of brat (.txt and .ann) or of Hugging Face datasets. "
        "Give the name of a file."
    )


def _guess_json(path: Path, text: str, text_column: str) -> str:
    inner = text[1:].lstrip() if text[0] == "[" else text
    if not inner.startswith("{"):
        return ""  # a CoNLL file may well begin with a bracket
    if name := _guess_by_records(path, text_column):
        return name
    try:
        record = json.JSONDecoder().raw_decode(inner)[0]
    except (ValueError, RecursionError):
        # The first record is longer than the head, and is not to be read whole: its keys
        # still say what it should be.
        record = {key: [] for key in re.findall(r'"(\w+)"\s*:', inner)}
        if "data" in record:
            record["data"] = {}
        if "instance" in record:
            record["instance"] = {}
        if not re.match(r'\{\s*"', inner):
            return ""
        if not record:
            raise DataError(f"{path}:1: begins like JSON, but is not: {inner[:60]!r}") from None
    if is_task(record):
        return "label-studio"
    try:
        return guess_dialect(record, text_column)
    except DataError as error:
        raise DataError(f"{path}: record 1: {error}") from error


def _guess_by_records(path: Path, text_column: str) -> str:
    """Say whose the first records are; empty if they could be anybody's.

    Tools leave keys out where nothing was marked, so a bare text says nothing; an empty list of
    entities says little, for it may be ours beside a field that others have too.
    """
    likely = ""
    with contextlib.suppress(DataError):
        for _, record, _ in itertools.islice(read_records(path, Report()), _SAMPLE):
            if not isinstance(record, dict):
                break
            if is_task(record):
                return "label-studio"
            name = guess_dialect(record, text_column)
            if record.get("entities") == []:
                likely = likely or name
            elif name != "nomina" or record.get("entities"):
                return name
    return likely


def resolve_source(name: str) -> Path:
    """Return the file that a name means: a path, or a split of a set in `NOMINA_DATA`.

    Raises:
        DataError: If there is neither.
    """
    path = Path(name)
    if path.exists():
        return path
    set_name, colon, split = name.partition(":")
    if colon and (file := data_folder() / set_name / f"{split}.jsonl.gz").is_file():
        return file
    raise DataError(f"{name}: no such file or folder.")
