"""How the literature evaluates, as named configurations.

A `Protocol` says which corpora are read, which labels are left out, how few-shot sets are drawn
and which figure is the headline, so that two people who name it mean the same thing. Knows nothing
of models or files.
"""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nomina.entities import Example, LabelSet, normalize_label
from nomina.errors import DataError

ZERO_SHOT_SETS = (
    "crossner_ai",
    "crossner_literature",
    "crossner_music",
    "crossner_politics",
    "crossner_science",
    "mit_movie",
    "mit_restaurant",
)
SUPERVISED_SETS = (
    "anatem",
    "bc2gm",
    "bc5cdr",
    "broad_twitter_gner",
    "conll2003",
    "fabner",
    "multinerd_en",
    "ncbi_disease",
    "tweetner7",
    "wikineural_en",
)


@dataclass(frozen=True)
class Protocol:
    """A way to evaluate.

    Attributes:
        name: What it is called.
        about: What it is, in one sentence, with its source.
        corpora: Sets it is about; any others can be given in their place.
        split: Split that is read where none is named.
        dropped: Labels that are neither asked for nor gold, in corpora whose name starts with the
            key. Sentences stay.
        metrics: Metrics that are reported; the first is the headline.
        num_shots: Examples of each label to train on; 0 for none.
        seeds: Seeds of the few-shot draws; figures are means over them.
        is_unseen_only: Whether only labels that training did not have are asked for.
    """

    name: str
    about: str
    corpora: tuple[str, ...]
    split: str = "dev"
    dropped: tuple[tuple[str, tuple[str, ...]], ...] = ()
    metrics: tuple[str, ...] = ("strict", "gner")
    num_shots: int = 0
    seeds: tuple[int, ...] = (0,)
    is_unseen_only: bool = False

    def dropped_labels(self, corpus: str) -> tuple[str, ...]:
        """Return the labels that the protocol leaves out of a corpus.

        Example:
            >>> PROTOCOLS["zero-shot"].dropped_labels("crossner_ai")
            ('miscellaneous', 'misc')
        """
        return tuple(
            label
            for prefix, labels in self.dropped
            if corpus.startswith(prefix)
            for label in labels
        )


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "zero-shot",
            "Five CrossNER and two MIT sets, macro average; `misc` is neither asked for nor gold, "
            "as in UniversalNER (Zhou et al. 2024) and GNER (Ding et al. 2024).",
            ZERO_SHOT_SETS,
            dropped=(("crossner_", ("miscellaneous", "misc")),),
            metrics=("gner", "strict"),
        ),
        Protocol(
            "zero-shot-kept",
            "The same with `miscellaneous` asked for and gold, as CrossNER (Liu et al. 2021) "
            "annotated it.",
            ZERO_SHOT_SETS,
            metrics=("gner", "strict"),
        ),
        Protocol(
            "supervised",
            "Test sets whose training sets the model was trained on, strict F1.",
            SUPERVISED_SETS,
            split="test",
        ),
        Protocol(
            "few-shot",
            "K to 2K examples of each label to train on, drawn greedily as in Few-NERD (Ding et "
            "al. 2021, algorithm 1), mean over five seeds.",
            ZERO_SHOT_SETS,
            num_shots=5,
            seeds=(0, 1, 2, 3, 4),
        ),
        Protocol(
            "unseen-labels",
            "Only labels that no training example carried are asked for and gold.",
            ZERO_SHOT_SETS,
            dropped=(("crossner_", ("miscellaneous", "misc")),),
            is_unseen_only=True,
        ),
    )
}


def get_protocol(name: str) -> Protocol:
    """Return a protocol by name.

    Raises:
        DataError: If there is none of that name.
    """
    if name not in PROTOCOLS:
        raise DataError(f"protocol must be one of {', '.join(PROTOCOLS)}, was: {name!r}")
    return PROTOCOLS[name]


def drop_labels(
    examples: Iterable[Example], labels: LabelSet, dropped: Iterable[str]
) -> tuple[list[Example], LabelSet]:
    """Take labels out of a corpus: they are neither asked for nor gold; sentences stay.

    Raises:
        LabelError: If no label is left.

    Example:
        >>> row = Example.from_tags(["in", "Paris"], ["B-misc", "B-city"])
        >>> rows, left = drop_labels([row], LabelSet.of(["misc", "city"]), ["misc"])
        >>> rows[0].tags, left.names
        (['O', 'B-city'], ('city',))
    """
    out = {normalize_label(label) for label in dropped}

    def stays(name: str) -> bool:
        return normalize_label(name) not in out

    rows = []
    for example in examples:
        spans = tuple(span for span in example.spans if stays(span.label))
        own = example.labels
        if own is not None and not all(stays(label.name) for label in own):
            left = tuple(label for label in own if stays(label.name))
            own = LabelSet(left) if left else None
        if len(spans) != len(example.spans) or own is not example.labels:
            example = dataclasses.replace(example, spans=spans, labels=own)
        rows.append(example)
    return rows, LabelSet(tuple(label for label in labels if stays(label.name)))


def sample_shots(examples: Sequence[Example], num_shots: int, seed: int = 0) -> list[Example]:
    """Draw sentences until each label has at least K entities, and as few above as can be.

    Greedy, as Few-NERD's algorithm 1: sentences in random order are taken if they bring a label
    that still lacks entities, and pass over 2K of none while that is possible. Sentences whose
    labels all have K in the rest are then taken out again.

    Args:
        examples: Sentences to draw from.
        num_shots: K, entities of each label; a label with fewer in all gets what there is.
        seed: Seed of the order.

    Raises:
        DataError: If K is not positive.

    Example:
        >>> rows = [Example.from_tags(["a"], ["B-x"]), Example.from_tags(["b"], ["B-y"])] * 3
        >>> [row.text for row in sorted(sample_shots(rows, 1), key=lambda row: row.text)]
        ['a', 'b']
    """
    if num_shots < 1:
        raise DataError(f"`num_shots` must be at least 1, was: {num_shots}")
    order = list(range(len(examples)))
    random.Random(seed).shuffle(order)
    rows = [Counter(span.label for span in examples[k].spans) for k in range(len(examples))]
    available: Counter[str] = Counter()
    for row in rows:
        available.update(row)
    want = {label: min(num_shots, count) for label, count in available.items()}
    have: Counter[str] = Counter()
    chosen: list[int] = []

    def take(limit: int | None) -> None:
        for k in order:
            lacks = any(have[label] < want[label] for label in rows[k])
            fits = limit is None or all(have[x] + n <= limit for x, n in rows[k].items())
            if k not in taken and lacks and fits:
                taken.add(k)
                chosen.append(k)
                have.update(rows[k])

    taken: set[int] = set()
    take(2 * num_shots)
    take(None)  # a label that only comes with frequent ones
    for k in list(chosen):
        if all(have[label] - n >= want[label] for label, n in rows[k].items()):
            chosen.remove(k)
            have.subtract(rows[k])
    return [examples[k] for k in sorted(chosen)]


def unseen_labels(labels: Iterable[str], seen: Iterable[str]) -> list[str]:
    """Return the labels that are not among those seen; case and underscores do not count.

    Example:
        >>> unseen_labels(["Person", "award"], ["person", "city"])
        ['award']
    """
    known = {normalize_label(label) for label in seen}
    return [label for label in labels if normalize_label(label) not in known]
