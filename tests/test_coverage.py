"""Nothing silent: every character is decided once, or named."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_entities import odd_text

from nomina.coverage import coverage_warnings, uncovered
from nomina.entities import Example, LabelSet, split_words
from nomina.extractor import Tagger, _Work

LABELS = ["actor", "year"]
long_text = st.lists(odd_text, max_size=12).map(" ".join) | odd_text.map(lambda t: t * 40)


@given(odd_text)
def test_words_leave_nothing_over(text):
    assert uncovered(text, split_words(text)) == []


@given(st.text(alphabet="ab \n"), st.data())
def test_what_words_leave_over_is_found(text, data):
    words = split_words(text)
    kept = sorted(data.draw(st.sets(st.sampled_from(words)))) if words else []
    covered = {i for a, b in kept for i in range(a, b)}
    covered |= {i for a, b in uncovered(text, kept) for i in range(a, b)}
    assert {i for i, char in enumerate(text) if not char.isspace()} <= covered
    assert not {i for a, b in uncovered(text, kept) for i in (a, b - 1)} & {
        i for i, char in enumerate(text) if char.isspace()
    }


@settings(max_examples=15)
@given(text=long_text)
def test_every_character_of_any_text_is_decided_exactly_once(tagger, text):
    """What the engine is asked for, put together, is the text; no window or word is missing."""
    asked = []
    decode = tagger.engine.decode

    def recorded(requests):
        def seen():
            for request in requests:
                if request.sentence_ids:  # a text without words asks nothing
                    asked.append(request.grounding.sentence.words)
                yield request

        return decode(seen())

    tagger.engine.decode = recorded
    try:
        document = tagger(text, LABELS)
    finally:
        del tagger.engine.decode
    job = _Work(tagger.model, True, (), True)._begin(text, LabelSet.of(LABELS))
    decided = [0] * len(text)
    assert len(asked) == len(job.windows)
    for window, words in zip(job.windows, asked, strict=True):
        shown = job.offsets[window.context_start : window.context_end]
        assert words == tuple(text[a:b] for a, b in shown)
        for a, b in job.offsets[window.start : window.end]:
            decided[a:b] = [n + 1 for n in decided[a:b]]
    assert decided == [int(not char.isspace()) for char in text]
    # A vocabulary of bytes spells all there is, so that nothing else is left to say
    allowed = r"half of a surrogate|halves of a surrogate|reaches the end"
    assert all(re.search(allowed, line) for line in document.warnings)


def test_characters_outside_the_words_of_an_example_are_named(tagger):
    example = Example("did — george", ((0, 3), (6, 12)))
    assert tagger(example, LABELS).warnings == (
        "1 character outside all words was not labelled: [4, 5)",
    )
    rest = Example("a" * 10 + " b" * 10, ((0, 5), (11, 12)))
    (line,) = tagger(rest, LABELS).warnings
    assert line.startswith("14 characters")  # five of the run, nine of the b's
    assert line.endswith(": [5, 10), [13, 14), [15, 16), [17, 18), [19, 20), ...")


def test_words_that_a_vocabulary_lacks_are_named(build_model):
    tagger = Tagger(build_model("t5"))
    (line,) = tagger("did george 東京 act", LABELS).warnings
    assert line.startswith("2 words cannot be spelled")
    assert line.endswith("[11, 12), [12, 13)")
    assert tagger("did george act", LABELS).warnings == ()


def test_half_surrogates_are_named(tagger):
    (line,) = tagger("a \ud800 b", LABELS).warnings
    assert line.startswith("1 half of a surrogate pair")
    assert line.endswith("[2, 3)")


def test_an_entity_cut_by_the_end_of_a_window_is_named(tagger, build_model):
    tagger = Tagger(build_model("gemma3", max_words=4))
    text = "george clooney met mary " * 30
    found = [d for i in range(6) if (d := tagger(text[i:], LABELS)).warnings]
    assert found  # a chaotic model makes long entities
    for document in found:
        for line in document.warnings:
            start, end = map(int, re.search(r"\[(\d+), (\d+)\) reaches the end", line).groups())
            assert end < len(document.text.rstrip())
            assert (start, end) in {(e.start, e.end) for e in document}  # and in the document


def test_a_prompt_longer_than_the_model_was_made_for_is_named(build_model):
    tagger = Tagger(build_model("llama"))
    assert tagger("did george act in 1980", LABELS).warnings == ()
    tagger.model.module.config.max_position_embeddings = 40
    (line,) = tagger("did george act in 1980", ["a type of some kind", *LABELS]).warnings
    assert re.search(r"about \d+ tokens, but the model was made for 40", line)


@pytest.mark.parametrize("text", ["", " \n"])
def test_nothing_to_say_of_nothing(text):
    assert coverage_warnings(text, [], lambda word: False) == []
