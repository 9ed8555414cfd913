"""Gold and predicted entities of a sentence, and the files that hold them.

`Prediction` is what every measure takes. Files are JSON lines, plain or gzipped, in three forms
that may be mixed:

- ours: `{"id", "corpus", "words", "labels", "gold": [[start, end, label], ...], "predicted":
  [[start, end, label, score], ...]}`; spans may be objects, or a list of tags; `completion` (with
  `format`) may stand in place of `predicted`, and `tokens` in place of `words`;
- GNER's: `{"dataset", "label_list", "instance": {"words", "labels"}, "prediction": "in(O) ..."}`;
- predictions alone, `{"id", "predicted"}`, where the gold comes from elsewhere.

What is odd is counted by name in `Problems` and never guessed in silence. Knows nothing of
measures or models.
"""

from __future__ import annotations

import dataclasses
import gzip
import io
import json
import math
import os
import sys
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO, cast

from nomina.alignment import Alignment, AlignmentSummary, Mode, Unknown, align, gner_spans
from nomina.corpora.files import open_bytes
from nomina.entities import Example, Span, normalize_label, tags_to_spans
from nomina.errors import DataError, NominaError

SURROGATES = "backslashreplace"  # half a surrogate pair, which UTF-8 lacks, as JSON names it
MAX_PLACES = 5  # a problem names this many places, then only counts


@dataclass(frozen=True, slots=True)
class Prediction:
    """The gold and the predicted entities of one sentence.

    Attributes:
        words: The words.
        gold: Gold entities as spans of words.
        predicted: Predicted entities as spans of words.
        scores: A probability for each predicted entity; empty if there are none. NaN for unknown.
        id: Name of the sentence inside its corpus.
        corpus: Name of the corpus.
        labels: The labels that were asked for; empty if unknown.

    Example:
        >>> Prediction(["in", "Paris"], (Span(1, 2, "city"),), (Span(1, 2, "city"),)).num_correct
        1
    """

    words: Sequence[str]
    gold: tuple[Span, ...]
    predicted: tuple[Span, ...]
    scores: tuple[float, ...] = ()
    id: str = ""
    corpus: str = ""
    labels: tuple[str, ...] = ()

    @property
    def num_correct(self) -> int:
        """Predicted entities with the position and the label of a gold one."""
        return len(set(self.gold) & set(self.predicted))

    def to_dict(self) -> dict[str, Any]:
        """Return the sentence as a JSON-ready dict, the form that `read_predictions` reads."""
        scores = self.scores or (None,) * len(self.predicted)
        out: dict[str, Any] = {"id": self.id, "corpus": self.corpus, "words": list(self.words)}
        out["labels"] = list(self.labels)
        out["gold"] = [list(span) for span in self.gold]
        out["predicted"] = [
            [*span] if score is None or math.isnan(score) else [*span, round(score, 6)]
            for span, score in zip(self.predicted, scores, strict=True)
        ]
        return out


# --------------------------------------------------------------------------------------------------
# What was odd


@dataclass
class Problems:
    """Odd things in the data: what, how often, and where the first ones are.

    `errors` make a sentence's prediction unusable; `notes` were read as they are documented.
    """

    errors: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    places: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def error(self, what: str, place: str) -> None:
        """Count something that cannot be scored."""
        self.errors[what] += 1
        self._at(what, place)

    def note(self, what: str, place: str = "", count: int = 1) -> None:
        """Count something that can be scored, but that a user should know."""
        if count:
            self.notes[what] += count
            self._at(what, place)

    def _at(self, what: str, place: str) -> None:
        if place and len(self.places[what]) < MAX_PLACES:
            self.places[what].append(place)

    def lines(self) -> list[str]:
        """Return one line a problem, errors first."""
        out = []
        for what, count in [*self.errors.most_common(), *self.notes.most_common()]:
            places = self.places[what]
            more = ", ..." if count > len(places) and places else ""
            out.append(f"{count} x {what}" + (f" ({', '.join(places)}{more})" if places else ""))
        return out

    def raise_if_errors(self, hint: str) -> None:
        """Raise for the errors, if there are any.

        Raises:
            DataError: Naming and counting each kind.
        """
        if self.errors:
            shown = "\n  ".join(self.lines()[: len(self.errors)])
            raise DataError(
                f"{self.errors.total()} predictions cannot be scored:\n  {shown}\n{hint}"
            )


