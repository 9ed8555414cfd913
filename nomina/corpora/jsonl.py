"""JSON lines (and JSON arrays) of five tools: ours, GNER, GLiNER, doccano, Prodigy.

Which tool wrote a record is seen from its keys, so that a file needs no label. Every dialect is a
pair of functions, record -> `Example` and back. Fields that a dialect does not know are kept in
`Example.extra` and written back as they were.
"""

from __future__ import annotations

import itertools
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from nomina.corpora.corpus import (
    IS_JOINED,
    Report,
    build_example,
    build_tagged,
    check_words,
    own_fields,
)
from nomina.corpora.files import BadLine, check_is_file, read_lines, read_text, write_whole
from nomina.entities import Entity, Example, LabelSet, Span, join_words
from nomina.errors import DataError, NominaError

Record = Mapping[str, Any]
TEXT_LEFT_OUT = "fields left out, because another one was named as the text: text"


class Dialect(NamedTuple):
    """How one tool writes a record."""

    shape: str  # a record, to be shown where another one is not like it
    parse: Callable[[Record, Report, str, str], Example | None]  # None: left out, and counted
    render: Callable[[Example, Report], dict[str, Any]]


# --------------------------------------------------------------------------------------------------
# Files


def read_records(path: Path, report: Report) -> Iterator[tuple[str, Any, str]]:
    """Yield the records of a JSONL file, or of a JSON array, with place and raw text.

    Raises:
        DataError: If the file is not UTF-8 or not JSON, or is an array in a pipe; unless errors
            are skipped, for a bad line.
    """
    bad: deque[BadLine] = deque()
    lines = read_lines(path, bad)
    decode = json.JSONDecoder().raw_decode
    name = str(path)
    is_first = True
    for number, line in lines:
        stripped = line.strip()
        if not stripped:
            continue
        if bad:
            report.reject(f"{name}:{number}", bad.popleft().reason, line)
            continue
        if is_first and stripped[0] == "[":
            check_is_file(path, "Save the JSON array to a file first, or write JSON lines.")
            lines.close()  # type: ignore[attr-defined]
            yield from _read_array(path)
            return
        is_first = False
        place = f"{name}:{number}"
        try:
            record, end = decode(stripped)
            if end != len(stripped):
                json.loads(stripped)  # says what is behind the record, and where
        except (ValueError, RecursionError) as error:
            report.reject(place, f"is not JSON: {error}", line)
            continue
        yield place, record, line


def _read_array(path: Path) -> Iterator[tuple[str, Any, str]]:
    try:
        records = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: is not JSON: {error}") from error
    for number, record in enumerate(records, start=1):
        yield f"{path}: record {number}", record, ""


def read_dialect(name: str | None) -> Callable[[Path, Report, str], Iterator[Example]]:
    """Return the reader of one dialect; `None` looks at the keys of each record.

    It takes the path, the report, and the key of the text (empty for `text`), which means nothing
    to the dialects of words.
    """

    def read(path: Path, report: Report, text_column: str = "") -> Iterator[Example]:
        index = -1
        for place, record, raw in read_records(path, report):
            index += 1
            dialect = name or "nomina"
            try:
                if not isinstance(record, dict):
                    raise DataError(f"expected an object, was: {type(record).__name__}")
                if not raw or "\\ud" in raw or "\\uD" in raw:
                    _check_surrogates(record)
                dialect = name or guess_dialect(record, text_column)
                if text_column and dialect in _OF_TEXTS:
                    record = _named_text(record, text_column, report, place)
                example = DIALECTS[dialect].parse(record, report, place, str(index))
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                kind, shape = f"a record of {dialect}", DIALECTS[dialect].shape
                reason = say_why(error, place, kind, shape)
                report.reject(place, reason, raw or json.dumps(record, ensure_ascii=True))
            else:
                if example is not None:
                    yield example

    return read


def say_why(error: Exception, place: str, kind: str, shape: str) -> str:
    """Say why a record cannot be read: our own words, or what it lacks and how one should look.

    What Python says of a wrong type is left out, it tells of our code and not of the record.

    Example:
        >>> print(say_why(KeyError("start"), "a.jsonl:1", "a span", '{"start": 0, "end": 3}'))
        is not a span: has no 'start'. Expected as in {"start": 0, "end": 3}
    """
    if isinstance(error, NominaError):
        return str(error).removeprefix(f"{place}: ")
    lacks = f": has no {error}" if isinstance(error, KeyError) else ""
    return f"is not {kind}{lacks}. Expected as in {shape}"


