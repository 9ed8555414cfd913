"""Whether one system is better than another on the same sentences.

The paired bootstrap on any measure, and McNemar's test on the entities that only one system finds.
Knows nothing of files or models.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nomina.errors import DataError
from nomina.evaluation import MEASURES, Score, f1_of, interval, resample
from nomina.predictions import Prediction


@dataclass(frozen=True)
class Comparison:
    """Whether two systems differ on the same sentences.

    Attributes:
        first: F1 of the first system.
        second: F1 of the second.
        delta: Second minus first.
        low: Lower end of the 95 % interval of the difference.
        high: Upper end.
        p_bootstrap: Two-sided p of the paired bootstrap: how often a resample's difference has
            the other sign, doubled; at least 1 / resamples.
        only_first: Gold entities that only the first found (strict).
        only_second: Gold entities that only the second found (strict).
        p_mcnemar: Two-sided p of McNemar's exact test on these.
    """

    first: float
    second: float
    delta: float
    low: float
    high: float
    p_bootstrap: float
    only_first: int
    only_second: int
    p_mcnemar: float

    def to_dict(self) -> dict[str, float]:
        """Return the comparison as a JSON-ready dict."""
        return dict(vars(self))


def compare(
    first: Sequence[Prediction],
    second: Sequence[Prediction],
    metric: str = "strict",
    *,
    num_resamples: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Compare two systems on the same sentences.

    The paired bootstrap (Berg-Kirkpatrick et al. 2012) resamples sentences and scores both systems
    on each resample; McNemar's exact test (1947) asks whether the gold entities that only one of
    them finds are split evenly.

    Args:
        first: Predictions of the first system.
        second: Predictions of the second, on the same sentences in the same order.
        metric: Any of `evaluation.METRICS` but macro.
        num_resamples: Size of the bootstrap.
        seed: Seed of the bootstrap.

    Raises:
        DataError: If the sentences differ or the metric cannot be compared.

    Example:
        >>> from nomina.entities import Span
        >>> gold = (Span(0, 1, "x"),)
        >>> have = compare([Prediction(["a"], gold, ())], [Prediction(["a"], gold, gold)])
        >>> have.delta, have.only_second
        (1.0, 1)
    """
    return compare_average({"": first}, {"": second}, metric, num_resamples, seed)


def compare_average(
    first: Mapping[str, Sequence[Prediction]],
    second: Mapping[str, Sequence[Prediction]],
    metric: str = "strict",
    num_resamples: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Compare the averages of two systems over the same corpora; see `compare`.

    Raises:
        DataError: If the corpora or sentences differ or the metric cannot be compared.
    """
    import numpy as np

    if metric not in MEASURES:
        raise DataError(f"metric must be one of {', '.join(MEASURES)}, was: {metric!r}")
    if set(first) != set(second) or not first:
        raise DataError(
            f"both systems must have the same corpora, were: {sorted(first)} and {sorted(second)}"
        )
    measure = MEASURES[metric]
    ones, twos = [], []
    resampled = np.zeros(num_resamples)
    only: Counter[bool] = Counter()
    for index, name in enumerate(first):
        _check_pairs(first[name], second[name], name)
        rows = Counter(
            (*measure(a), *measure(b)) for a, b in zip(first[name], second[name], strict=True)
        )
        sums = resample(rows, num_resamples, seed + index)
        resampled += f1_of(sums[:, 3:]) - f1_of(sums[:, :3])
        total = [sum(row[k] * n for row, n in rows.items()) for k in range(6)]
        ones.append(Score.of((total[0], int(total[1]), int(total[2]))).f1)
        twos.append(Score.of((total[3], int(total[4]), int(total[5]))).f1)
        for a, b in zip(first[name], second[name], strict=True):
            gold, in_a, in_b = set(a.gold), set(a.predicted), set(b.predicted)
            only.update(span in in_b for span in gold if (span in in_a) != (span in in_b))
    resampled /= len(first)
    low, high = interval(resampled)
    f1, f2 = sum(ones) / len(ones), sum(twos) / len(twos)
    delta = f2 - f1
    tail = min(float(np.mean(resampled <= 0)), float(np.mean(resampled >= 0)))
    return Comparison(
        f1,
        f2,
        delta,
        delta if low is None else low,
        delta if high is None else high,
        min(1.0, max(2 * tail, 1 / max(1, num_resamples))),
        only[False],
        only[True],
        mcnemar(only[False], only[True]),
    )


def _check_pairs(first: Sequence[Prediction], second: Sequence[Prediction], name: str) -> None:
    if len(first) != len(second):
        raise DataError(
            f"both systems must have the same sentences of {name or 'the corpus'}, "
            f"were {len(first)} and {len(second)}"
        )
    differing = [
        index
        for index, (a, b) in enumerate(zip(first, second, strict=True))
        if list(a.words) != list(b.words) or set(a.gold) != set(b.gold)
    ]
    if differing:
        raise DataError(
            f"{len(differing)} sentences of {name or 'the corpus'} have other words or gold in the "
            f"second file, the first at {differing[0]}: sort both files alike, or use their ids"
        )


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided p of McNemar's exact test: a fair coin for each disagreement.

    Example:
        >>> round(mcnemar(1, 8), 4)
        0.0391
    """
    total, smaller = only_first + only_second, min(only_first, only_second)
    if total == 0:
        return 1.0
    log_half = total * math.log(0.5)
    tail = 0.0
    for k in range(smaller, -1, -1):
        term = math.lgamma(total + 1) - math.lgamma(k + 1) - math.lgamma(total - k + 1) + log_half
        part = math.exp(term)
        tail += part
        if part <= tail * 1e-17:
            break
    return min(1.0, 2 * tail)
