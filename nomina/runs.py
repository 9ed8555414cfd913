"""A tagger over corpora: what it predicts is written as it comes, and a killed run goes on.

A run is a folder:

    settings.json            what was asked for; a folder of other settings is not touched
    predictions/NAME.jsonl   a line a sentence, in order
    scores.json              written when all is done; its presence says so

Knows taggers only by their `pipe`, and neither terminals nor how figures are shown.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import random
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from nomina.documents import Document
from nomina.entities import Example, Label, LabelSet, Span, normalize_label
from nomina.errors import DataError
from nomina.predictions import SURROGATES, Prediction, Problems, read_json_lines

SETTINGS, SCORES, PREDICTIONS = "settings.json", "scores.json", "predictions"
_SAVE_SECONDS = 5.0  # at most this much time is lost from the count when a run is killed


class Tagger(Protocol):
    """What `nomina.load` returns, as far as a run needs it."""

    def pipe(
        self, inputs: Iterable[Any], *, labels: LabelSet, threshold: float | None
    ) -> Iterator[Document]:
        """Yield a document for each input, in order, lazily."""
        ...


@dataclass(frozen=True)
class Task:
    """One corpus to predict.

    Attributes:
        name: Its name in scores and files, such as `crossner_ai`.
        examples: Its sentences.
        labels: The labels to ask for, where a sentence has no label set of its own.
        source: Where it was read, such as `crossner_ai:dev`.
    """

    name: str
    examples: Sequence[Example]
    labels: LabelSet
    source: str = ""

    def limited(self, limit: int | None, seed: int = 0) -> Task:
        """Return a seeded subset of at most `limit` sentences, in their order.

        Raises:
            DataError: If the limit is not positive.
        """
        if limit is None or len(self.examples) <= (limit if limit else 0):
            return self
        if limit < 1:
            raise DataError(f"--limit must be at least 1, was: {limit}")
        chosen = sorted(random.Random(seed).sample(range(len(self.examples)), limit))
        return dataclasses.replace(self, examples=[self.examples[k] for k in chosen])

    def defined(self, definitions: Mapping[str, str] | None) -> Task:
        """Return the task with definitions for its labels, or with none if there is no mapping."""

        def apply(labels: LabelSet) -> LabelSet:
            return LabelSet(
                tuple(
                    Label(label.name)
                    if definitions is None
                    else dataclasses.replace(
                        label,
                        definition=label.definition
                        or definitions.get(normalize_label(label.name), ""),
                    )
                    for label in labels
                )
            )

        done: dict[int, LabelSet] = {}
        examples = []
        for example in self.examples:
            own = example.labels
            if own is not None:
                ready = done.get(id(own))
                if ready is None:
                    ready = done[id(own)] = apply(own)
                example = dataclasses.replace(example, labels=ready)
            examples.append(example)
        return dataclasses.replace(self, examples=examples, labels=apply(self.labels))

    def grouped(self) -> Task:
        """Return the task with sentences of one label set together: they share a prompt."""
        first: dict[LabelSet | None, int] = {}
        for example in self.examples:
            first.setdefault(example.labels, len(first))
        if len(first) < 2:
            return self
        return dataclasses.replace(
            self, examples=sorted(self.examples, key=lambda example: first[example.labels])
        )


@dataclass
class Run:
    """What a run found.

    Attributes:
        predictions: Predictions of each task.
        seconds: Time spent predicting, earlier attempts included.
        num_resumed: Sentences that an earlier, killed attempt had done.
        problems: What was odd.
    """

    predictions: dict[str, list[Prediction]]
    seconds: float = 0.0
    num_resumed: int = 0
    problems: Problems = field(default_factory=Problems)


def run_tasks(
    load_tagger: Callable[[], Tagger],
    tasks: Sequence[Task],
    folder: str | Path,
    settings: Mapping[str, Any],
    *,
    threshold: float | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Run:
    """Predict tasks, saving each sentence as it comes; go on with a killed run.

    Args:
        load_tagger: Called once, and only if something is left to predict.
        tasks: What to predict.
        folder: Where the run is kept.
        settings: What makes two runs the same: model, corpora, limits.
        threshold: Entities below this score are not predicted. Defaults to the model's own.
        progress: Called with a task's name, sentences done and sentences in all.

    Raises:
        DataError: If the folder holds a run of other settings, or it cannot be written.
    """
    folder = Path(folder)
    _prepare(folder, settings)
    out = Run({})
    clock = _Clock(folder / PREDICTIONS / ".seconds")
    loaded: list[Tagger] = []

    def tagger() -> Tagger:
        if not loaded:
            loaded.append(load_tagger())
        return loaded[0]

    for task in tasks:
        path = folder / PREDICTIONS / f"{file_name(task.name)}.jsonl"
        done = _read_done(path, task, out.problems)
        out.num_resumed += len(done)
        rows = list(done)
        if progress:
            progress(task.name, len(rows), len(task.examples))
        with path.open("a", encoding="utf-8", errors=SURROGATES) as file:
            for prediction in _predict(tagger, task, len(done), threshold, out.problems, clock):
                file.write(json.dumps(prediction.to_dict(), ensure_ascii=False) + "\n")
                file.flush()
                rows.append(prediction)
                if progress:
                    progress(task.name, len(rows), len(task.examples))
        out.predictions[task.name] = rows
    out.seconds = clock.save()
    return out


def file_name(name: str) -> str:
    """Return a name that every file system takes.

    Example:
        >>> file_name("data/my set.conll:dev")
        'data_my_set.conll_dev'
    """
    return "".join(char if char.isalnum() or char in "._-" else "_" for char in name).strip("_.")


class _Clock:
    """Time spent predicting, kept in a file so that a resumed run knows it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.before = float(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self.before = 0.0
        self.spent = 0.0
        self.saved = 0.0

    def add(self, seconds: float) -> None:
        self.spent += seconds
        if self.spent - self.saved > _SAVE_SECONDS:
            self.save()

    def save(self) -> float:
        self.saved = self.spent
        total = self.before + self.spent
        self.path.write_text(f"{total:.3f}\n", encoding="utf-8")
        return total


def _prepare(folder: Path, settings: Mapping[str, Any]) -> None:
    """Make the folder, or check that it holds an unfinished run of the same settings."""
    wanted = json.loads(json.dumps(settings))
    path = folder / SETTINGS
    try:
        if path.is_file():
            try:
                given = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise DataError(f"{path}: is not JSON: {error}. Use another --output.") from error
            if (folder / SCORES).is_file():
                for old in (folder / PREDICTIONS).glob("*.jsonl"):
                    old.unlink()
                (folder / PREDICTIONS / ".seconds").unlink(missing_ok=True)
                (folder / SCORES).unlink()
            elif given != wanted:
                keys = sorted(k for k in {*given, *wanted} if given.get(k) != wanted.get(k))
                changes = ", ".join(f"{k}: {given.get(k)!r} -> {wanted.get(k)!r}" for k in keys)
                raise DataError(
                    f"{folder} holds an unfinished evaluation with other settings ({changes}). "
                    "Go on with those, use another --output, or delete the folder."
                )
        elif folder.is_dir() and any(folder.iterdir()):
            raise DataError(
                f"{folder} has files but is no evaluation (no {SETTINGS}). Use another --output."
            )
        (folder / PREDICTIONS).mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(wanted, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise DataError(f"{folder}: cannot be written: {error}") from error


def _read_done(path: Path, task: Task, problems: Problems) -> list[Prediction]:
    """Read what an earlier attempt wrote; a half line at the end is cut off."""
    if not path.is_file():
        return []
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) != len(data):
        path.write_bytes(whole)
    rows: list[Prediction] = []
    for example, (place, row) in zip(task.examples, read_json_lines(path), strict=False):
        if row.get("words") != example.words:
            problems.note("saved prediction of another sentence; done anew from there", place)
            lines = whole.split(b"\n")
            path.write_bytes(b"".join(line + b"\n" for line in lines[: len(rows)]))
            break
        spans = [Span(*item[:3]) for item in row["predicted"]]
        scores = tuple(float(item[3]) if len(item) > 3 else math.nan for item in row["predicted"])
        rows.append(_prediction(example, task, tuple(spans), scores))
    return rows


def _predict(
    tagger: Callable[[], Tagger],
    task: Task,
    start: int,
    threshold: float | None,
    problems: Problems,
    clock: _Clock,
) -> Iterator[Prediction]:
    rest = task.examples[start:]
    for labels, group in itertools.groupby(rest, key=lambda e: e.labels or task.labels):
        examples = list(group)
        begun = time.perf_counter()
        documents = tagger().pipe(examples, labels=labels, threshold=threshold)
        num_done = 0
        for example, document in zip(examples, documents, strict=False):
            num_done += 1
            clock.add(time.perf_counter() - begun)
            for warning in document.warnings:
                # What stands behind a colon differs from text to text.
                problems.note(warning.partition(": ")[0], f"{task.name} {example.id}")
            spans, scores = to_words(example, document, problems, task.name)
            yield _prediction(example, task, spans, scores)
            begun = time.perf_counter()
        if num_done != len(examples):
            raise DataError(
                f"the tagger gave {num_done} documents for {len(examples)} sentences of {task.name}"
            )


def _prediction(
    example: Example, task: Task, spans: tuple[Span, ...], scores: tuple[float, ...]
) -> Prediction:
    labels = (example.labels or task.labels).names
    return Prediction(example.words, example.spans, spans, scores, example.id, task.name, labels)


def to_words(
    example: Example, document: Document, problems: Problems, name: str = ""
) -> tuple[tuple[Span, ...], tuple[float, ...]]:
    """Turn a document's entities into spans of the example's words, with their scores.

    An entity that begins or ends inside a word is widened to the whole word, and counted.
    """
    starts = [start for start, _ in example.offsets]
    ends = [end for _, end in example.offsets]
    spans, scores = [], []
    for entity in document.entities:
        first, stop = bisect_right(ends, entity.start), bisect_left(starts, entity.end)
        if first >= stop:
            problems.note("entity without a word, left out", f"{name} {example.id}")
            continue
        if starts[first] != entity.start or ends[stop - 1] != entity.end:
            problems.note(
                "entity that begins or ends inside a word, widened", f"{name} {example.id}"
            )
        spans.append(Span(first, stop, entity.label))
        scores.append(entity.score)
    return tuple(spans), tuple(scores)