def _named_text(record: Record, key: str, report: Report, place: str) -> Record:
    if key not in record:
        raise DataError(f"has no {key!r}; its keys are {sorted(record)[:12]}")
    if key != "text" and "text" in record:
        report.lose(TEXT_LEFT_OUT, place)
    return _with_text(record, key)


def write_dialect(name: str) -> Callable[[Iterable[Example], Path, Report], None]:
    """Return the writer of one dialect."""
    render = DIALECTS[name].render
    encode = json.JSONEncoder(ensure_ascii=False).encode

    def write(examples: Iterable[Example], path: Path, report: Report) -> None:
        with write_whole(path) as file:
            for example in examples:
                record = render(example, report)
                try:
                    line = encode(record)
                except (TypeError, ValueError):
                    _drop_unwritable(record, report)
                    line = encode(record)
                file.write(line + "\n")

    return write


def _drop_unwritable(record: dict[str, Any], report: Report) -> None:
    for key in list(record):
        try:
            json.dumps(record[key])
        except (TypeError, ValueError):
            report.lose(f"fields left out, because JSON cannot hold them: {key}")
            del record[key]


def _check_surrogates(record: Record) -> None:
    try:
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"a string has half a surrogate pair ({error.object[error.start]!r}). "
            "Repair the text where it comes from."
        ) from error


def guess_dialect(record: Record, text_column: str = "") -> str:
    """Return the name of the tool that writes records with such keys.

    Args:
        record: An object of a file.
        text_column: Key of the text. Defaults to `text`.

    Raises:
        DataError: If none does; names the keys.

    Example:
        >>> guess_dialect({"tokenized_text": ["in", "Paris"], "ner": [[1, 1, "city"]]})
        'gliner'
    """
    record = _with_text(record, text_column)
    entities = record.get("entities")
    first = entities[0] if isinstance(entities, list) and entities else None
    if "text" in record and isinstance(first, dict) and {"label", "start", "end"} <= first.keys():
        return "nomina"  # whatever else it has
    if "tokenized_text" in record:
        return "gliner"
    if isinstance(record.get("instance"), dict):
        return "gner"
    if any(key in record for key in _WORD_KEYS) and any(key in record for key in _TAG_KEYS):
        if "text" not in record or "spans" not in record:
            return "gner"
    if "text" in record:
        if "spans" in record:
            return "prodigy"
        if isinstance(record.get("label", record.get("labels")), list) and entities is None:
            return "doccano"
        if isinstance(first, dict) and "start_offset" in first:
            return "doccano"
        return "nomina"
    raise DataError(
        f"cannot tell what kind of record this is; its keys are {sorted(record)[:12]}. "
        f"Expected {text_column or 'text'!r}, or words and tags (`tokens`, `labels`). "
        "See docs/formats.md."
    )


def _with_text(record: Record, key: str) -> Record:
    """Return a record with what stands under a key as its `text`, if it has the key."""
    if key in ("", "text") or key not in record:
        return record
    return {**{name: record[name] for name in record if name != key}, "text": record[key]}


# --------------------------------------------------------------------------------------------------
# What the dialects share


def _entity(text: str, label: Any, start: Any, end: Any, score: Any = 1.0) -> Entity:
    if type(start) is not int or type(end) is not int:  # bool is an int too
        raise DataError(f"offsets must be whole numbers, were: {start!r}, {end!r}")
    if not isinstance(label, str) or not label:
        raise DataError(f"a label must be a string, was: {label!r}")
    score = 1.0 if score is None else float(score)
    return Entity(text[start:end] if start >= 0 else "", label, start, end, score)


def _checked(entity: Entity, given: Any) -> Entity:
    if given is not None and given != entity.text:
        raise DataError(
            f"entity {entity.label!r} says {given!r}, but the text from {entity.start} to "
            f"{entity.end} is {entity.text!r}. Offsets count characters, the end is exclusive."
        )
    return entity


def _text(record: Record) -> str:
    text = record["text"]
    if not isinstance(text, str):
        raise DataError(f"`text` must be a string, was: {type(text).__name__}")
    return text


def _rest(record: Record, known: frozenset[str]) -> dict[str, Any]:
    if known.issuperset(record):
        return {}
    return {key: value for key, value in record.items() if key not in known}


def _own_id(record: Record, index: str, key: str = "id") -> str:
    value = record.get(key)
    return index if value is None else str(value)


