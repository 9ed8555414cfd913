"""What goes wrong, sorted so that a person can act on it.

Every gold and every predicted entity falls into one class:

    correct    right position and label
    label      right position, other label
    boundary   overlaps a gold entity of its label
    both       overlaps a gold entity of another label
    missed     a gold entity that nothing overlaps (or that another prediction took)
    invented   a predicted entity that overlaps nothing (or nothing that is left)

`analyze` counts these by label, by length and by whether a label was seen in training, and keeps
examples. Knows nothing of files, models or how a report looks.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from nomina.entities import Span, normalize_label
from nomina.evaluation import Score
from nomina.predictions import Prediction

OUTCOMES = ("correct", "label", "boundary", "both", "missed", "invented")
NOTHING = "(nothing)"
MAX_EXAMPLES = 12
LENGTHS = ("1", "2", "3", "4", "5-7", "8+")
_CONTEXT_WORDS = 8


@dataclass(frozen=True)
class Case:
    """One error in its sentence.

    Attributes:
        outcome: One of `OUTCOMES`.
        corpus: Name of the corpus.
        id: Name of the sentence.
        before: Words before what is shown.
        gold: Text of the gold entity; empty for an invented one.
        gold_label: Its label.
        predicted: Text of the predicted entity; empty for a missed one.
        predicted_label: Its label.
        after: Words behind.
    """

    outcome: str
    corpus: str
    id: str
    before: str
    gold: str
    gold_label: str
    predicted: str
    predicted_label: str
    after: str


@dataclass
class Analysis:
    """Errors of a corpus, counted and shown.

    Attributes:
        outcomes: Entities in each class of the module's docstring.
        confusions: (gold label, predicted label), right position or overlapping, and how often;
            `(nothing)` stands for a missing side.
        boundaries: Kinds of boundary errors: too long, too short, shifted.
        by_label: Strict scores of each label, most frequent first.
        by_length: Strict scores of entities by their number of words.
        by_seen: Strict scores of labels seen and not seen in training, if that is known.
        frequent: The entities that are missed or invented most often.
        cases: Examples of each class of error.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    confusions: Counter[tuple[str, str]] = field(default_factory=Counter)
    boundaries: Counter[str] = field(default_factory=Counter)
    by_label: dict[str, Score] = field(default_factory=dict)
    by_length: dict[str, Score] = field(default_factory=dict)
    by_seen: dict[str, Score] = field(default_factory=dict)
    frequent: dict[str, list[tuple[str, str, int]]] = field(default_factory=dict)
    cases: dict[str, list[Case]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as a JSON-ready dict."""
        return {
            "outcomes": {name: self.outcomes[name] for name in OUTCOMES},
            "confusions": [
                {"gold": gold, "predicted": predicted, "count": count}
                for (gold, predicted), count in self.confusions.most_common()
            ],
            "boundaries": dict(self.boundaries.most_common()),
            "by_label": {name: _short(score) for name, score in self.by_label.items()},
            "by_length": {name: _short(score) for name, score in self.by_length.items()},
            "by_seen": {name: _short(score) for name, score in self.by_seen.items()},
            "frequent": {
                name: [{"text": text, "label": label, "count": n} for text, label, n in rows]
                for name, rows in self.frequent.items()
            },
            "cases": {name: [vars(case) for case in rows] for name, rows in self.cases.items()},
        }


def _short(score: Score) -> dict[str, float]:
    return {
        "precision": score.precision,
        "recall": score.recall,
        "f1": score.f1,
        "support": score.support,
    }


def match_entities(
    gold: Sequence[Span], predicted: Sequence[Span]
) -> list[tuple[str, Span | None, Span | None]]:
    """Pair gold and predicted entities and say what each pair is.

    Equal positions first, then the largest overlaps, those of equal labels before others.

    Example:
        >>> gold, have = [Span(0, 2, "x"), Span(3, 4, "y")], [Span(0, 1, "x"), Span(3, 4, "x")]
        >>> [outcome for outcome, *_ in match_entities(gold, have)]
        ['label', 'boundary']
    """
    out: list[tuple[str, Span | None, Span | None]] = []
    if gold == predicted:
        return [("correct", span, span) for span in gold]
    free_gold, free_predicted = Counter(gold), Counter(predicted)
    both = free_gold & free_predicted
    out += [("correct", span, span) for span in both.elements()]
    free_gold -= both
    free_predicted -= both
    pairs = sorted(
        (
            (a.start, a.end) != (b.start, b.end),
            a.label != b.label,
            max(a.start, b.start) - min(a.end, b.end),
            a,
            b,
        )
        for a in free_gold
        for b in free_predicted
        if a.start < b.end and b.start < a.end
    )
    for is_shifted, is_other, _, a, b in pairs:
        if free_gold[a] and free_predicted[b]:
            free_gold[a] -= 1
            free_predicted[b] -= 1
            outcome = ("both" if is_other else "boundary") if is_shifted else "label"
            out.append((outcome, a, b))
    out += [("missed", span, None) for span in free_gold.elements()]
    out += [("invented", None, span) for span in free_predicted.elements()]
    return out


def length_class(num_words: int) -> str:
    """Return the class of `LENGTHS` that an entity of so many words falls into.

    Example:
        >>> length_class(6)
        '5-7'
    """
    return str(num_words) if num_words < 5 else "5-7" if num_words < 8 else "8+"


def analyze(
    predictions: Iterable[Prediction],
    seen_labels: Iterable[str] | None = None,
    *,
    max_examples: int = MAX_EXAMPLES,
    seed: int = 0,
) -> Analysis:
    """Sort the errors of predictions.

    Args:
        predictions: Sentences of one or more corpora.
        seen_labels: Labels of the model's training data, if known; case and underscores do not
            count.
        max_examples: Cases to keep of each class, drawn evenly from all.
        seed: Seed of the draw.

    Example:
        >>> row = Prediction(["in", "Paris"], (Span(1, 2, "city"),), (Span(1, 2, "person"),))
        >>> analyze([row]).confusions
        Counter({('city', 'person'): 1})
    """
    seen = None if seen_labels is None else {normalize_label(label) for label in seen_labels}
    found = Analysis()
    counts: dict[str, defaultdict[str, list[int]]] = {
        name: defaultdict(lambda: [0, 0, 0]) for name in ("label", "length", "seen")
    }
    frequent: dict[str, Counter[tuple[str, str]]] = {"missed": Counter(), "invented": Counter()}
    sample = _Sample(max_examples, seed)
    for prediction in predictions:
        for outcome, gold, predicted in match_entities(prediction.gold, prediction.predicted):
            found.outcomes[outcome] += 1
            for column, span in ((1, predicted), (2, gold)):
                if span is None:
                    continue
                for name, key in _keys(span, seen):
                    counts[name][key][column] += 1
                    counts[name][key][0] += outcome == "correct" and column == 1
            if outcome == "correct":
                continue
            if outcome != "boundary":
                pair = (gold.label if gold else NOTHING, predicted.label if predicted else NOTHING)
                found.confusions[pair] += 1
            if gold and predicted and outcome in ("boundary", "both"):
                found.boundaries[_boundary(gold, predicted)] += 1
            span = gold or predicted
            if span is not None and outcome in frequent:
                text = " ".join(prediction.words[span.start : span.end])
                frequent[outcome][text, span.label] += 1
            sample.offer(outcome, prediction, gold, predicted)
    found.by_label = dict(
        sorted(
            ((key, Score.of((a, b, c))) for key, (a, b, c) in counts["label"].items()),
            key=lambda item: (-item[1].support, item[0]),
        )
    )
    for length in LENGTHS:
        if row := counts["length"].get(length):
            found.by_length[length] = Score.of((row[0], row[1], row[2]))
    for key, row in sorted(counts["seen"].items()):
        found.by_seen[key] = Score.of((row[0], row[1], row[2]))
    found.frequent = {
        name: [(text, label, n) for (text, label), n in counter.most_common(10)]
        for name, counter in frequent.items()
    }
    found.cases = sample.cases()
    return found


def _keys(span: Span, seen: set[str] | None) -> list[tuple[str, str]]:
    keys = [("label", span.label), ("length", length_class(span.end - span.start))]
    if seen is not None:
        keys.append(("seen", "seen" if normalize_label(span.label) in seen else "unseen"))
    return keys


def _boundary(gold: Span, predicted: Span) -> str:
    if predicted.start <= gold.start and predicted.end >= gold.end:
        return "too long"
    if predicted.start >= gold.start and predicted.end <= gold.end:
        return "too short"
    return "shifted"


class _Sample:
    """An even draw of cases of each class, without holding all of them."""

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.random = size, random.Random(seed)
        self.num_seen: Counter[str] = Counter()
        self.kept: defaultdict[str, list[Case]] = defaultdict(list)

    def offer(
        self, outcome: str, prediction: Prediction, gold: Span | None, predicted: Span | None
    ) -> None:
        self.num_seen[outcome] += 1
        kept = self.kept[outcome]
        place = len(kept)
        if place >= self.size:
            place = self.random.randrange(self.num_seen[outcome])
            if place >= self.size:
                return
        case = _case(outcome, prediction, gold, predicted)
        if place == len(kept):
            kept.append(case)
        else:
            kept[place] = case

    def cases(self) -> dict[str, list[Case]]:
        return {name: self.kept[name] for name in OUTCOMES if self.kept[name]}


def _case(outcome: str, prediction: Prediction, gold: Span | None, predicted: Span | None) -> Case:
    spans = [span for span in (gold, predicted) if span is not None]
    start, end = min(span.start for span in spans), max(span.end for span in spans)
    words = prediction.words

    def text(span: Span | None) -> str:
        return " ".join(words[span.start : span.end]) if span else ""

    first = max(0, start - _CONTEXT_WORDS)
    before = ("… " if first else "") + " ".join(words[first:start])
    after = " ".join(words[end : end + _CONTEXT_WORDS])
    return Case(
        outcome,
        prediction.corpus,
        prediction.id,
        before,
        text(gold),
        gold.label if gold else "",
        text(predicted),
        predicted.label if predicted else "",
        after + (" …" if end + _CONTEXT_WORDS < len(words) else ""),
    )
