"""What every format and every reader must keep, as functions that tests call."""

from __future__ import annotations

import random

from nomina.entities import LabelSet, Span
from nomina.formats import Format, Sentence, gold_spans, target
from nomina.grounding import Grounding, Lexicon, to_spans

LABELS = ["actor", "actor name", "act", "year (AD)", "a\\b", "B-x", "O", "名前", "x)(y"]


def draw_labels(rng: random.Random, most: int = 5) -> LabelSet:
    return LabelSet.of(rng.sample(LABELS, rng.randint(1, most)))


def draw_spans(rng: random.Random, num_words: int, labels: LabelSet) -> list[Span]:
    spans, word = [], 0
    while word < num_words:
        if rng.random() < 0.35:
            end = min(num_words, word + rng.randint(1, 3))
            spans.append(Span(word, end, rng.choice(labels.names)))
            word = end
        else:
            word += 1
    return spans


def check_format(form: Format, sentence: Sentence, labels: LabelSet, spans: list[Span]) -> str:
    """The target of an example, read strictly, gives words and entities back."""
    written = target(form, sentence, labels.names, spans)
    have = form.parse(written)
    # White space and our finer words are not part of what a completion carries.
    assert "".join(word for word, _ in have) == "".join(sentence.words)
    entities = []
    for word, tag in have:
        if tag.startswith("B-"):
            entities.append((tag[2:], word))
        elif tag.startswith("I-"):
            entities[-1] = (entities[-1][0], entities[-1][1] + word)
    assert entities == [(s.label, "".join(sentence.words[s.start : s.end])) for s in spans]
    return written


def check_grounding(
    form: Format, sentence: Sentence, labels: LabelSet, lexicon: Lexicon, rng: random.Random
) -> None:
    """Any walk ends, and reads as spans that lead to the same walk."""
    grounding = Grounding(form, sentence, labels.names, lexicon)
    fork, path = grounding.start(), []
    while fork.allowed:
        assert len(set(fork.allowed)) == len(fork.allowed) > 1
        choice = rng.randrange(len(fork.allowed))
        path.append((fork, choice, -0.1))
        fork = fork.take(choice)
    scored = grounding.read(path)
    assert all(0 < span.score < 1 for span in scored) or not path
    spans = to_spans(scored, labels.names)
    again = grounding.walk(gold_spans(labels.names, spans))
    assert [(f, c) for f, c, _ in path] == again