def _extra(example: Example, known: frozenset[str], report: Report) -> dict[str, Any]:
    if not example.extra:
        return {}
    extra = {}
    for key, value in example.extra.items():
        if key == "scores":
            continue
        if key in known:
            report.lose(f"fields left out, because the target has its own: {key}")
            continue
        extra[key] = value
    return extra


def _lose_scores(example: Example, report: Report) -> None:
    if "scores" in example.extra:
        report.lose("entities lost their score", count=len(example.spans))


def _lose_labels(example: Example, report: Report) -> None:
    if example.labels is not None:
        report.lose("examples lost their own label set")


def _lose_text(example: Example, report: Report) -> None:
    if example.text != " ".join(example.words):
        report.lose("texts lost their spacing, only words are written")


# --------------------------------------------------------------------------------------------------
# Ours: {"id", "text", "entities": [{"text", "label", "start", "end", "score"}], ...}

_OURS = frozenset({"id", "text", "entities", "offsets", "label_set", "source", "warnings"})


def _parse_ours(record: Record, report: Report, place: str, index: str) -> Example:
    text = _text(record)
    entities = []
    for e in record.get("entities") or ():
        entity = _entity(text, e["label"], e["start"], e["end"], e.get("score", 1.0))
        entities.append(_checked(entity, e.get("text")))
    offsets = record.get("offsets")
    labels = record.get("label_set")
    return build_example(
        text,
        entities,
        report,
        place,
        None if offsets is None else check_offsets([(a, b) for a, b in offsets], text),
        id=_own_id(record, index),
        labels=LabelSet.of(labels) if labels else None,
        source=str(record.get("source") or ""),
        extra=_rest(record, _OURS - {"warnings"}),
    )


def _render_ours(example: Example, report: Report) -> dict[str, Any]:
    record: dict[str, Any] = {"id": example.id} if example.id else {}
    record["text"] = example.text
    record["entities"] = [entity.to_dict() for entity in scored_entities(example)]
    if not example.has_default_words:
        record["offsets"] = [list(pair) for pair in example.offsets]
    if example.labels is not None:
        record["label_set"] = label_table(example.labels)
    if example.source:
        record["source"] = example.source
    return {**record, **_extra(example, _OURS - {"warnings"}, report)}


def scored_entities(example: Example) -> list[Entity]:
    """Return the entities with the scores of `extra["scores"]`, if it has them."""
    scores = example.extra.get("scores")
    entities = example.entities()
    if scores is None or len(scores) != len(entities):
        return entities
    return [
        Entity(e.text, e.label, e.start, e.end, float(score))
        for e, score in zip(entities, scores, strict=True)
    ]


def label_table(labels: LabelSet) -> dict[str, Any]:
    """Return a label set as JSON: name to definition, or to a table if there is more.

    Example:
        >>> label_table(LabelSet.of({"city": "a town", "year": {"examples": ["1980"]}}))
        {'city': 'a town', 'year': {'examples': ['1980']}}
    """
    table: dict[str, Any] = {}
    for label in labels:
        if label.examples or label.color:
            fields = {
                "definition": label.definition,
                "examples": list(label.examples),
                "color": label.color,
            }
            table[label.name] = {key: value for key, value in fields.items() if value}
        else:
            table[label.name] = label.definition
    return table


def check_offsets(offsets: list[tuple[int, int]], text: str) -> list[tuple[int, int]]:
    """Return word offsets after checking that they are ordered, not empty and inside the text.

    Raises:
        DataError: If they are not.
    """
    last = 0
    for start, end in offsets:
        if not last <= start < end <= len(text):
            raise DataError(
                f"word [{start}, {end}) is empty, outside the text of {len(text)} characters or "
                "overlaps the word before"
            )
        last = end
    return offsets


# --------------------------------------------------------------------------------------------------
# GNER: {"instance": {"words", "labels"}, "label_list", ...} or {"tokens", "labels"}

_WORD_KEYS = ("tokens", "words")
_TAG_KEYS = ("labels", "tags", "ner_tags")
_GNER = frozenset({"id", "instance", "label_list", "dataset", "label_set", *_WORD_KEYS, *_TAG_KEYS})
_GNER |= {"source"}


