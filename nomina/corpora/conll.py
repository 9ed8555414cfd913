"""CoNLL: one word a line with its tag in a column, a blank line behind each sentence.

Reads 2 to n columns by spaces or tabs, tags in the last column that holds tags (or in the first),
an index column, `-DOCSTART-` marks and `# id = ...` comments, in IOB1, IOB2, BIOES and BILOU. The
file has no text, only words: examples are joined by single spaces and say so
(`extra["is_joined"]`), unless a `# text = ...` comment holds it. Which
document a sentence is of stands in `extra["document"]`.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from nomina.corpora.corpus import Report, build_tagged
from nomina.corpora.files import (
    BadLine,
    check_writable,
    read_blocks,
    take_bad_line,
    write_whole,
)
from nomina.entities import Example, spans_to_tags
from nomina.errors import DataError

_TAG = re.compile(r"O|[BIESLU]-.+")
# A comment has no tab, or the word `#a=b` of a two-column file would be one.
_COMMENT = re.compile(
    r"# *(?:(?P<key>[\w:.-]+) *= *(?P<value>[^\t]*)|id +(?P<id>[^\s]+)[^\t]*|\t?http[^\t]+"
    r"|(?<= )new(?:doc|par)(?: +id *= *[^\t]*)?)"
)
_RANGE = re.compile(r"\d+[-.]\d+")  # CoNLL-U: a token of several words, an empty node
_RANGE_LINE = re.compile(r"^\d+[-.]\d+[ \t].*(?:\n|\Z)", re.MULTILINE)
_SAMPLE = 2000  # lines looked at to find the columns
_DOCSTART = "-DOCSTART-"


class Columns(NamedTuple):
    """Where words and tags stand; tags may count from the end."""

    word: int
    tag: int
    is_tabbed: bool


class _Sentence(NamedTuple):
    first_line: int
    body: str  # its lines
    comments: dict[str, str]
    document: int


def _split(line: str, is_tabbed: bool) -> list[str]:
    if is_tabbed:
        return line.split("\t")
    if line.isascii():
        return line.split()
    # A word may hold other spaces, such as the no-break space in a number.
    return [cell for cell in line.replace("\t", " ").split(" ") if cell]


def _is_blank(line: str) -> bool:
    return not line.strip(" \t\r")


def _is_mark(line: str) -> bool:
    return line.startswith((_DOCSTART, "-DOCEND-"))


def _is_row(line: str) -> bool:
    return not _is_blank(line) and not _is_mark(line) and not _COMMENT.fullmatch(line)


def guess_columns(lines: Iterable[str]) -> Columns | None:
    r"""Find the columns of words and tags; None if there are none.

    Example:
        >>> guess_columns(["EU NNP B-NP B-ORG", "rejects VBZ B-VP O"])
        Columns(word=0, tag=3, is_tabbed=False)
        >>> guess_columns(["B-ACTOR\tclooney", "O\tmovie"])
        Columns(word=1, tag=0, is_tabbed=True)
    """
    kept = [line for line in lines if _is_row(line)]
    if not kept:
        return None
    is_tabbed = all("\t" in line for line in kept)
    rows = [_split(line, is_tabbed) for line in kept]
    width = len(rows[0])
    if width < 2 or sum(len(row) == width for row in rows) < 0.9 * len(rows):
        return None
    rows = [row for row in rows if len(row) == width]
    plain = [row for row in rows if not _RANGE.fullmatch(row[0])]
    has_index = width > 2 and bool(plain) and plain[0][0] in ("0", "1")
    if has_index := has_index and all(row[0].isdigit() for row in plain):
        rows = plain
    shares = [sum(bool(_TAG.fullmatch(row[i])) for row in rows) for i in range(width)]
    # A few bad tags are for the reader to name, with their lines.
    tagged = [i for i in range(width) if shares[i] == len(rows)]
    tagged = tagged or [i for i in range(width) if shares[i] >= 0.9 * len(rows)]
    # A column of nothing but O is one of tags only if no other is.
    tagged = [i for i in tagged if any(row[i] != "O" for row in rows)] or tagged
    if not tagged:
        return None
    tag = tagged[-1]
    if tag == 0:
        return Columns(width - 1, 0, is_tabbed)
    return Columns(1 if has_index else 0, tag, is_tabbed)


def read_conll(path: Path, report: Report, column: int | None = None) -> Iterator[Example]:
    """Yield the sentences of a CoNLL file.

    Args:
        path: The file.
        report: Where losses are counted and bad sentences set aside.
        column: The column of the tags, from 1. Defaults to the last one that holds tags.

    Raises:
        DataError: If no column holds tags; unless errors are skipped, if a line has too few
            columns or no tag. Names file and line.
    """
    bad: deque[BadLine] = deque()
    blocks = read_blocks(path, bad)
    sample: list[tuple[int, str]] = []
    texts: list[str] = []
    while len(texts) < _SAMPLE and (block := next(blocks, None)) is not None:
        sample.append(block)
        texts += [line.removesuffix("\r") for line in block[1].split("\n", _SAMPLE)[:_SAMPLE]]
    texts = texts[:_SAMPLE]
    columns = guess_columns(texts)
    if column is not None:
        columns = Columns(
            columns.word if columns else 0, column - 1, all("\t" in x for x in texts if _is_row(x))
        )
    if columns is None:
        if not any(not _is_blank(x) for x in texts):
            return
        raise DataError(
            f"{path}: no column of tags (O, B-person, I-person ...) in the first {len(texts)} "
            "lines. Name it with --column, or the format with --from."
        )
    _note_choice(path, texts, columns, column, report)
    index = -1
    name = str(path)
    known = {"O"}  # tags that were looked at
    for sentence in _sentences(itertools.chain(sample, blocks)):
        index += 1
        place = f"{name}:{sentence.first_line}"
        body = sentence.body
        if bad and (line := take_bad_line(bad, sentence.first_line + body.count("\n"))):
            report.reject(f"{name}:{line.number}", line.reason, body)  # or of the comments before
            continue
        if columns.word == 1 and (ranges := _RANGE_LINE.findall(body)):
            report.lose("ranges of words and empty nodes left out", place, len(ranges))
            body = _RANGE_LINE.sub("", body + "\n").removesuffix("\n")
        words, tags = _pick(body, columns)
        if not tags or not known.issuperset(tags):
            number, reason = _find_fault(sentence.body, columns)
            if reason:
                report.reject(f"{name}:{sentence.first_line + number}", reason, sentence.body)
                continue
            known.update(tags)
        extra = {"document": sentence.document} if sentence.document else {}
        own = sentence.comments.get("sent_id") or sentence.comments.get("id")
        example = build_tagged(words, tags, report, place, id=own or str(index), extra=extra)
        text = sentence.comments.get("text")
        yield _with_text(example, text) if text else example
    for line in bad:  # behind the last sentence
        report.reject(f"{name}:{line.number}", line.reason)


def _pick(body: str, columns: Columns) -> tuple[Sequence[str], Sequence[str]]:
    """Return the columns of words and tags; nothing if a row lacks one of them."""
    if columns.is_tabbed:
        # All rows at once, if all are as wide as the first: then every step-th cell is a line end.
        step = body.partition("\n")[0].count("\t") + 2
        cells = body.replace("\n", "\t\n\t").split("\t")
        num_ends = (len(cells) + 1) // step - 1
        if body.count("\n") == num_ends == cells[step - 1 :: step].count("\n"):
            if max(columns.word, columns.tag) < step - 1:
                return cells[columns.word :: step], cells[columns.tag :: step]
            return (), ()
    rows = [_split(line, columns.is_tabbed) for line in body.split("\n")]
    try:
        return [row[columns.word] for row in rows], [row[columns.tag] for row in rows]
    except IndexError:
        return (), ()


def _find_fault(body: str, columns: Columns) -> tuple[int, str]:
    """Find the first line of a sentence that has too few columns or no tag, and say so."""
    rows = [_split(line, columns.is_tabbed) for line in body.split("\n")]
    width = max(columns.word, columns.tag) + 1
    for number, row in enumerate(rows):
        if columns.word == 1 and row and _RANGE.fullmatch(row[0]):
            continue
        if len(row) < width:
            return number, f"{len(row)} columns, expected at least {width}"
        if not _TAG.fullmatch(row[columns.tag]):
            return number, f"a tag must be O or like B-person, I-person, was: {row[columns.tag]!r}"
    return 0, ""


def _with_text(example: Example, text: str) -> Example:
    """Put the words into the text of a `# text = ...` comment, if they are all there in order."""
    offsets, position = [], 0
    for word in example.words:
        start = text.find(word, position)
        if start < 0 or text[position:start].strip():
            return example
        position = start + len(word)
        offsets.append((start, position))
    if text[position:].strip():
        return example
    extra = {key: value for key, value in example.extra.items() if key != "is_joined"}
    return dataclasses.replace(example, text=text, offsets=tuple(offsets), extra=extra)


def _note_choice(
    path: Path, texts: list[str], columns: Columns, column: int | None, report: Report
) -> None:
    if column is not None:
        return
    rows = [_split(x, columns.is_tabbed) for x in texts if not _is_blank(x) and not _is_mark(x)]
    rows = [row for row in rows if len(row) > columns.tag]
    others = [
        i + 1
        for i in range(columns.word + 1, min(map(len, rows), default=0))
        if i != columns.tag
        if rows and all(_TAG.fullmatch(row[i]) for row in rows)
    ]
    if others:
        report.lose(
            f"other columns of tags not read: {', '.join(map(str, others))} (read: "
            f"{columns.tag + 1}; choose with --column)",
            str(path),
            len(others),
        )


def _sentences(blocks: Iterable[tuple[int, str]]) -> Iterator[_Sentence]:
    """Cut blocks of lines into sentences, at blank lines and at marks of documents."""
    state = _State()
    rest = ""  # a sentence may go on in the next block
    first = 0
    for number, text in blocks:
        if "\r" in text:
            text = text.replace("\r\n", "\n").removesuffix("\r")
        if "\n " in text or "\n\t" in text:
            text = _SPACES.sub("", text)
        first = first if rest else number
        cut = text.rfind("\n\n")
        if cut < 0:
            rest += text
            continue
        yield from _cut(rest + text[: cut + 1], first, state)
        rest = text[cut + 2 :]
        first = number + text.count("\n", 0, cut + 2)
    yield from _cut(rest, first, state)


@dataclass
class _State:
    """What stands before a sentence and holds for it."""

    comments: dict[str, str] = field(default_factory=dict)
    document: int = 0

    def take_comments(self) -> dict[str, str]:
        comments, self.comments = self.comments, {}
        return comments


def _cut(text: str, number: int, state: _State) -> Iterator[_Sentence]:
    """Cut whole lines, of which the last sentence is complete, into sentences."""
    for paragraph in text.split("\n\n"):
        body = paragraph.strip("\n")
        first = number + len(paragraph) - len(paragraph.lstrip("\n")) if body else number
        number += paragraph.count("\n") + 2
        if not body:
            continue
        if _is_plain(body):
            yield _Sentence(first, body, state.take_comments(), state.document)
        else:
            yield from _cut_by_line(body.split("\n"), first, state)


_SPACES = re.compile(r"^[ \t]+$", re.MULTILINE)


def _is_plain(body: str) -> bool:
    """Say whether no line can be a comment, a blank line or a mark; nearly all sentences are."""
    if body[0] in "# \t\r" or body.startswith("-DOC"):
        return False
    return not ("\n-DOC" in body or "\n " in body or "\n\t" in body or "\n\r" in body)


def _cut_by_line(lines: Iterable[str], number: int, state: _State) -> Iterator[_Sentence]:
    """Cut lines of any kind."""
    rows: list[str] = []
    first = number
    for index, line in enumerate(lines, start=number):
        if _is_blank(line) or _is_mark(line):
            if rows:
                yield _Sentence(first, "\n".join(rows), state.take_comments(), state.document)
                rows = []
            state.document += line.startswith(_DOCSTART)
        elif not rows and line[0] == "#" and (comment := _COMMENT.fullmatch(line)):
            if comment["key"]:
                state.comments[comment["key"]] = comment["value"].strip()
            elif comment["id"]:
                state.comments["id"] = comment["id"]
        else:
            if not rows:
                first = index
            rows.append(line)
    if rows:
        yield _Sentence(first, "\n".join(rows), state.take_comments(), state.document)


def write_conll(
    examples: Iterable[Example], path: Path, report: Report, scheme: str = "BIO"
) -> None:
    """Write words and tags in two columns, parted by a tab, so that labels may have spaces.

    Args:
        examples: What to write.
        path: The file.
        report: Where losses are counted.
        scheme: "BIO", "IOB1" or "BIOES". Defaults to "BIO".

    Raises:
        DataError: If the file cannot be written.
    """
    index = 0  # of the sentence in the file, which is its id when it is read
    document = 0
    is_first = True
    with write_whole(path) as file:
        for number, example in enumerate(examples):
            place = f"example {example.id or number}"
            words = given = example.words
            tags = spans_to_tags(example.spans, len(words), scheme)
            if "-DOC" in example.text:
                words, tags = _without_marks(words, tags, report, place)
            if not words:
                report.lose("texts without a word left out", place)
                continue
            own = example.extra.get("document", 0)
            if isinstance(own, int) and own != document:
                document = own
                file.write(f"{_DOCSTART}\tO\n\n")
            if example.id not in ("", str(index)):
                file.write(f"# id = {' '.join(example.id.split())}\n")
            index += 1
            _count_losses(example, given, report)
            check_writable(example.text, path, place)
            if _has_breaks(example):
                words, tags = list(map(_cell, words)), list(map(_cell, tags))
            lines = "\n".join(map("\t".join, zip(words, tags, strict=True)))
            if is_first and lines.startswith("\ufeff"):
                file.write("\n")  # or the first word would be read as a byte order mark
            is_first = False
            file.write(lines + "\n\n")


def _without_marks(
    words: list[str], tags: list[str], report: Report, place: str
) -> tuple[list[str], list[str]]:
    """Leave out the words that a reader would take for the mark of a document."""
    kept = [index for index, word in enumerate(words) if not _is_mark(word)]
    if len(kept) < len(words):
        what = "words left out, because CoNLL reads them as the mark of a document"
        report.lose(what, place, len(words) - len(kept))
    return [words[index] for index in kept], [tags[index] for index in kept]


def _has_breaks(example: Example) -> bool:
    """Whether a word or label may have a tab or a line break."""
    names = (span.label for span in example.spans)
    return any("\t" in x or "\n" in x or "\r" in x for x in (example.text, *names))


def _cell(value: str) -> str:
    # CoNLL has no quoting; `_count_losses` says that it happened
    return value.replace("\t", " ").replace("\r", " ").replace("\n", " ")


def _count_losses(example: Example, words: list[str], report: Report) -> None:
    if example.text != " ".join(words):
        report.lose("texts lost their spacing, only words are written")
    if "scores" in example.extra:
        report.lose("entities lost their score", count=len(example.spans))
    if example.labels is not None:
        report.lose("examples lost their own label set")
    if example.source:
        report.lose("examples lost the name of their source")
    for key, value in example.extra.items():
        is_written = key == "document" and isinstance(value, int)
        if not is_written and key not in ("is_joined", "scores"):
            report.lose(f"fields left out: {key}")
    for word in words if _has_breaks(example) else ():
        if _cell(word) != word:
            report.lose("words with tabs or line breaks, written as spaces")
