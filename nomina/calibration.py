"""Whether scores mean what they say, and a temperature that makes them.

An entity's score is the probability that it is right: of all entities scored 0.8, four in five
should be. Everything here takes scores and whether each was right; `scored_entities` makes these
from predictions. Knows nothing of models; `Calibration` is a small file that lies beside one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nomina.errors import DataError
from nomina.predictions import Prediction

NUM_BINS = 10
FILE_NAME = "calibration.json"
_EPSILON = 1e-6  # scores are kept this far from 0 and 1, where logits are infinite


@dataclass(frozen=True)
class Calibration:
    """A temperature fitted on dev data.

    Attributes:
        temperature: Scores become `sigmoid(logit(score) / temperature)`; above 1 they move
            towards one half, below 1 away from it. Their order never changes.
        num_entities: Predicted entities it was fitted on.
        ece_before: Expected calibration error before.
        ece_after: And after, on the same data.

    Example:
        >>> round(Calibration(2.0).apply(0.9), 3)
        0.75
    """

    temperature: float = 1.0
    num_entities: int = 0
    ece_before: float = 0.0
    ece_after: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise DataError(f"temperature must be above 0 and finite, was: {self.temperature}")

    def apply(self, score: float) -> float:
        """Return the calibrated score; 0, 1 and NaN stay what they are."""
        if self.temperature == 1 or not 0 < score < 1:
            return score
        return _sigmoid(_logit(score) / self.temperature)

    def save(self, folder: str | Path) -> Path:
        """Write `calibration.json` into a model's folder and return its path."""
        path = Path(folder) / FILE_NAME
        path.write_text(json.dumps(vars(self), indent=2) + "\n", encoding="utf-8")
        return path

    @staticmethod
    def load(folder: str | Path) -> Calibration:
        """Read `calibration.json` of a model's folder; a folder without one is not calibrated.

        Raises:
            DataError: If the file is malformed.
        """
        path = Path(folder) / FILE_NAME
        if not path.is_file():
            return Calibration()
        try:
            row = json.loads(path.read_text(encoding="utf-8"))
            return Calibration(
                float(row["temperature"]),
                int(row.get("num_entities", 0)),
                float(row.get("ece_before", 0)),
                float(row.get("ece_after", 0)),
            )
        except DataError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f'{path}: must be an object with a "temperature": {error!r}. '
                "Make it anew with nomina evaluate --fit-temperature."
            ) from error


def scored_entities(predictions: Iterable[Prediction]) -> tuple[list[float], list[bool], int]:
    """Collect scores of predicted entities and whether each is right (strict).

    Returns:
        Scores, whether each entity is right, and how many entities have no usable score.
    """
    scores: list[float] = []
    correct: list[bool] = []
    num_missing = 0
    for prediction in predictions:
        if not prediction.scores:
            num_missing += len(prediction.predicted)
            continue
        gold = set(prediction.gold)
        for span, score in zip(prediction.predicted, prediction.scores, strict=True):
            if math.isnan(score):
                num_missing += 1
            else:
                scores.append(score)
                correct.append(span in gold)
    return scores, correct, num_missing


@dataclass(frozen=True)
class Bin:
    """Entities with scores in `[low, high)`, the last bin with its end.

    Attributes:
        low: Lower edge.
        high: Upper edge.
        count: Entities in it.
        confidence: Their mean score; 0 if there are none.
        accuracy: Share of them that is right; 0 if there are none.
    """

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


def reliability(
    scores: Sequence[float], correct: Sequence[bool], num_bins: int = NUM_BINS
) -> list[Bin]:
    """Split scores into bins of equal width, and compare what they say with what is.

    Example:
        >>> [b for b in reliability([0.9, 0.92, 0.2], [True, False, False]) if b.count][1].accuracy
        0.5

    Raises:
        DataError: If the inputs differ in length or a score is no probability.
    """
    _check(scores, correct)
    sums = [[0, 0.0, 0] for _ in range(num_bins)]
    for score, is_right in zip(scores, correct, strict=True):
        row = sums[min(num_bins - 1, int(score * num_bins))]
        row[0] += 1
        row[1] += score
        row[2] += is_right
    return [
        Bin(
            index / num_bins,
            (index + 1) / num_bins,
            int(count),
            total / count if count else 0.0,
            right / count if count else 0.0,
        )
        for index, (count, total, right) in enumerate(sums)
    ]


def expected_calibration_error(
    scores: Sequence[float], correct: Sequence[bool], num_bins: int = NUM_BINS
) -> float:
    """Mean distance between score and accuracy over bins, weighted by their size.

    Guo et al. (2017), "On calibration of modern neural networks", equation 3. 0 for no entities.

    Example:
        >>> round(expected_calibration_error([0.8] * 10, [True] * 6 + [False] * 4), 3)
        0.2
    """
    bins = reliability(scores, correct, num_bins)
    total = max(1, len(scores))
    return sum(b.count * abs(b.confidence - b.accuracy) for b in bins) / total


def brier_score(scores: Sequence[float], correct: Sequence[bool]) -> float:
    """Mean squared distance between scores and outcomes (Brier 1950); 0 for no entities."""
    _check(scores, correct)
    pairs = zip(scores, correct, strict=True)
    return sum((score - is_right) ** 2 for score, is_right in pairs) / max(1, len(scores))


def _check(scores: Sequence[float], correct: Sequence[bool]) -> None:
    if len(scores) != len(correct):
        raise DataError(f"there are {len(scores)} scores but {len(correct)} outcomes")
    for score in scores:
        if not 0 <= score <= 1:
            raise DataError(f"a score must be from 0 to 1, was: {score}")


