"""Whatever is chosen, a walk is a well-formed copy; labels that begin alike can be told apart."""

from __future__ import annotations

import random

import pytest
from contracts import check_grounding, draw_labels, draw_spans
from hypothesis import given
from hypothesis import strategies as st
from test_entities import odd_text

from nomina.entities import LabelSet, Span, split_words
from nomina.errors import GroundingError
from nomina.formats import FORMATS, Sentence, gold_spans, target
from nomina.grounding import Grounding, Lexicon, to_spans

forms = pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS.keys())


@pytest.fixture(params=["characters", "bytes", "unigram"], scope="module")
def lexicon(request, byte_tokenizer, unigram_tokenizer, build_model):
    if request.param == "characters":
        return Lexicon(lambda text: [ord(char) + 2 for char in text], 1)
    return build_model("llama" if request.param == "bytes" else "t5").lexicon


@forms
@given(text=odd_text, seed=st.integers(0, 10**6))
def test_any_walk_reads_as_spans_that_lead_to_it(form, lexicon, text, seed):
    rng = random.Random(seed)
    sentence = Sentence.of(text, split_words(text))
    labels = draw_labels(rng)
    try:
        check_grounding(form, sentence, labels, lexicon, rng)
    except GroundingError:
        return  # a vocabulary without the characters of two labels cannot choose between them


@forms
@given(seed=st.integers(0, 10**6))
def test_forced_and_chosen_ids_spell_the_target(form, byte_tokenizer, build_model, seed):
    rng = random.Random(seed)
    lexicon = build_model("llama").lexicon
    text = " ".join(rng.choices(["did", "george", "[x]", "(O)", "東京", "a\\b", "\n"], k=9))
    sentence = Sentence.of(text, split_words(text))
    labels = draw_labels(rng)
    spans = draw_spans(rng, len(sentence.words), labels)
    grounding = Grounding(form, sentence, labels.names, lexicon)
    fork = grounding.start()
    ids = list(fork.forced)
    for fork, choice in grounding.walk(gold_spans(labels.names, spans)):
        ids += [fork.allowed[choice], *fork.take(choice).forced]
    assert ids[-1] == byte_tokenizer.eos_token_id
    want = target(form, sentence, labels.names, spans)
    assert byte_tokenizer.decode(ids[:-1], clean_up_tokenization_spaces=False) == want


@forms
def test_scores_are_products_of_the_choices_of_an_entity(form):
    lexicon = Lexicon(lambda text: [ord(char) + 2 for char in text], 1)
    sentence = Sentence.of("in New York now", split_words("in New York now"))
    labels = ("city", "person")
    grounding = Grounding(form, sentence, labels, lexicon)
    walk = grounding.walk(gold_spans(labels, [Span(1, 3, "city")]))
    (have,) = grounding.read([(fork, choice, -0.25) for fork, choice in walk])
    assert to_spans([have], labels) == [Span(1, 3, "city")]
    if form.name == "inline":  # open, go on, close, label
        assert have.score == pytest.approx(2.718281828**-1.0)
    else:
        assert 0 < have.score < 1


def test_ambiguous_labels_are_named():
    lexicon = Lexicon(lambda text: [5 if char in "ab" else ord(char) for char in text], 1)
    with pytest.raises(GroundingError, match="cannot tell 'a\\)' from 'b\\)'"):
        lexicon.trie(("a)", "b)"))


def test_caches_are_bounded():
    lexicon = Lexicon(lambda text: [ord(char) for char in text], 1, max_entries=10)
    for number in range(100):
        lexicon.trie((f"a{number}", f"b{number}"))
    assert len(lexicon._ids) <= 12
    assert sum(map(len, lexicon._tries)) <= 10  # a trie weighs as much as its strings


def test_long_label_lists_cost_little():
    labels = LabelSet.of([f"label number {i}" for i in range(500)])
    lexicon = Lexicon(lambda text: [ord(char) for char in text], 1)
    sentence = Sentence.of("a b c", split_words("a b c"))
    grounding = Grounding(FORMATS["inline"], sentence, labels.names, lexicon)
    walk = grounding.walk(gold_spans(labels.names, [Span(0, 1, "label number 499")]))
    assert all(len(fork.allowed) <= 11 for fork, _ in walk)
