"""Completions that were written freely, read as entities with scores.

A completion is decoded, aligned with the words it was to copy, and each entity is scored by what
the model thought of the stretch that it wrote for it: the product of the probabilities, among the
whole vocabulary, of the ids that write the entity's words with their tags, brackets and label. The
words are copied and cost next to nothing, so what is left are the decisions. Unlike a grounded
score it pays for everything else that the model might have written, and in the `gner` format it
does not count that the entity ends, because that is told by the tag of the next word.

Knows tokenizers and formats by their names; runs no model.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from nomina.alignment import Alignment, align
from nomina.generation import Completion
from nomina.grounding import Grounding, ScoredSpan

_MAX_SHOWN = 12


class FreeReading(NamedTuple):
    """A completion as entities.

    Attributes:
        spans: Entities in words of the sentence.
        warnings: What a user should know: words not labelled, labels not asked for, a completion
            that was cut.
        text: What the model wrote.
    """

    spans: list[ScoredSpan]
    warnings: list[str]
    text: str


def read_completion(
    completion: Completion, grounding: Grounding, tokenizer: PreTrainedTokenizerBase
) -> FreeReading:
    """Read a completion as entities of the sentence and labels that were asked for.

    Labels that were not asked for become no entity, and are named in the warnings.
    """
    words = [_plain(word) for word in grounding.sentence.words]
    text = _decode(tokenizer, completion.ids)
    labels = grounding.labels
    found = align(words, text, grounding.form.name, labels, tokenizer=tokenizer)
    at = _Places(tokenizer, completion)
    spans = []
    for start, end, label in found.spans:
        places = {found.places[i] for i in found.sources[start:end] if i >= 0}
        log_score = sum(at.log_prob(place) for place in places)
        spans.append(ScoredSpan(start, end, labels.index(label), math.exp(log_score)))
    return FreeReading(spans, _warnings(found, completion, words), text)


def _warnings(found: Alignment, completion: Completion, words: Sequence[str]) -> list[str]:
    out = []
    if not completion.is_finished:
        out.append(f"the model did not end its completion; tokens written: {len(completion.ids)}")
    if found.num_unaligned:
        lost = [word for word, j in zip(words, found.sources, strict=True) if j < 0]
        shown = ", ".join(lost[:_MAX_SHOWN]) + (", ..." if len(lost) > _MAX_SHOWN else "")
        out.append(f"words left out by the model's completion are not labelled: {shown}")
    if found.unknown_labels:
        names = ", ".join(sorted(found.unknown_labels))
        out.append(f"the model wrote labels that were not asked for: {names}")
    return out


class _Places:
    """Which ids write which characters of a completion."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, completion: Completion) -> None:
        self._tokenizer = tokenizer
        self._completion = completion
        self._lengths: dict[int, int] = {}

    def log_prob(self, place: tuple[int, int]) -> float:
        """Return the log probability of the ids that write `text[start:end]`."""
        ids = range(len(self._completion.ids) + 1)
        first = bisect_right(ids, place[0], key=self._length) - 1
        last = bisect_left(ids, place[1], key=self._length)
        return sum(self._completion.log_probs[max(first, 0) : last])

    def _length(self, num_ids: int) -> int:
        """Return how many characters the first ids write; a character half written is whole."""
        length = self._lengths.get(num_ids)
        if length is None:
            length = len(_decode(self._tokenizer, self._completion.ids[:num_ids]))
            self._lengths[num_ids] = length
        return length


def _decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    text: str = tokenizer.decode(
        list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return text


def _plain(word: str) -> str:
    """Return a word without lone surrogates, which no tokenizer takes; its length may change."""
    return word.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