def fit_temperature(scores: Sequence[float], correct: Sequence[bool]) -> Calibration:
    """Fit the temperature that makes the outcomes most likely.

    Guo et al. (2017), section 4.2, on the probability of an entity. The likelihood has one maximum
    in 1 / temperature; it is found by bisection of its slope, and kept within 0.05 and 20.

    Raises:
        DataError: If there is nothing to fit on, or all outcomes are equal.

    Example:
        >>> sure_but_wrong = fit_temperature([0.99] * 10, [True] * 7 + [False] * 3)
        >>> round(sure_but_wrong.apply(0.99), 2)
        0.7
    """
    _check(scores, correct)
    num_right = sum(correct)
    if not 0 < num_right < len(scores):
        raise DataError(
            "a temperature needs right and wrong scored entities, "
            f"was given {num_right} right and {len(scores) - num_right} wrong. Use more dev data."
        )
    import numpy as np

    chances = np.clip(np.asarray(scores, dtype=np.float64), _EPSILON, 1 - _EPSILON)
    logits = np.log(chances / (1 - chances))
    outcomes = np.asarray(correct, dtype=np.float64)

    def slope(beta: float) -> float:
        """Derivative of the log likelihood by beta = 1 / temperature; it never increases."""
        fitted = 1 / (1 + np.exp(np.clip(-beta * logits, -700, 700)))
        return float(((outcomes - fitted) * logits).sum())

    low, high = math.log(1 / 20), math.log(1 / 0.05)
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(math.exp(middle)) > 0 else (low, middle)
    calibration = Calibration(math.exp(-(low + high) / 2))
    after = [calibration.apply(score) for score in scores]
    return Calibration(
        calibration.temperature,
        len(scores),
        expected_calibration_error(scores, correct),
        expected_calibration_error(after, correct),
    )


def _logit(score: float) -> float:
    score = min(max(score, _EPSILON), 1 - _EPSILON)
    return math.log(score / (1 - score))


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


# --------------------------------------------------------------------------------------------------
# What a threshold buys


@dataclass(frozen=True)
class Cut:
    """What is left when entities with lower scores are dropped.

    Attributes:
        threshold: Entities with at least this score are kept.
        precision: Strict precision of what is kept; 1 if nothing is.
        recall: Strict recall.
        f1: Strict F1.
        coverage: Share of the predicted entities that is kept.
        risk: Share of the kept entities that is wrong.
    """

    threshold: float
    precision: float
    recall: float
    f1: float
    coverage: float
    risk: float


def cuts(predictions: Sequence[Prediction]) -> list[Cut]:
    """F1, coverage and risk at every threshold that makes a difference, from keeping all upwards.

    Entities without a usable score are left out. The pairs of coverage and risk are the
    risk-coverage curve of El-Yaniv and Wiener (2010), "Selective classification".

    Example:
        >>> from nomina.entities import Span
        >>> gold, have = (Span(0, 1, "x"),), (Span(0, 1, "x"), Span(1, 2, "x"))
        >>> found = cuts([Prediction(["a", "b"], gold, have, (0.9, 0.4))])
        >>> [(c.threshold, round(c.f1, 2), c.risk) for c in found]
        [(0.4, 0.67, 0.5), (0.9, 1.0, 0.0)]
    """
    scores, correct, _ = scored_entities(predictions)
    num_gold = sum(len(prediction.gold) for prediction in predictions)
    order = sorted(range(len(scores)), key=lambda k: -scores[k])
    out: list[Cut] = []
    num_right = 0
    for kept, k in enumerate(order, start=1):
        num_right += correct[k]
        if kept < len(order) and scores[order[kept]] == scores[k]:
            continue
        out.append(
            Cut(
                scores[k],
                num_right / kept,
                num_right / num_gold if num_gold else 0.0,
                2 * num_right / (kept + num_gold),
                kept / len(order),
                1 - num_right / kept,
            )
        )
    return out[::-1]


def area_under_risk(found: Sequence[Cut]) -> float:
    """Area under the risk-coverage curve: the mean risk over coverages; lower is better."""
    area = last_coverage = last_risk = 0.0
    for index, cut in enumerate(reversed(found)):
        if index == 0:
            last_risk = cut.risk
        area += (cut.coverage - last_coverage) * (cut.risk + last_risk) / 2
        last_coverage, last_risk = cut.coverage, cut.risk
    return area


def thin(found: Sequence[Cut], size: int = 200) -> list[Cut]:
    """Return at most `size` of the cuts, evenly spaced, with both ends."""
    if len(found) <= size:
        return list(found)
    return [found[round(k * (len(found) - 1) / (size - 1))] for k in range(size)]


def summarize(predictions: Sequence[Prediction]) -> dict[str, Any] | None:
    """Everything about the scores as a JSON-ready dict; nothing if no entity has a score."""
    scores, correct, num_missing = scored_entities(predictions)
    if not scores:
        return None
    found = cuts(predictions)
    best = max(found, key=lambda cut: cut.f1)
    summary: dict[str, Any] = {
        "scored": len(scores),
        "without_score": num_missing,
        "ece": expected_calibration_error(scores, correct),
        "brier": brier_score(scores, correct),
        "area_under_risk": area_under_risk(found),
        "best_threshold": vars(best),
        "reliability": [vars(b) for b in reliability(scores, correct)],
        "cuts": [vars(cut) for cut in thin(found)],
    }
    if 0 < sum(correct) < len(correct):
        summary["temperature"] = vars(fit_temperature(scores, correct))
    return summary