@dataclass
class PredictionSet:
    """Predictions with what reading them brought to light.

    Attributes:
        predictions: The sentences in the order of the file.
        problems: What was odd.
        alignments: How completions fitted their sentences; empty if there were none.
    """

    predictions: list[Prediction]
    problems: Problems = field(default_factory=Problems)
    alignments: AlignmentSummary = field(default_factory=AlignmentSummary)

    def by_corpus(self) -> dict[str, list[Prediction]]:
        """Return the predictions of each corpus, in order of first appearance."""
        out: dict[str, list[Prediction]] = {}
        for prediction in self.predictions:
            out.setdefault(prediction.corpus, []).append(prediction)
        return out

    def note_labels(self) -> None:
        """Note labels that only predictions have, and corpora without a gold entity."""
        for corpus, rows in self.by_corpus().items():
            gold = {span.label for row in rows for span in row.gold}
            asked = {label for row in rows for label in row.labels}
            alone = Counter(
                span.label for row in rows for span in row.predicted if span.label not in gold
            )
            for label, count in alone.items():
                known = "" if label not in asked else " (it was asked for)"
                what = f"label {label!r} is predicted but never gold{known}"
                self.problems.note(what, corpus, count)
            if not gold:
                self.problems.note("corpus without any gold entity: F1 is 0 by convention", corpus)


# --------------------------------------------------------------------------------------------------
# Files


def read_predictions(
    *paths: str | Path,
    mode: Mode = "gner",
    unknown: Unknown = "report",
    gold: Iterable[Example] | None = None,
    drop: Sequence[str] = (),
    is_lenient: bool = False,
) -> PredictionSet:
    """Read files of predictions as one set.

    Args:
        paths: JSON lines, plain or `.gz`. In all of them an id stands once in its corpus, and
            together they hold what the gold does.
        mode: How completions are aligned; see `alignment.align`. Defaults to the published way.
        unknown: What becomes of labels that were not asked for; see `alignment.align`.
        gold: The gold sentences, matched by id, in place of gold in the file.
        drop: Labels to take out of gold and predictions.
        is_lenient: Whether predictions that cannot be read, or are missing, are scored as empty,
            and sentences whose gold cannot be read are left out. Otherwise they are an error.

    Raises:
        DataError: If a file cannot be read or is given twice, a sentence has no gold, or (unless
            lenient) predictions do not match their gold by id or by length, or gold cannot be read.
    """
    for name, times in Counter(map(os.path.realpath, paths)).items():
        if times > 1:
            raise DataError(f"{name}: is given {times} times; its sentences would count as often.")
    out = PredictionSet([])
    by_id = None if gold is None else _by_id(gold, out.problems)
    seen: set[tuple[str, str]] = set()
    for path in paths:
        reader = _Reader(mode, unknown, out, by_id)
        num_before = len(out.predictions)
        for place, row in read_json_lines(path):
            prediction = reader.read(row, place)
            if prediction is None:
                continue
            key = (prediction.corpus, prediction.id)
            if prediction.id and key in seen:
                out.problems.error(
                    "id that stands twice in its corpus", f"{place}: {prediction.id!r}"
                )
                continue
            seen.add(key)
            out.predictions.append(_without(prediction, drop) if drop else prediction)
        reader.finish()
        if len(out.predictions) == num_before and not out.problems.errors:
            raise DataError(f"{path}: has no predictions. Expected one JSON object a line.")
    if by_id is not None:
        ids = {prediction.id for prediction in out.predictions}
        for name, example in by_id.items():
            if name not in ids:
                out.problems.error("gold sentence without a prediction", repr(name))
                row_gold = Prediction(example.words, example.spans, (), (), name, example.source)
                out.predictions.append(_without(row_gold, drop) if drop else row_gold)
    if not is_lenient:
        out.problems.raise_if_errors(
            f"in {', '.join(map(str, paths))}. Repair them, or score them as empty predictions "
            "with --lenient."
        )
    out.note_labels()
    return out


def write_predictions(path: str | Path, predictions: Iterable[Prediction]) -> None:
    """Write predictions as JSON lines, gzipped if the name ends in `.gz`."""
    opener = gzip.open if str(path).endswith(".gz") else open
    with cast("TextIO", opener(path, "wt", encoding="utf-8", errors=SURROGATES)) as file:
        for prediction in predictions:
            file.write(json.dumps(prediction.to_dict(), ensure_ascii=False) + "\n")


