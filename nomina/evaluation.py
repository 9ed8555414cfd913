"""How good predictions are: every F1 the literature uses, with intervals.

The field has several measures that are all called F1. Each has one function here that counts
(correct, predicted, gold) for a sentence, and its source in the docstring:

    strict    position and label, micro average (CoNLL-2003); the headline
    macro     the same, averaged over labels
    gner      set of (normalised text, label) per sentence, no positions (UniversalNER, GNER)
    partial   any overlap counts half, labels do not count (nervaluate, MUC-5)
    exact     position alone (nervaluate)
    type      any overlap with the right label counts (nervaluate's ent_type)
    token     words with the right label (NuNER's figures)

In order: the measures, then scores with bootstrap intervals. Knows nothing of files, models or
torch; numpy is imported when intervals are asked for.
"""

from __future__ import annotations

import functools
import re
import string
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nomina.entities import Span
from nomina.errors import DataError
from nomina.predictions import Prediction

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

NUM_RESAMPLES = 1000
LEVEL = 0.95
_MAX_KINDS = 4000

Counts = tuple[float, int, int]  # correct, predicted, gold

# --------------------------------------------------------------------------------------------------
# The measures


def count_strict(prediction: Prediction) -> Counts:
    """Count entities with the right position and label.

    Tjong Kim Sang and De Meulder (2003), "Introduction to the CoNLL-2003 shared task"; seqeval's
    default. An entity predicted twice is correct once.

    Example:
        >>> gold, have = (Span(0, 2, "x"), Span(3, 4, "x")), (Span(0, 2, "x"), Span(3, 4, "y"))
        >>> count_strict(Prediction(["w"] * 4, gold, have))
        (1, 2, 2)
    """
    gold, predicted = prediction.gold, prediction.predicted
    if gold == predicted:
        return len(gold), len(gold), len(gold)
    return len(set(gold) & set(predicted)), len(predicted), len(gold)


_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