def _parse_gner(record: Record, report: Report, place: str, index: str) -> Example:
    inner = record.get("instance")
    row = inner if isinstance(inner, dict) else record
    words = next((row[key] for key in _WORD_KEYS if key in row), None)
    tags = next((row[key] for key in _TAG_KEYS if key in row), None)
    if not isinstance(words, list) or not isinstance(tags, list):
        raise DataError(f"expected lists of words and tags; the keys are {sorted(row)[:12]}")
    extra = _rest(record, _GNER)
    if row is not record:
        # `instruction_inputs` and `prompt_labels` are made from words and tags; GNER's reader
        # makes them anew.
        made = {"id", "instruction_inputs", "prompt_labels", *_WORD_KEYS, *_TAG_KEYS}
        extra |= {key: value for key, value in row.items() if key not in made}
    own = record.get("label_set") or record.get("label_list")
    return build_tagged(
        words,
        tags,
        report,
        place,
        id=_own_id(record, _own_id(row, index)),
        labels=LabelSet.of(own) if own else None,
        source=str(record.get("dataset") or record.get("source") or ""),
        extra=extra,
    )


def _render_gner(example: Example, report: Report) -> dict[str, Any]:
    _lose_scores(example, report)
    _lose_text(example, report)
    record: dict[str, Any] = {"dataset": example.source} if example.source else {}
    if example.labels is not None:
        record["label_list"] = list(example.labels.names)
        if any(label.definition or label.examples or label.color for label in example.labels):
            report.lose("label sets lost their definitions")
    record["instance"] = {"id": example.id, "words": example.words, "labels": example.tags}
    return {**record, **_extra(example, _GNER, report)}


def _render_tokens(example: Example, report: Report) -> dict[str, Any]:
    _lose_scores(example, report)
    _lose_text(example, report)
    record: dict[str, Any] = {"id": example.id} if example.id else {}
    record["tokens"], record["labels"] = example.words, example.tags
    if example.labels is not None:
        record["label_set"] = label_table(example.labels)
    if example.source:
        record["source"] = example.source
    return {**record, **_extra(example, _GNER, report)}


# --------------------------------------------------------------------------------------------------
# GLiNER: {"tokenized_text", "ner": [[start, end (inclusive), label]]}

_GLINER = frozenset({"tokenized_text", "ner", "id"})


def _parse_gliner(record: Record, report: Report, place: str, index: str) -> Example:
    words = check_words(record["tokenized_text"])
    spans = []
    for start, end, label in record.get("ner") or ():
        if type(start) is not int or type(end) is not int or not isinstance(label, str):
            raise DataError(f"`ner` must hold [first, last, label], was: {[start, end, label]!r}")
        if not 0 <= start <= end < len(words):
            raise DataError(
                f"entity {label!r} [{start}, {end}] is outside the {len(words)} words. "
                "GLiNER counts words, the last one inclusive."
            )
        spans.append(Span(start, end + 1, label))
    rest: dict[str, Any] = {"id": _own_id(record, index)}
    own = own_fields(_rest(record, _GLINER), report, place)
    rest["extra"] = {**own, **IS_JOINED} if own else IS_JOINED
    ordered = sorted(spans)
    if all(a.end <= b.start for a, b in itertools.pairwise(ordered)):
        is_clean = all(words) and list(map(str.strip, words)) == words
        if is_clean and all(span.label for span in spans):
            return Example.from_words(words, ordered, **rest)
    text, offsets = join_words(words)
    return build_example(
        text,
        [_entity(text, c, offsets[a][0], offsets[b - 1][1]) for a, b, c in spans],
        report,
        place,
        [(a, b) for a, b in offsets if a < b],
        **rest,
    )


def _render_gliner(example: Example, report: Report) -> dict[str, Any]:
    _lose_scores(example, report)
    _lose_text(example, report)
    _lose_labels(example, report)
    record: dict[str, Any] = {
        "tokenized_text": example.words,
        "ner": [[span.start, span.end - 1, span.label] for span in example.spans],
    }
    if example.id:
        record["id"] = example.id
    return {**record, **_extra(example, _GLINER, report)}


# --------------------------------------------------------------------------------------------------
# doccano: {"id", "text", "label": [[start, end, label]]}, or with relations
# {"id", "text", "entities": [{"id", "label", "start_offset", "end_offset"}], "relations": [...]}

_DOCCANO = frozenset({"id", "text", "label", "labels", "entities", "relations"})