def read_json_lines(path: str | Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (`file:line`, object) of a file of JSON lines, plain or gzipped; skip blank lines.

    Raises:
        DataError: If the file cannot be read, or a line is no JSON object.
    """
    path = Path(path)
    try:
        with open_bytes(path) as raw, io.TextIOWrapper(raw, encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise DataError(f"{path}:{number}: is not JSON: {error}") from error
                if not isinstance(row, dict):
                    raise DataError(f"{path}:{number}: must be a JSON object, was: {row!r:.80}")
                yield f"{path.name}:{number}", row
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8: {error}") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def _by_id(gold: Iterable[Example], problems: Problems) -> dict[str, Example]:
    out: dict[str, Example] = {}
    for index, example in enumerate(gold):
        name = example.id or str(index)
        if name in out:
            problems.error("gold id that stands twice", repr(name))
        out.setdefault(name, example)
    return out


def _without(prediction: Prediction, drop: Sequence[str]) -> Prediction:
    out = {normalize_label(label) for label in drop}

    def stays(label: str) -> bool:
        return normalize_label(label) not in out

    keep = [k for k, span in enumerate(prediction.predicted) if stays(span.label)]
    return dataclasses.replace(
        prediction,
        gold=tuple(span for span in prediction.gold if stays(span.label)),
        predicted=tuple(prediction.predicted[k] for k in keep),
        scores=tuple(prediction.scores[k] for k in keep) if prediction.scores else (),
        labels=tuple(label for label in prediction.labels if stays(label)),
    )


class _Unreadable(Exception):
    """A part of a row that cannot be read; its message becomes the name of a problem."""


class _Reader:
    """Reads rows of any form, and counts what is odd about them."""

    def __init__(
        self,
        mode: Mode,
        unknown: Unknown,
        out: PredictionSet,
        gold: dict[str, Example] | None,
    ) -> None:
        self.mode, self.unknown, self.out, self.gold = mode, unknown, out, gold
        self.is_gner = False
        self.schemes = {"gold": _SchemeCheck(), "predicted": _SchemeCheck()}

    def read(self, row: dict[str, Any], place: str) -> Prediction | None:
        self.is_gner = "instance" in row  # its tags are read as its evaluator reads them
        if self.is_gner:
            row = _flat(row, place)
        name = "" if row.get("id") is None else str(row["id"])
        labels: tuple[str, ...] = ()
        words: Any
        if self.gold is not None:
            example = self.gold.get(name)
            if example is None:
                self.out.problems.error("prediction whose id no gold sentence has", f"{name!r}")
                return None
            words, gold, corpus = example.words, example.spans, example.source
            if given := row.get("words", row.get("tokens")):
                if list(given) != words:
                    self.out.problems.note("words that differ from the gold's", f"{name!r}")
        else:
            words = row.get("words", row.get("tokens"))
            if not isinstance(words, list) or not all(isinstance(w, str) for w in words):
                raise DataError(f"{place}: needs `words`, a list of strings. Keys: {sorted(row)}")
            corpus = str(row.get("corpus") or row.get("dataset") or "predictions")
            gold_data = row.get("gold", row.get("tags", row.get("labels")))
            if gold_data is None:
                raise DataError(
                    f"{place}: has no gold entities (`gold`, or tags in `labels`). "
                    "Give the gold with --gold FILE."
                )
            try:
                gold, _ = self._spans(gold_data, len(words), "gold", place)
            except _Unreadable as error:
                self.out.problems.error(f"{error}; the sentence is left out", place)
                return None
        names = row.get("label_list", row.get("labels") if "gold" in row else None)
        if isinstance(names, list):
            labels = tuple(sys.intern(str(label)) for label in names)
        predicted: tuple[Span, ...] = ()
        scores: tuple[float, ...] = ()
        try:
            predicted, scores = self._predicted(row, words, labels, place)
        except _Unreadable as error:
            self.out.problems.error(str(error), place)
        return Prediction(words, gold, predicted, scores, name, corpus, labels)

    def _predicted(
        self, row: Mapping[str, Any], words: list[str], labels: tuple[str, ...], place: str
    ) -> tuple[tuple[Span, ...], tuple[float, ...]]:
        for key in ("predicted", "prediction", "predictions", "completion"):
            if row.get(key) is not None:
                data = row[key]
                break
        else:
            raise _Unreadable("sentence without `predicted`, `prediction` or `completion`")
        if not isinstance(data, str):
            spans, scores = self._spans(data, len(words), "predicted", place)
            if scores and (bad := sum(math.isnan(score) for score in scores)):
                self.out.problems.note(
                    "score that is missing or not a number; left out of calibration", place, bad
                )
                if bad == len(scores) and not any(_has_score(item) for item in data):
                    scores = ()
            return spans, scores
        try:
            found: Alignment = align(
                words,
                data.strip(),
                str(row.get("format", "gner")),
                labels or None,
                unknown=self.unknown,
                mode=self.mode,
            )
        except NominaError as error:
            raise _Unreadable(f"completion that cannot be read: {error}") from error
        self.out.alignments.add(found)
        return tuple(found.spans), ()

    def _spans(
        self, data: Any, num_words: int, what: str, place: str
    ) -> tuple[tuple[Span, ...], tuple[float, ...]]:
        if not isinstance(data, list):
            raise _Unreadable(f"{what} that is no list but {type(data).__name__}")
        if data and isinstance(data[0], str):
            if len(data) != num_words:
                raise _Unreadable(f"{what} with another number of tags than words")
            self.schemes[what].add(data, place, self.out.problems, what)
            try:
                spans = gner_spans(data) if self.is_gner else tags_to_spans(data)
            except NominaError as error:
                raise _Unreadable(f"{what}: {error}") from error
            return tuple(Span(a, b, sys.intern(label)) for a, b, label in spans), ()
        spans, scores = [], []
        for item in data:
            span, score = _span(item, what)
            if not 0 <= span.start < span.end <= num_words:
                raise _Unreadable(f"{what} entity outside its sentence, or empty")
            spans.append(span)
            scores.append(score)
        return tuple(spans), tuple(scores)

    def finish(self) -> None:
        for what, check in self.schemes.items():
            check.finish(self.out.problems, what)


def _flat(row: dict[str, Any], place: str) -> dict[str, Any]:
    """GNER's nested row as a flat one."""
    instance = row["instance"]
    if not isinstance(instance, dict):
        raise DataError(f"{place}: `instance` must be an object, was: {instance!r:.80}")
    flat = {key: value for key, value in row.items() if key != "instance"}
    flat["words"] = instance.get("words")
    flat["gold"] = instance.get("labels")
    flat["id"] = row.get("id", instance.get("id", ""))
    flat.pop("labels", None)
    return flat


def _span(item: Any, what: str) -> tuple[Span, float]:
    if isinstance(item, dict):
        item = [item.get(key) for key in ("start", "end", "label", "score")]
    if not isinstance(item, list) or len(item) not in (3, 4):
        raise _Unreadable(f"{what} entity that is no [start, end, label] or [..., score]")
    start, end, label = item[:3]
    is_range = isinstance(start, int) and isinstance(end, int)
    if not is_range or not isinstance(label, str) or not label:
        raise _Unreadable(f"{what} entity that is no [start, end, label] or [..., score]")
    score = item[3] if len(item) == 4 else None
    if not isinstance(score, (int, float)):
        score = math.nan
    if not math.isnan(score) and not 0 <= score <= 1:
        raise _Unreadable(f"{what} score that is not between 0 and 1")
    return Span(start, end, sys.intern(label)), float(score)


def _has_score(item: Any) -> bool:
    return item.get("score") is not None if isinstance(item, dict) else len(item) == 4


class _SchemeCheck:
    """Notices the scheme of tags; `tags_to_spans` reads all of them."""

    def __init__(self) -> None:
        self.num_b = self.num_b_needed = self.num_i_first = 0
        self.first_place = ""

    def add(self, tags: list[str], place: str, problems: Problems, what: str) -> None:
        before = "O"
        for tag in tags:
            head = tag[:1]
            if head == "B":
                self.num_b += 1
                self.num_b_needed += before[1:] == tag[1:] and before != "O"
            elif head == "I" and before[1:] != tag[1:]:
                self.num_i_first += 1
                self.first_place = self.first_place or place
            elif head and head in "ESLU":
                problems.note(f"{what} tag of BIOES or BILOU, read as such", place)
            before = tag

    def finish(self, problems: Problems, what: str) -> None:
        if not self.num_i_first:
            return
        if self.num_b == self.num_b_needed:
            text = f"{what} entity that starts with I- (all do: IOB1), read as such"
        else:
            text = f"{what} entity that starts with I- or changes its label, read as documented"
        problems.note(text, self.first_place, self.num_i_first)
