"""Mentions of one string in one document: what one of them is, the others probably are too.

One sense per discourse (Gale, Church and Yarowsky 1992), for entities: the mentions of a string
vote with their probabilities, those with another label take the winner's, and where the winner is
probable enough over all its mentions, those that were left out are added.

Knows words and spans; nothing of characters, models or windows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from nomina.entities import Span

# Least mean probability over all mentions, a mention left out counting 0, at which those are added.
# Between 0.2 and 0.4 it helped every set that it was tried on (docs/log.md).
MIN_SHARE = 0.25

Scored = tuple[Span, float]


def agree(
    words: Sequence[str], found: Sequence[Scored], min_share: float = MIN_SHARE
) -> list[Scored]:
    """Let the mentions of one string agree on one label.

    Words are compared as they are, upper and lower case included. An entity whose words another
    entity covers in part is left as it is, and nothing is added inside or across an entity.

    Args:
        words: The document.
        found: Entities with their probabilities; not overlapping.
        min_share: Least mean probability of the winning label over all mentions at which those that
            were left out are added; above 1 for never.

    Returns:
        Entities in order, not overlapping. One that changed its label or was added has the mean
        probability of the label over all mentions for a score.

    Example:
        >>> words = "Nadal beat Murray . Murray , Nadal said".split()
        >>> found = [(Span(0, 1, "person"), 0.9), (Span(2, 3, "person"), 0.7)]
        >>> found += [(Span(4, 5, "city"), 0.4)]
        >>> for span, score in agree(words, found):
        ...     print(words[span.start], span.label, round(score, 2))
        Nadal person 0.9
        Murray person 0.7
        Murray person 0.35
        Nadal person 0.45
    """
    votes: dict[tuple[str, ...], dict[str, float]] = defaultdict(lambda: defaultdict(float))
    counts: dict[tuple[str, ...], int] = defaultdict(int)
    taken = bytearray(len(words))
    for span, score in found:
        surface = tuple(words[span.start : span.end])
        votes[surface][span.label] += score
        counts[surface] += 1
        taken[span.start : span.end] = b"\1" * (span.end - span.start)
    free = _free_mentions(words, votes, taken)
    winners = {}
    agreed: list[Scored] = []
    # Longer strings first: "New York Times" is not a mention of "New York".
    for surface in sorted(votes, key=len, reverse=True):
        spans = [Span(a, a + len(surface), "") for a in free.get(surface, ())]
        spans = [span for span in spans if not any(taken[span.start : span.end])]
        label = max(votes[surface], key=votes[surface].__getitem__)
        share = votes[surface][label] / (counts[surface] + len(spans))
        winners[surface] = label, share
        for span in spans if share >= min_share else ():
            taken[span.start : span.end] = b"\1" * len(surface)
            agreed.append((span._replace(label=label), share))
    for span, score in found:
        label, share = winners[tuple(words[span.start : span.end])]
        is_same = label == span.label
        agreed.append((span, score) if is_same else (span._replace(label=label), share))
    return sorted(agreed)


def _free_mentions(
    words: Sequence[str], surfaces: dict[tuple[str, ...], dict[str, float]], taken: bytearray
) -> dict[tuple[str, ...], list[int]]:
    """Where the strings stand, not overlapping themselves, in words that no entity covers."""
    lengths: dict[str, set[int]] = defaultdict(set)
    for surface in surfaces:
        lengths[surface[0]].add(len(surface))
    found: dict[tuple[str, ...], list[int]] = {}
    for start, word in enumerate(words):
        for length in lengths.get(word, ()):
            surface = tuple(words[start : start + length])
            if surface in surfaces and not any(taken[start : start + length]):
                starts = found.setdefault(surface, [])
                if not starts or starts[-1] + length <= start:
                    starts.append(start)
    return found
