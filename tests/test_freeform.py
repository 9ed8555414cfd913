"""What a model wrote freely is read as entities, scored by the stretch that it wrote for them."""

from __future__ import annotations

import math

import pytest

from nomina.entities import Example, LabelSet, split_words
from nomina.errors import ModelError
from nomina.extractor import Tagger
from nomina.formats import Sentence, get_format
from nomina.freeform import read_completion
from nomina.generation import Completion
from nomina.grounding import Grounding, Lexicon

TEXT = "did george clooney meet Zürich ?"
LABELS = ("actor", "place")


def read(tokenizer, text, form="gner", log_prob=-0.01, odd=(), is_finished=True):
    """Read a text as a completion whose every id has a log probability, but for some ids."""
    ids = tokenizer.encode(text, add_special_tokens=False)
    log_probs = [-1.0 if tokenizer.decode([i]) in odd else log_prob for i in ids]
    sentence = Sentence.of(TEXT, split_words(TEXT))
    lexicon = Lexicon(lambda piece: tokenizer.encode(piece, add_special_tokens=False), 1)
    grounding = Grounding(get_format(form), sentence, LABELS, lexicon)
    completion = Completion((*ids, 1), (*log_probs, -5.0), is_finished)
    return read_completion(completion, grounding, tokenizer)


def test_an_entity_is_scored_by_its_own_ids(byte_tokenizer):
    text = "did(O) george(B-actor) clooney(I-actor) meet(O) Zürich(B-place) ?(O)"
    found = read(byte_tokenizer, text)
    assert [span[:3] for span in found.spans] == [(1, 3, 0), (4, 5, 1)]
    assert not found.warnings
    assert found.text == text
    count = len(byte_tokenizer.encode(" george(B-actor) clooney(I-actor)"))
    assert math.log(found.spans[0].score) == pytest.approx(-0.01 * count)
    assert found.spans[1].score > math.exp(-0.01 * 40)


def test_a_doubt_outside_an_entity_does_not_count(byte_tokenizer):
    text = "did(O) [george clooney](actor) meet(O) [Zürich](place) ?"
    found = read(byte_tokenizer, text, "inline", odd={"?", "d"})
    sure = read(byte_tokenizer, text, "inline")
    assert found.spans == sure.spans
    assert len(found.spans) == 2


def test_what_is_lost_is_named(byte_tokenizer):
    text = "did(O) clooney(B-person) meet(O) ?("
    found = read(byte_tokenizer, text, is_finished=False)
    assert found.spans == []
    assert [warning.partition(": ")[2] for warning in found.warnings][1:] == [
        "george, Zürich, ?",
        "person",
    ]
    assert "did not end" in found.warnings[0]


def test_no_completion_is_beyond_reading(byte_tokenizer):
    for text in ("", "(O)", "](", "\ufffd(B-actor)", "did(B-actor)" * 30):
        for form in ("gner", "inline"):
            assert all(0 < span.score <= 1 for span in read(byte_tokenizer, text, form).spans)


@pytest.mark.parametrize("family", ["gemma3", "t5"])
@pytest.mark.parametrize("form", ["inline", "gner"])
def test_taggers_that_decode_freely_keep_the_promises(build_model, family, form):
    model = build_model(family, form, max_words=6)
    tagger = Tagger(model, decoding="free", max_new_tokens=30)
    text = "did george clooney make {a} musical, 東京? \ud800 " * 2
    document = tagger(text, ["actor", "year"])
    assert all(text[e.start : e.end] == e.text for e in document)
    assert document.warnings  # a chaotic model loses words
    texts = [text, "", "george", Example.from_tags(["New-York's", "mayor"], ["O", "O"])]
    together = list(tagger.pipe(texts, ["actor"]))
    assert [d.text for d in together] == [text, "", "george", "New-York's mayor"]
    assert together[1].warnings == ()
    items = [(text, LabelSet.of(["actor"])) for text in texts[:3]]
    done = dict(tagger.pipe_as_done([*items, None]))
    assert [done[number] for number in range(3)] == together[:3]
    beams = Tagger(model, num_beams=2)
    assert len(dict(beams.pipe_as_done([items[2], None]))) == 1


def test_the_threshold_of_a_model_is_not_for_free_scores(build_model):
    tagger = Tagger(build_model("llama", threshold=1.0), decoding="free", max_new_tokens=5)
    assert tagger._limit(None) == 0
    assert tagger._limit(0.3) == 0.3
    assert Tagger(tagger.model)._limit(None) == 1


def test_unknown_decodings_are_refused(build_model):
    with pytest.raises(ModelError, match="'grounded' or 'free', was: 'greedy'"):
        Tagger(build_model("llama"), decoding="greedy")
