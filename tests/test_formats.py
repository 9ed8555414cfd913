"""Both formats carry every text and read it back."""

from __future__ import annotations

import random

import pytest
from contracts import check_format, draw_labels, draw_spans
from hypothesis import given
from hypothesis import strategies as st
from test_entities import odd_text

from nomina.entities import Example, LabelSet, Span, split_words
from nomina.errors import FormatError
from nomina.formats import DONE, FORMATS, Sentence, State, get_format, target

forms = pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS.keys())


@forms
@given(text=odd_text, seed=st.integers(0, 10**6))
def test_every_target_is_read_back(form, text, seed):
    rng = random.Random(seed)
    sentence = Sentence.of(text, split_words(text))
    labels = draw_labels(rng)
    if form.name == "gner":  # its brackets are not escaped, to stay what GNER was trained on
        labels = LabelSet.of([x for x in labels.names if x not in ("x)(y", "a\\b")] or ["act"])
    check_format(form, sentence, labels, draw_spans(rng, len(sentence.words), labels))


def test_the_gner_prompt_is_byte_exact():
    words = ["did", "george", "clooney", "act"]
    sentence = Sentence(tuple(words), ("", " ", " ", " "))
    prompt = get_format("gner").prompt(sentence, LabelSet.of(["actor", "year"]))
    assert prompt.text == (
        "Please analyze the sentence provided, identifying the type of entity for each word on a "
        "token-by-token basis.\nOutput format is: word_1(label_1), word_2(label_2), ...\n"
        "We'll use the BIO-format to label the entities, where:\n"
        "1. B- (Begin) indicates the start of a named entity.\n"
        "2. I- (Inside) is used for words within a named entity but are not the first word.\n"
        "3. O (Outside) denotes words that are not part of a named entity.\n\n"
        "Use the specific entity tags: actor, year and O.\n"
        "Sentence: did george clooney act"
    )


@forms
def test_definitions_and_demonstrations_are_shown(form):
    sentence = Sentence(("hello",), ("",))
    labels = LabelSet.of({"city": {"definition": "a large town", "examples": ["Rome"]}})
    shown = Example.from_tags(["in", "Oslo"], ["O", "B-city"])
    full = form.prompt(sentence, labels, demonstrations=[shown]).text
    assert "a large town; e.g. Rome" in full
    assert target(form, Sentence(("in", "Oslo"), ("", " ")), labels.names, shown.spans) in full
    bare = form.prompt(sentence, labels, definitions=False).text
    assert "large town" not in bare


def test_inline_escapes_what_is_markup():
    sentence = Sentence.of("a [b] \\c", split_words("a [b] \\c"))
    assert target(get_format("inline"), sentence, ["x"], []) == r"a \[b\] \\c"


def test_a_backslash_before_an_entity_is_kept():
    # Hypothesis found it: the escaped backslash was taken for part of the opening bracket.
    assert get_format("inline").parse("\\\\[0](x) a\\\\[b](y)") == [
        ("\\", "O"),
        ("0", "B-x"),
        ("a\\", "O"),
        ("b", "B-y"),
    ]


@pytest.mark.parametrize("text", ["a [b](c", "a ]b", "[a] b", "[a [b](c)](d)", "[](c)"])
def test_inline_refuses_brackets_without_partner(text):
    with pytest.raises(FormatError, match="partner"):
        get_format("inline").parse(text)


@pytest.mark.parametrize("text", ["word", "word(X)", "a(O) b", "a(B-)"])
def test_gner_refuses_words_without_tags(text):
    with pytest.raises(FormatError, match="expected"):
        get_format("gner").parse(text)


def test_guesses_name_the_same_label_for_the_same_words():
    sentence = Sentence.of("Ada met Bo and Bo", [(0, 3), (4, 7), (8, 10), (11, 14), (15, 17)])
    form = get_format("inline")
    seen = {State("label", 1, 0): 2, State("label", 3, 2): 1, State("out", 3): 0}
    assert form.likely(State("label", 5, 4), sentence, seen)[:2] == (1, "label, words")
    assert form.likely(State("label", 2, 0), sentence, seen)[:2] == (2, "label, start")
    assert form.likely(State("label", 4, 3), sentence, seen)[:2] == (1, "label")  # the last one
    assert form.likely(State("label", 4, 3), sentence, {}).move == 0


@pytest.mark.parametrize("name", ["inline", "gner"])
def test_guesses_are_moves_and_odds(name):
    form, text = get_format(name), "The Bank of 12 x ."
    sentence = Sentence.of(text, split_words(text))
    state, kinds = form.start(), set()
    while state != DONE:
        guess = form.likely(state, sentence, {})
        assert 0 <= guess.move < len(form.moves(state, sentence, ["a", "b"]))
        assert 0 <= guess.odds <= 1
        kinds.add(guess.kind)
        state = form.advance(state, guess.move, sentence)
    assert kinds == {"name, first", "name", "word", "number", "mark", "end"}


@pytest.mark.parametrize(
    ("gap", "want"),
    [
        *(
            ("\u00a0", " "),
            ("\u202f", " "),
            ("\u3000", " "),
            (" \u2003\t", " "),
            ("\u00a0\n", "\n"),
        ),
        *(("\r\n", "\n"), ("\u2028", "\n"), ("\n \u00a0\n", "\n\n"), ("\r\r", "\n\n"), ("", "")),
    ],
)
def test_a_wide_space_is_a_space_and_no_line_break(gap, want):
    assert Sentence.of(f"a{gap}b", [(0, 1), (1 + len(gap), 2 + len(gap))]).gaps == ("", want)


def test_unknown_names_are_refused():
    with pytest.raises(FormatError, match="gner"):
        get_format("xml")
    with pytest.raises(FormatError, match="city"):
        target(get_format("inline"), Sentence(("a",), ("",)), ["x"], [Span(0, 1, "city")])