def _parse_doccano(record: Record, report: Report, place: str, index: str) -> Example:
    text = _text(record)
    if record.get("relations"):
        report.lose("relations dropped", place, len(record["relations"]))
    if record.get("entities"):
        found = [(e["start_offset"], e["end_offset"], e["label"]) for e in record["entities"]]
    else:
        found = [_three(entity) for entity in record.get("label", record.get("labels")) or ()]
    entities = [_entity(text, label, start, end) for start, end, label in found]
    return build_example(
        text,
        entities,
        report,
        place,
        id=_own_id(record, index),
        extra=_rest(record, _DOCCANO),
    )


def _three(entity: Any) -> tuple[Any, Any, Any]:
    if not isinstance(entity, list) or len(entity) != 3:
        raise DataError(f"`label` must hold [start, end, label], was: {entity!r:.100}")
    return entity[0], entity[1], entity[2]


def _render_doccano(example: Example, report: Report) -> dict[str, Any]:
    _lose_scores(example, report)
    _lose_labels(example, report)
    _lose_words(example, report)
    label = [[entity.start, entity.end, entity.label] for entity in example.entities()]
    record: dict[str, Any] = {"id": example.id} if example.id else {}
    record |= {"text": example.text, "label": label}
    return {**record, **_extra(example, _DOCCANO, report)}


def _lose_words(example: Example, report: Report) -> None:
    if not example.has_default_words:
        report.lose("texts lost their own cut into words")


# --------------------------------------------------------------------------------------------------
# Prodigy: {"text", "tokens": [{"text", "start", "end", "id", "ws"}],
#           "spans": [{"start", "end", "token_start", "token_end" (inclusive), "label"}]}

_PRODIGY = frozenset({"text", "tokens", "spans", "id", "label_set"})


def _parse_prodigy(record: Record, report: Report, place: str, index: str) -> Example | None:
    text = _text(record)
    answer = record.get("answer", "accept")
    if answer != "accept":
        report.lose(f"records left out, because their answer is not accept but {answer}", place)
        return None
    entities = [
        _checked(
            _entity(text, s.get("label"), s["start"], s["end"], s.get("score", 1.0)), s.get("text")
        )
        for s in record.get("spans") or ()
    ]
    offsets = None
    if tokens := record.get("tokens"):
        offsets = [
            (t["start"], t["end"]) for t in tokens if not text[t["start"] : t["end"]].isspace()
        ]
        check_offsets(offsets, text)
    return build_example(
        text,
        entities,
        report,
        place,
        offsets,
        id=_own_id(record, index),
        extra=_rest(record, _PRODIGY),
    )


def _render_prodigy(example: Example, report: Report) -> dict[str, Any]:
    _lose_labels(example, report)
    text = example.text
    tokens = [
        {"text": text[a:b], "start": a, "end": b, "id": index, "ws": text[b : b + 1] == " "}
        for index, (a, b) in enumerate(example.offsets)
    ]
    spans = []
    for span, entity in zip(example.spans, scored_entities(example), strict=True):
        record = {
            "start": entity.start,
            "end": entity.end,
            "token_start": span.start,
            "token_end": span.end - 1,
            "label": entity.label,
        }
        spans.append(record if entity.score == 1.0 else {**record, "score": entity.score})
    head: dict[str, Any] = {"id": example.id} if example.id else {}
    head |= {"text": text, "tokens": tokens, "spans": spans}
    return {**head, **_extra(example, _PRODIGY, report)}


DIALECTS = {
    "nomina": Dialect(
        '{"text": "to Paris", "entities": [{"start": 3, "end": 8, "label": "city"}]}',
        _parse_ours,
        _render_ours,
    ),
    "gner": Dialect(
        '{"instance": {"words": ["to", "Paris"], "labels": ["O", "B-city"]}}',
        _parse_gner,
        _render_gner,
    ),
    "tokens": Dialect(
        '{"tokens": ["to", "Paris"], "labels": ["O", "B-city"]}', _parse_gner, _render_tokens
    ),
    "gliner": Dialect(
        '{"tokenized_text": ["to", "Paris"], "ner": [[1, 1, "city"]]}',
        _parse_gliner,
        _render_gliner,
    ),
    "doccano": Dialect(
        '{"text": "to Paris", "label": [[3, 8, "city"]]}', _parse_doccano, _render_doccano
    ),
    "prodigy": Dialect(
        '{"text": "to Paris", "tokens": [{"text": "to", "start": 0, "end": 2}, {"text": "Paris", '
        '"start": 3, "end": 8}], "spans": [{"start": 3, "end": 8, "label": "city"}]}',
        _parse_prodigy,
        _render_prodigy,
    ),
}
_OF_TEXTS = ("nomina", "doccano", "prodigy")
