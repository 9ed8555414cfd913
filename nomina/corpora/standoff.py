"""brat standoff: a folder of texts (`NAME.txt`) and annotations (`NAME.ann`).

Only text-bound annotations (`T` lines) become entities; relations, events, attributes and notes
are counted. Spans that brat cut at line breaks are put together; truly discontinuous ones cannot
be carried and are counted.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path

from nomina.corpora.corpus import Report, build_example
from nomina.corpora.files import (
    BadLine,
    check_writable,
    read_lines,
    read_text,
    write_whole_folder,
)
from nomina.entities import Entity, Example
from nomina.errors import DataError

_OTHER = {
    "R": "relations", "*": "relations", "E": "events", "A": "attributes", "M": "attributes",
    "N": "normalisations", "#": "notes",
}  # fmt: skip


def read_brat(path: Path, report: Report) -> Iterator[Example]:
    """Yield the documents of a brat folder, or the one of a `.ann` or `.txt` file.

    Raises:
        DataError: If a folder has no `.ann` file; unless errors are skipped, if a line is
            malformed, an offset is outside the text or the text of an entity is another one.
    """
    if path.is_dir():
        annotations = sorted(path.rglob("*.ann"))
        if not annotations:
            raise DataError(f"{path}: the folder has no .ann file. Expected NAME.txt and NAME.ann.")
        have = {file.with_suffix("") for file in annotations}
        for file in sorted(path.rglob("*.txt")):
            if file.with_suffix("") not in have:
                report.lose("texts without an .ann file left out", str(file))
    else:
        annotations = [path.with_suffix(".ann")]
    root = path if path.is_dir() else path.parent
    for file in annotations:
        name = file.relative_to(root).with_suffix("").as_posix()
        try:
            yield _read_document(file, name, report)
        except DataError as error:
            if not report.skip_errors:
                raise  # it names its place
            report.reject(str(file), str(error).removeprefix(f"{file}: "))


def _read_document(file: Path, name: str, report: Report) -> Example:
    text = read_text(file.with_suffix(".txt"))
    entities = []
    bad: deque[BadLine] = deque()
    for number, line in read_lines(file, bad):
        if not line.strip():
            continue
        place = f"{file}:{number}"
        if bad:
            report.reject(place, bad.popleft().reason, line)
            continue
        if line[0] != "T":
            report.lose(f"{_OTHER.get(line[0], 'unknown lines')} dropped", place)
            continue
        try:
            entity = _entity(line, text, place, report)
        except DataError as error:
            report.reject(place, str(error), line)
            continue
        if entity is not None:
            entities.append(entity)
    return build_example(text, entities, report, str(file), id=name)


_T_LINE = re.compile(r"T\S*\t(?P<label>\S+) (?P<where>\d+ \d+(?:;\d+ \d+)*)(?:\t(?P<text>.*))?")


def _entity(line: str, text: str, place: str, report: Report) -> Entity | None:
    match = _T_LINE.fullmatch(line)
    if match is None:
        raise DataError(f"expected `T1<tab>Label 0 5<tab>text`, was: {line[:80]!r}")
    parts = [tuple(map(int, part.split())) for part in match["where"].split(";")]
    for start, end in parts:
        if not start < end <= len(text):
            raise DataError(
                f"offsets {start} {end} are empty or outside the text of {len(text)} characters"
            )
    for (_, end), (start, _) in zip(parts, parts[1:]):  # noqa: B905, RUF007 (3.10: no pairwise types)
        if start < end or text[end:start].strip():
            report.lose(f"discontinuous entities dropped: {match['label']}", place)
            return None
    start, end = parts[0][0], parts[-1][1]
    surface = text[start:end]
    if match["text"] is not None and match["text"].split() != surface.split():
        raise DataError(
            f"the entity says {match['text']!r}, but the text from {start} to {end} is {surface!r}"
        )
    return Entity(surface, match["label"], start, end)


def write_brat(examples: Iterable[Example], path: Path, report: Report) -> None:
    """Write a folder of `.txt` and `.ann` files, and an `annotation.conf` with the labels.

    Raises:
        DataError: If the folder exists and is not empty, or cannot be written.
    """
    labels: dict[str, None] = {}
    names: set[str] = set()
    with write_whole_folder(path) as folder:
        for index, example in enumerate(examples):
            name = _file_name(example.id or str(index), names)
            if name != (example.id or str(index)):
                report.lose("ids changed to be file names", f"{example.id!r} to {name!r}")
            check_writable(example.text, path, f"example {name}")
            _count_losses(example, report)
            lines = []
            for number, entity in enumerate(example.entities(), start=1):
                label = re.sub(r"\s+", "_", entity.label)
                if label != entity.label:
                    report.lose(f"labels written with underscores: {entity.label}")
                labels[label] = None
                lines.append(f"T{number}\t{label} {_where(entity)}\t{_one_line(entity.text)}\n")
            try:
                target = folder / f"{name}.txt"
                target.parent.mkdir(parents=True, exist_ok=True)
                # A text that begins with the byte order mark's character keeps it behind another
                mark = "\ufeff" if example.text.startswith("\ufeff") else ""
                target.write_bytes((mark + example.text).encode())
                target.with_suffix(".ann").write_bytes("".join(lines).encode())
            except (OSError, UnicodeEncodeError) as error:
                raise DataError(f"{path}: example {name}: cannot be written: {error}") from error
        conf = "".join(f"{label}\n" for label in labels)
        conf = f"[entities]\n{conf}[relations]\n[events]\n[attributes]\n"
        (folder / "annotation.conf").write_text(conf, encoding="utf-8")


def _where(entity: Entity) -> str:
    # brat wants no line break inside a span: one piece a line
    pieces = [match.span() for match in re.finditer(r"[^\r\n]*[^\s]", entity.text)]
    return ";".join(f"{entity.start + a} {entity.start + b}" for a, b in pieces)


def _one_line(text: str) -> str:
    return re.sub(r"[\r\n]+", " ", text)


def _file_name(wanted: str, taken: set[str]) -> str:
    name = re.sub(r"[^\w.\-/]", "_", wanted.replace("\\", "/"))
    name = "/".join(part for part in name.split("/") if part.strip("."))[:120] or "text"
    number = 2
    unique = name
    while unique.casefold() in taken:
        unique, number = f"{name}-{number}", number + 1
    taken.add(unique.casefold())
    return unique


def _count_losses(example: Example, report: Report) -> None:
    if "scores" in example.extra:
        report.lose("entities lost their score", count=len(example.spans))
    if example.labels is not None:
        report.lose("examples lost their own label set")
    if example.source:
        report.lose("examples lost the name of their source")
    if not example.has_default_words:
        report.lose("texts lost their own cut into words")
    for key in example.extra:
        if key != "scores":
            report.lose(f"fields left out: {key}")
