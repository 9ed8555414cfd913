"""The labelled corpora in the folder of `NOMINA_DATA`, by name.

A folder `NAME/` holds `train|dev|test.jsonl.gz`, one object a line with `tokens` and IOB2 `labels`,
and `labels.json` (raw tag to name); `sets.json` beside the folders is the index.
"""

from __future__ import annotations

import functools
import gzip
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nomina.corpora.corpus import IS_JOINED, Corpus, collect_labels, paused_gc
from nomina.entities import Example, LabelSet, normalize_label
from nomina.errors import DataError, NominaError

SPLITS = ("train", "dev", "test")


def data_folder() -> Path:
    """Return the folder that `NOMINA_DATA` names.

    Raises:
        DataError: If the variable is not set, or names no folder.
    """
    value = os.environ.get("NOMINA_DATA", "")
    if not value:
        raise DataError(
            "a corpus is asked for by name, but NOMINA_DATA is not set. "
            "Point it at the folder of corpora, or give the path of a file."
        )
    folder = Path(value)
    if not folder.is_dir():
        raise DataError(f"NOMINA_DATA must name a folder, was: {value!r}")
    return folder


def read_index() -> dict[str, dict[str, Any]]:
    """Return `sets.json` of the data folder: name to splits, licence, language, use ...

    Raises:
        DataError: If there is no data folder, or its index is missing or malformed.
    """
    path = data_folder() / "sets.json"
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: the index of corpora cannot be read: {error}") from error
    if not isinstance(index, dict):
        raise DataError(f"{path}: must be an object of set names, was: {type(index).__name__}")
    return index


def default_sets() -> list[str]:
    """Return the names of the sets whose licences allow training a model that is shipped."""
    return [name for name, entry in read_index().items() if entry.get("default_model") is True]


def read_set(name: str, split: str = "") -> Corpus:
    """Read one split of a named set.

    Args:
        name: Folder of the set inside the data folder.
        split: `train`, `dev` or `test`. Defaults to the first of these that the set has.

    Raises:
        DataError: If there is no such set or split, or its file is damaged or a line malformed.
    """
    root = data_folder()
    folder = root / name
    if not name or not folder.is_dir() or folder.parent != root:
        known = sorted(path.name for path in root.iterdir() if path.is_dir())
        raise DataError(
            f"no corpus named {name!r} in {root}, and no such file. "
            f"{_suggest(name, known)}There are {len(known)} sets."
        )
    splits = [s for s in SPLITS if (folder / f"{s}.jsonl.gz").is_file()]
    chosen = split or (splits[0] if splits else "")
    if chosen not in splits:
        raise DataError(f"corpus {name!r} has the splits {splits}, was asked for: {chosen!r}")
    path = folder / f"{chosen}.jsonl.gz"
    known_names = _read_names(folder / "labels.json")
    warnings: list[str] = []
    with paused_gc():
        examples = list(_read_rows(path, name))
    names = {normalize_label(n) for n in known_names}
    unknown: dict[str, int] = {}
    outside = 0
    own: dict[int, set[str]] = {}
    for example in examples:
        for span in example.spans:
            if span.label not in unknown and normalize_label(span.label) not in names:
                unknown[span.label] = 0
            if span.label in unknown:
                unknown[span.label] += 1
        if example.labels is not None:
            allowed = own.setdefault(id(example.labels), set(example.labels.names))
            outside += sum(span.label not in allowed for span in example.spans)
    if unknown:
        shown = ", ".join(list(unknown)[:5])
        warnings.append(
            f"{sum(unknown.values())} entities have labels that labels.json lacks: {shown}"
        )
    if outside:
        warnings.append(f"{outside} entities have labels that their own label set lacks")
    labels = collect_labels(examples, known_names)
    if labels is None:
        raise DataError(f"{path}: no label in labels.json and no entity in any row")
    return Corpus(name, chosen, examples, labels, tuple(warnings))


def _suggest(name: str, known: list[str]) -> str:
    import difflib

    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"Did you mean {' or '.join(close)}? " if close else ""


def _read_names(path: Path) -> list[str]:
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        return []  # optional: the labels of the rows are used
    except ValueError as error:
        raise DataError(f"{path}: is not JSON: {error}") from error
    if not isinstance(names, dict) or not all(isinstance(v, str) for v in names.values()):
        raise DataError(f"{path}: must be an object of raw tags and names")
    return list(dict.fromkeys(names.values()))


def _read_rows(path: Path, name: str) -> Iterator[Example]:
    number = 0
    try:
        with gzip.open(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                yield _example(json.loads(line), str(number - 1), name)
    except KeyError as error:
        raise DataError(f"{path}:{number}: the row has no {error}") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}:{number + 1}: cannot be unpacked: {error}") from error
    except (NominaError, ValueError, TypeError, RecursionError) as error:
        raise DataError(f"{path}:{number}: {error}") from error


_OWN_KEYS = frozenset({"tokens", "labels", "id", "source", "label_set"})


def _example(row: Mapping[str, Any], index: str, name: str) -> Example:
    extra: Mapping[str, Any] = IS_JOINED
    labels: LabelSet | None = None
    if len(row) > 2:
        if not _OWN_KEYS.issuperset(row):
            extra = {**{k: v for k, v in row.items() if k not in _OWN_KEYS}, **IS_JOINED}
        if own := row.get("label_set"):
            labels = _label_set(tuple(own.items()) if isinstance(own, dict) else tuple(own))
    return Example.from_tags(
        row["tokens"],
        row["labels"],
        id=str(row.get("id", index)),
        labels=labels,
        source=str(row.get("source", name)),
        extra=extra,
    )


@functools.lru_cache(maxsize=4096)
def _label_set(items: tuple[Any, ...]) -> LabelSet:
    if items and isinstance(items[0], tuple):
        return LabelSet.of(dict(items))
    return LabelSet.of(items)
