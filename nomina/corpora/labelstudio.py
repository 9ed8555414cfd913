"""Label Studio: the JSON export (tasks with `data`, `annotations`, `predictions`) and JSON_MIN.

Of several annotations of one task the first that was not cancelled is read, the others are counted;
a task with none falls back on its first prediction. Regions that are no text labels (relations,
choices, boxes) are counted.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from nomina.corpora.corpus import Report, build_example
from nomina.corpora.files import write_whole
from nomina.corpora.jsonl import read_records, say_why, scored_entities
from nomina.entities import Entity, Example
from nomina.errors import DataError

_TASK_KEYS = frozenset({"id", "data", "annotations", "predictions", "completions"})
SHAPE = (
    '{"data": {"text": "to Paris"}, "annotations": [{"result": [{"type": "labels", "value": '
    '{"start": 3, "end": 8, "labels": ["city"]}}]}]}'
)
_OF_THE_TASK = frozenset(
    """
    meta created_at updated_at inner_id total_annotations cancelled_annotations total_predictions
    comment_count unresolved_comment_count last_comment_updated_at project updated_by drafts
    comment_authors file_upload agreement annotator annotation_id lead_time
    """.split()
)


def is_task(record: Any) -> bool:
    """Tell whether a JSON record is a task of Label Studio, in full or in JSON_MIN.

    Others have fields such as `annotator` too; what they mark tells them apart.

    Example:
        >>> is_task({"data": {"text": "hi"}, "annotations": []})
        True
    """
    if not isinstance(record, dict):
        return False
    if isinstance(record.get("data"), dict):
        return any(key in record for key in ("annotations", "predictions", "completions"))
    if not any(key in record for key in ("annotator", "annotation_id", "lead_time")):
        return False
    return not any(_is_of_others(record.get(key)) for key in ("entities", "spans", "label"))


def read_label_studio(path: Path, report: Report, text_column: str = "") -> Iterator[Example]:
    """Yield the tasks of an export.

    Args:
        path: JSON array or JSON lines.
        report: Where losses are counted and bad tasks set aside.
        text_column: The key of `data` that holds the text. Defaults to `text`, or to the only
            string there is.

    Raises:
        DataError: If the file is not JSON; unless errors are skipped, if a task is malformed.
    """
    index = -1
    for place, task, raw in read_records(path, report):
        index += 1
        try:
            yield _parse(task, report, place, str(index), text_column)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            reason = say_why(error, place, "a task of Label Studio", SHAPE)
            report.reject(place, reason, raw or json.dumps(task))


def _parse(task: Any, report: Report, place: str, index: str, text_column: str) -> Example:
    if not isinstance(task, dict):
        raise DataError(f"expected a task (an object), was: {type(task).__name__}")
    data = task.get("data")
    if isinstance(data, dict):
        key = _text_key(data, text_column)
        result = _result(task, report, place)
        extra = {name: value for name, value in task.items() if name not in _TASK_KEYS}
        extra |= {name: value for name, value in data.items() if name not in (key, "id", "source")}
    else:  # JSON_MIN: data and results in one object
        key = _text_key(task, text_column)
        regions = {k: v for k, v in task.items() if _is_regions(v)}
        result = [{"type": "labels", "value": region} for v in regions.values() for region in v]
        if not regions:
            report.lose("tasks without a result, read as texts without entities", place)
        extra = {k: v for k, v in task.items() if k not in (key, "id", "source", *regions)}
        data = task
    text = data[key]
    entities = _entities(result, text, report, place)
    own = data.get("id", task.get("id"))
    return build_example(
        text,
        entities,
        report,
        place,
        id=index if own is None else str(own),
        source=str(data.get("source") or ""),
        extra=extra,
    )


def _is_regions(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(x, dict) and "start" in x and "labels" in x for x in value)
    )


def _is_of_others(marks: Any) -> bool:
    # JSON_MIN leaves empty results out, and a region has `labels`
    return isinstance(marks, list) and not (
        marks and all(isinstance(x, dict) and "label" not in x for x in marks)
    )


def _text_key(data: Mapping[str, Any], wanted: str) -> str:
    strings = [key for key, value in data.items() if isinstance(value, str)]
    for key in (wanted,) if wanted else ("text",):
        if key in strings:
            return key
    if len(strings) == 1 and not wanted:
        return strings[0]
    raise DataError(
        f"`data` has no text under {wanted or 'text'!r}; its strings are {strings}. "
        "Name the key with --text-column."
    )


def _result(task: Mapping[str, Any], report: Report, place: str) -> list[Any]:
    annotations = task.get("annotations", task.get("completions"))
    if annotations is not None and not isinstance(annotations, list):
        raise DataError(f"`annotations` must be a list, was: {type(annotations).__name__}")
    valid = [a for a in annotations or () if not a.get("was_cancelled")]
    if annotations and len(valid) < len(annotations):
        report.lose("cancelled annotations left out", place, len(annotations) - len(valid))
    if len(valid) > 1:
        report.lose("annotations by further annotators left out", place, len(valid) - 1)
    if not valid:
        valid = list(task.get("predictions") or ())[:1]
        if valid:
            report.lose("tasks without an annotation, read from their prediction", place)
    if not valid:
        report.lose("tasks without an annotation, read as texts without entities", place)
        return []
    result = valid[0].get("result")
    if not isinstance(result, list):
        raise DataError(f"`result` must be a list of regions, was: {result!r}")
    return result


def _entities(result: list[Any], text: str, report: Report, place: str) -> list[Entity]:
    entities = []
    for region in result:
        kind = region.get("type", "labels")
        value = region.get("value")
        labels = (value or {}).get(kind, (value or {}).get("labels"))
        is_label = kind in ("labels", "hypertextlabels")
        if not is_label or not labels:
            report.lose(f"regions left out: {'without a label' if is_label else kind}", place)
            continue
        if len(labels) > 1:
            report.lose("further labels of one region left out", place, len(labels) - 1)
        start, end = _offsets(value, text, report, place)
        score = region.get("score", value.get("score"))
        score = 1.0 if score is None else float(score)
        entities.append(Entity("", str(labels[0]), start, end, score))
    return entities


def _offsets(value: Mapping[str, Any], text: str, report: Report, place: str) -> tuple[int, int]:
    start, end = value["start"], value["end"]
    if not isinstance(start, int) or not isinstance(end, int):
        offsets = value.get("globalOffsets")  # hypertext: start and end are XPaths
        if not isinstance(offsets, dict):
            raise DataError(f"offsets must be whole numbers, were: {start!r}, {end!r}")
        start, end = int(offsets["start"]), int(offsets["end"])
    given = value.get("text")
    if not isinstance(given, str) or text[start:end] == given:
        return start, end
    # Some tools count UTF-16 units, as JavaScript does; an emoji before the entity shows it.
    wide = text.encode("utf-16-le")
    surface = wide[2 * start : 2 * end].decode("utf-16-le", "replace")
    if surface != given and _flat(given) == _flat(text[start:end]):
        return start, end
    if surface == given or _flat(given) == _flat(surface):
        report.lose("offsets counted in UTF-16 units, changed to characters", place)
        head = wide[: 2 * start].decode("utf-16-le", "replace")
        return len(head), len(head) + len(surface)
    raise DataError(
        f"a region says {given!r}, but the text from {start} to {end} is {text[start:end]!r}"
    )


def _flat(text: str) -> list[str]:
    r"""Words of a text; Label Studio's editor writes a line break as the two signs `\\n`."""
    return text.replace("\\n", " ").split()