@functools.lru_cache(maxsize=200_000)
def normalize_answer(text: str) -> str:
    """Lower the case, take out ASCII punctuation and English articles, and join by single spaces.

    Example:
        >>> normalize_answer("The U.S. Army")
        'us army'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def count_gner(prediction: Prediction) -> Counts:
    """Count distinct (normalised text, normalised label) pairs of a sentence.

    Zhou et al. (2024), "UniversalNER", whose evaluator Ding et al. (2024), "Rethinking Negative
    Instances for Generative NER" (GNER), took over. Positions do not count: an entity that is
    named twice counts once, and a right name in a wrong place is right.

    Example:
        >>> words = "the Army and Army".split()
        >>> count_gner(Prediction(words, (Span(0, 2, "x"), Span(3, 4, "x")), (Span(1, 2, "x"),)))
        (1, 1, 1)
    """
    if not prediction.gold and not prediction.predicted:
        return 0, 0, 0
    words = prediction.words
    gold = _answers(words, prediction.gold)
    if prediction.gold == prediction.predicted:
        return len(gold), len(gold), len(gold)
    predicted = _answers(words, prediction.predicted)
    return len(gold & predicted), len(predicted), len(gold)


def _answers(words: Sequence[str], spans: Iterable[Span]) -> set[tuple[str, str]]:
    return {
        (normalize_answer(" ".join(words[start:end])), normalize_answer(label))
        for start, end, label in spans
    }


def count_partial(prediction: Prediction) -> Counts:
    """Count positions, half for a mere overlap; labels do not count.

    The `partial` schema of nervaluate (Batista 2018), after Chinchor and Sundheim (1993), "MUC-5
    evaluation metrics": each predicted entity takes the gold one with its position, or else the
    first free one that it overlaps.

    Example:
        >>> count_partial(Prediction(["w"] * 4, (Span(0, 2, "x"),), (Span(1, 3, "y"),)))
        (0.5, 1, 1)
    """
    gold, predicted = prediction.gold, prediction.predicted
    if gold == predicted:
        return len(gold), len(gold), len(gold)
    free = list(gold)
    correct = 0.0
    for start, end, _ in predicted:
        first = None
        for index, span in enumerate(free):
            if span[0] < end and start < span[1]:
                if span[0] == start and span[1] == end:
                    first = index
                    correct += 0.5
                    break
                first = index if first is None else first
        if first is not None:
            correct += 0.5
            del free[first]
    return correct, len(predicted), len(gold)


def count_exact(prediction: Prediction) -> Counts:
    """Count positions, whatever the label: the `exact` schema of nervaluate.

    Example:
        >>> count_exact(Prediction(["w"] * 4, (Span(0, 2, "x"),), (Span(0, 2, "y"),)))
        (1, 1, 1)
    """
    gold, predicted = prediction.gold, prediction.predicted
    if gold == predicted:
        return len(gold), len(gold), len(gold)
    correct = Counter(span[:2] for span in gold) & Counter(span[:2] for span in predicted)
    return correct.total(), len(predicted), len(gold)


def count_type(prediction: Prediction) -> Counts:
    """Count entities that overlap one of their label: the `ent_type` schema of nervaluate.

    A predicted entity takes the free gold entity of its label that it overlaps and whose borders
    are nearest, or else the first free one of another label, which is then lost to others.

    Example:
        >>> count_type(Prediction(["w"] * 4, (Span(0, 2, "x"),), (Span(1, 3, "x"),)))
        (1, 1, 1)
    """
    gold, predicted = prediction.gold, prediction.predicted
    if gold == predicted:
        return len(gold), len(gold), len(gold)
    free = list(gold)
    correct = 0
    for start, end, label in predicted:
        near = [
            (span[2] != label, abs(span[0] - start) + abs(span[1] - end), index)
            for index, span in enumerate(free)
            if span[0] < end and start < span[1]
        ]
        same = [item for item in near if not item[0]]
        if same:
            correct += 1
            del free[min(same)[2]]
        elif near:
            del free[near[0][2]]
    return correct, len(predicted), len(gold)


def count_token(prediction: Prediction) -> Counts:
    """Count words of entities by their label; where an entity begins does not count.

    The token-level F1 of Bogdanov et al. (2024), "NuNER", on words.

    Example:
        >>> count_token(Prediction(["w"] * 4, (Span(0, 3, "x"),), (Span(1, 3, "x"),)))
        (2, 2, 3)
    """
    gold, predicted = prediction.gold, prediction.predicted
    if gold == predicted:
        total = sum(end - start for start, end, _ in gold)
        return total, total, total
    words = {(i, label) for start, end, label in gold for i in range(start, end)}
    have = {(i, label) for start, end, label in predicted for i in range(start, end)}
    return len(words & have), len(have), len(words)


MEASURES: dict[str, Callable[[Prediction], Counts]] = {
    "strict": count_strict,
    "gner": count_gner,
    "partial": count_partial,
    "exact": count_exact,
    "type": count_type,
    "token": count_token,
}
METRICS = ("strict", "macro", "gner", "partial", "exact", "type", "token")


def check_metrics(names: Iterable[str]) -> tuple[str, ...]:
    """Return the metrics named; `all` stands for every one.

    Raises:
        DataError: If a name is unknown.
    """
    out: list[str] = []
    for name in names:
        if name != "all" and name not in METRICS:
            raise DataError(f"metric must be one of {', '.join(METRICS)} or all, was: {name!r}")
        out += METRICS if name == "all" else [name]
    return tuple(dict.fromkeys(out))


# --------------------------------------------------------------------------------------------------
# Scores


@dataclass(frozen=True)
class Score:
    """A measure of a corpus; all fractions are from 0 to 1.

    Attributes:
        precision: Correct among predicted; 0 if nothing is predicted.
        recall: Correct among gold; 0 if nothing is gold.
        f1: Their harmonic mean.
        low: Lower end of the bootstrap 95 % interval of F1.
        high: Upper end.
        support: Gold entities (words for `token`, distinct pairs for `gner`).
    """

    precision: float
    recall: float
    f1: float
    low: float
    high: float
    support: int

    def to_dict(self) -> dict[str, float]:
        """Return the score as a JSON-ready dict."""
        return {
            "precision": self.precision,
            "recall": self.recall,
            "f1": self.f1,
            "low": self.low,
            "high": self.high,
            "support": self.support,
        }

    @staticmethod
    def of(counts: Counts, low: float | None = None, high: float | None = None) -> Score:
        """Build a score from counts; without an interval, both of its ends are the F1.

        Example:
            >>> Score.of((1, 2, 4)).f1
            0.3333333333333333
        """
        correct, predicted, gold = counts
        f1 = 2 * correct / (predicted + gold) if predicted + gold else 0.0
        return Score(
            correct / predicted if predicted else 0.0,
            correct / gold if gold else 0.0,
            f1,
            f1 if low is None else low,
            f1 if high is None else high,
            gold,
        )


@dataclass(frozen=True)
class _Scored:
    """A score with the F1 of each resample, for averages over corpora."""

    score: Score
    resampled: Floats


def score(
    predictions: Sequence[Prediction],
    metrics: Iterable[str] = ("strict",),
    *,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> dict[str, Score]:
    """Score the predictions of one corpus.

    Args:
        predictions: Sentences; the unit that is resampled.
        metrics: Names of `METRICS`, or "all".
        num_resamples: Size of the bootstrap (Efron 1979, percentile interval); 0 for none.
        seed: Seed of the bootstrap.

    Raises:
        DataError: If there are no sentences, or a metric is unknown.

    Example:
        >>> right = Prediction(["in", "Paris"], (Span(1, 2, "city"),), (Span(1, 2, "city"),))
        >>> wrong = Prediction(["in", "Rome"], (Span(1, 2, "city"),), ())
        >>> have = score([right, wrong])["strict"]
        >>> have.precision, have.recall, have.low, have.high
        (1.0, 0.5, 0.0, 1.0)
    """
    scored = _score(predictions, check_metrics(metrics), num_resamples, seed)
    return {name: item.score for name, item in scored.items()}


def _score(
    predictions: Sequence[Prediction], metrics: Sequence[str], num_resamples: int, seed: int
) -> dict[str, _Scored]:
    if not predictions:
        raise DataError("there is nothing to score: expected at least one sentence, was given none")
    out = {}
    for name in metrics:
        if name == "macro":
            out[name] = _score_macro(predictions, num_resamples, seed)
            continue
        rows = Counter(map(MEASURES[name], predictions))
        out[name] = _score_rows(rows, num_resamples, seed)
    return out


def _score_rows(rows: Counter[Counts], num_resamples: int, seed: int) -> _Scored:
    counts = _total(rows)
    resampled = f1_of(resample(rows, num_resamples, seed))
    low, high = interval(resampled)
    return _Scored(Score.of(counts, low, high), resampled)


def _total(rows: Mapping[Counts, int]) -> Counts:
    correct = sum(row[0] * n for row, n in rows.items())
    return correct, sum(r[1] * n for r, n in rows.items()), sum(r[2] * n for r, n in rows.items())


def resample(rows: Mapping[Any, int], num_resamples: int, seed: int) -> Floats:
    """Sums of rows over resampled sentences. Shape (num_resamples, columns).

    Sentences with equal counts are interchangeable, so drawing how often each kind of row comes
    up is the same as drawing sentences, and independent of their number.
    """
    import numpy as np

    kinds = sorted(rows)
    values = np.array(kinds, dtype=np.float64)
    sizes = np.array([rows[kind] for kind in kinds], dtype=np.float64)
    total = int(sizes.sum())
    drawn = np.random.default_rng(seed).multinomial(total, sizes / total, size=num_resamples)
    return np.asarray(drawn.astype(np.float64) @ values)


def f1_of(sums: Floats) -> Floats:
    """F1 of (correct, predicted, gold) in the last axis."""
    import numpy as np

    both = sums[..., 1] + sums[..., 2]
    return np.asarray(np.where(both > 0, 2 * sums[..., 0] / np.maximum(both, 1), 0.0))


def interval(values: Floats) -> tuple[float | None, float | None]:
    """Percentile interval of resampled values; nothing if there are none."""
    if not len(values):
        return None, None
    import numpy as np

    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _label_rows(predictions: Iterable[Prediction]) -> list[defaultdict[str, list[int]]]:
    """Strict counts of each label in each sentence."""
    out = []
    for prediction in predictions:
        row: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
        for span in prediction.gold:
            row[span.label][2] += 1
        for span in prediction.predicted:
            row[span.label][1] += 1
        if prediction.predicted and prediction.gold:
            for span in set(prediction.gold) & set(prediction.predicted):
                row[span.label][0] += 1
        out.append(row)
    return out


def score_labels(
    predictions: Sequence[Prediction], *, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> dict[str, Score]:
    """Score each label by the strict measure, most frequent first.

    Example:
        >>> gold, have = (Span(0, 1, "x"), Span(1, 2, "y")), (Span(0, 1, "x"), Span(1, 2, "x"))
        >>> scores = score_labels([Prediction(["a", "b"], gold, have)])
        >>> {label: (s.precision, s.recall) for label, s in scores.items()}
        {'x': (0.5, 1.0), 'y': (0.0, 0.0)}
    """
    kinds: defaultdict[str, Counter[Counts]] = defaultdict(Counter)
    for row in _label_rows(predictions):
        for label, (correct, predicted, gold) in row.items():
            kinds[label][correct, predicted, gold] += 1
    scores = {}
    for label, rows in kinds.items():
        rows[0, 0, 0] += len(predictions) - rows.total()
        scores[label] = _score_rows(+rows, num_resamples, seed).score
    return dict(sorted(scores.items(), key=lambda item: (-item[1].support, item[0])))


def _score_macro(predictions: Sequence[Prediction], num_resamples: int, seed: int) -> _Scored:
    """Mean over the labels of gold and predictions, as seqeval's macro average."""
    import numpy as np

    rows = _label_rows(predictions)
    labels = sorted({label for row in rows for label in row})
    if not labels:
        return _Scored(Score.of((0, 0, 0)), np.zeros(num_resamples))
    rng = np.random.default_rng(seed)
    values, sizes = _label_kinds(rows, labels, rng)
    totals = np.tensordot(sizes, values, axes=1)
    by_label = [Score.of((row[0], int(row[1]), int(row[2]))) for row in totals.tolist()]
    resampled = np.empty(num_resamples)
    flat = values.reshape(len(sizes), -1)
    block = max(1, 2_000_000 // len(sizes))  # resamples at a time, 16 MB
    for start in range(0, num_resamples, block):
        stop = min(start + block, num_resamples)
        drawn = rng.multinomial(int(sizes.sum()), sizes / sizes.sum(), size=stop - start)
        sums = (drawn.astype(np.float64) @ flat).reshape(stop - start, len(labels), 3)
        present = sums[..., 1] + sums[..., 2] > 0
        num_present = np.maximum(present.sum(axis=1), 1)
        resampled[start:stop] = f1_of(sums).sum(axis=1) / num_present
    low, high = interval(resampled)
    f1 = sum(s.f1 for s in by_label) / len(labels)
    macro = Score(
        sum(s.precision for s in by_label) / len(labels),
        sum(s.recall for s in by_label) / len(labels),
        f1,
        f1 if low is None else low,
        f1 if high is None else high,
        sum(s.support for s in by_label),
    )
    return _Scored(macro, resampled)


def _label_kinds(
    rows: Sequence[Mapping[str, Sequence[int]]], labels: Sequence[str], rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Kinds of sentences by their counts of each label, and how many there are of each.

    Beyond `_MAX_KINDS` kinds, sentences are put into that many bags at random and bags are
    resampled: sums of independent sentences vary as much, at a bounded cost.

    Returns:
        Counts. Shape (kinds, labels, 3). Numbers of sentences or bags. Shape (kinds,).
    """
    import numpy as np

    column = {label: index for index, label in enumerate(labels)}
    kinds: Counter[tuple[tuple[int, ...], ...]] = Counter(
        tuple(sorted((column[label], *counts) for label, counts in row.items())) for row in rows
    )
    if len(kinds) <= _MAX_KINDS:
        values = np.zeros((len(kinds), len(labels), 3))
        for index, kind in enumerate(kinds):
            for label_index, *counts in kind:
                values[index, label_index] = counts
        return values, np.array(list(kinds.values()), dtype=np.float64)
    values = np.zeros((_MAX_KINDS, len(labels), 3))
    bags = (rng.permutation(len(rows)) % _MAX_KINDS).tolist()
    for bag, row in zip(bags, rows, strict=True):
        for label, label_counts in row.items():
            values[bag, column[label]] += label_counts
    return values, np.ones(_MAX_KINDS)


@dataclass(frozen=True)
class Evaluation:
    """Scores of several corpora and their average.

    Attributes:
        corpora: Metric to score, for each corpus.
        average: Metric to the mean over corpora, each corpus with the same weight.
    """

    corpora: dict[str, dict[str, Score]]
    average: dict[str, Score]

    def to_dict(self, model: str = "", seconds: float = 0.0) -> dict[str, Any]:
        """Return everything as the JSON-ready dict that `--json` prints."""
        return {
            "corpora": {
                name: {metric: score.to_dict() for metric, score in scores.items()}
                for name, scores in self.corpora.items()
            },
            "average": {metric: score.to_dict() for metric, score in self.average.items()},
            "model": model,
            "seconds": seconds,
        }


def evaluate(
    corpora: Mapping[str, Sequence[Prediction]],
    metrics: Iterable[str] = ("strict",),
    *,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Evaluation:
    """Score several corpora and average them.

    Args:
        corpora: Predictions of each corpus.
        metrics: Names of `METRICS`, or "all".
        num_resamples: Size of the bootstrap. The interval of the average comes from averages of
            resamples of each corpus, drawn independently.
        seed: Seed of the bootstrap.

    Raises:
        DataError: If there is no corpus, one is empty, or a metric is unknown.
    """
    metrics = check_metrics(metrics)
    if not corpora:
        raise DataError("there is nothing to score: expected at least one corpus, was given none")
    scored = {
        name: _score(rows, metrics, num_resamples, seed + index)
        for index, (name, rows) in enumerate(corpora.items())
    }
    average = {}
    for metric in metrics:
        items = [scores[metric] for scores in scored.values()]
        size = len(items)
        f1 = sum(item.score.f1 for item in items) / size
        low, high = interval(sum((x.resampled for x in items[1:]), items[0].resampled) / size)
        average[metric] = Score(
            sum(item.score.precision for item in items) / size,
            sum(item.score.recall for item in items) / size,
            f1,
            f1 if low is None else low,
            f1 if high is None else high,
            sum(item.score.support for item in items),
        )
    plain = {n: {m: item.score for m, item in scores.items()} for n, scores in scored.items()}
    return Evaluation(plain, average)