def write_label_studio(examples: Iterable[Example], path: Path, report: Report) -> None:
    """Write tasks for import: entities with scores as predictions, the others as annotations.

    The labelling configuration that fits is
    `<View><Labels name="label" toName="text">...</Labels><Text name="text" value="$text"/></View>`.

    Raises:
        DataError: If the file cannot be written.
    """
    encode = json.JSONEncoder(ensure_ascii=False, default=str).encode
    with write_whole(path) as file:
        separator = "[\n"
        for example in examples:
            file.write(separator + encode(_render(example, report)))
            separator = ",\n"
        file.write("[]\n" if separator == "[\n" else "\n]\n")


def _render(example: Example, report: Report) -> dict[str, Any]:
    if example.labels is not None:
        report.lose("examples lost their own label set")
    if not example.has_default_words:
        report.lose("texts lost their own cut into words")
    has_scores = "scores" in example.extra
    result = []
    for number, entity in enumerate(scored_entities(example)):
        value = {
            "start": entity.start,
            "end": entity.end,
            "text": entity.text,
            "labels": [entity.label],
        }
        region = {"id": f"e{number}", "from_name": "label", "to_name": "text", "type": "labels"}
        score = {"score": entity.score} if has_scores else {}
        result.append({**region, "value": value, **score})
    # Label Studio keeps what stands in `data`, and numbers its tasks itself
    task: dict[str, Any] = {}
    data: dict[str, Any] = {}
    if example.id.isdecimal() and str(int(example.id)) == example.id:
        task["id"] = int(example.id)
    elif example.id:
        data["id"] = example.id
    if example.source:
        data["source"] = example.source
    for key, value in example.extra.items():
        if key in _OF_THE_TASK:
            task[key] = value
        elif key in ("text", "id", "source") or key in _TASK_KEYS:
            report.lose(f"fields left out, because the target has its own: {key}")
        elif key != "scores":
            data[key] = value
    task["data"] = {**data, "text": example.text}
    task["predictions" if has_scores else "annotations"] = [{"result": result}]
    return task
