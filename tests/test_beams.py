"""Beam search finds what its plain form finds; one beam is the greedy rule; many find the best."""

from __future__ import annotations

import random
from unittest.mock import Mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_engine import build_requests

from nomina.beams import BeamEngine, Step, decode_beams_plain, search
from nomina.engine import Engine, EngineConfig, Request, decode_plain
from nomina.entities import LabelSet, split_words
from nomina.errors import ModelError
from nomina.formats import Sentence
from nomina.grounding import Grounding


def choices(path):
    return [(fork, choice) for fork, choice, _ in path]


def check_equal(model, requests, num_beams):
    engine = BeamEngine(model, EngineConfig(max_pass_tokens=100), num_beams)
    for request, have in zip(requests, engine.decode(requests), strict=True):
        want = decode_beams_plain(model, request, num_beams)
        assert choices(have) == choices(want)
        for (_, _, a), (_, _, b) in zip(have, want, strict=True):
            assert a == pytest.approx(b, abs=1e-4)
    return engine.usage


@pytest.mark.parametrize("form", ["inline", "gner"])
@pytest.mark.parametrize("family", ["gemma3", "llama", "t5"])
def test_equals_its_plain_form(build_model, family, form):
    @settings(max_examples=2)
    @given(seed=st.integers(0, 10_000), num_beams=st.integers(2, 5))
    def check(seed, num_beams):
        model = build_model(family, form, seed)
        for parameter in model.module.parameters():
            parameter.data.mul_(0.6)  # less sure of itself, so that beams matter
        check_equal(model, build_requests(model, random.Random(seed), 2, 5), num_beams)

    check()


@pytest.mark.parametrize("family", ["gemma3", "llama", "t5"])
@pytest.mark.parametrize("form", ["inline", "gner"])
def test_one_beam_is_the_greedy_engine(build_model, family, form):
    model = build_model(family, form, 5)
    requests = build_requests(model, random.Random(5), 4, 9)
    greedy = [choices(path) for path in Engine(model).decode(requests)]
    found = list(BeamEngine(model, num_beams=1).decode(requests))
    assert [choices(path) for path in found] == greedy
    for request, path in zip(requests, found, strict=True):
        scores = [score for _, _, score in decode_plain(model, request)]
        assert [score for _, _, score in path] == pytest.approx(scores, abs=1e-4)
    plain = decode_beams_plain(model, requests[0], 1)
    assert choices(plain) == choices(decode_plain(model, requests[0]))


def test_windows_beyond_the_sliding_attention(build_model):
    model = build_model("gemma3")  # sees 9 tokens back in two of three layers
    check_equal(model, build_requests(model, random.Random(7), 1, 16), 3)


def all_walks(step):
    if not step.fork.allowed:
        yield step
    for choice in range(len(step.fork.allowed)):
        yield from all_walks(step.take(choice))


@pytest.mark.parametrize("form", ["inline", "gner"])
def test_wide_beams_find_the_best_of_all_walks(build_model, form):
    model = build_model("llama", form, 2)
    sentence, labels = Sentence.of("a b c", split_words("a b c")), LabelSet.of(["act", "year"])
    grounding = Grounding(model.format, sentence, labels.names, model.lexicon)
    rng = random.Random(0)
    for _ in range(20):
        log_probs = {}

        def ask(steps, log_probs=log_probs):
            for step in steps:
                if id(step) not in log_probs:
                    weights = [rng.random() for _ in step.fork.allowed]
                    row = torch.tensor(weights).log().log_softmax(0).tolist()
                    log_probs[id(step)] = step.log_probs = row
            return [log_probs[id(step)] for step in steps]

        start = Step(grounding.start())
        ends = list(all_walks(start))
        assert len(ends) == 41  # ways to mark three words with two labels
        for end in ends:
            ask([step for step in end.line() if step.fork.allowed])
        scores = [sum(log_prob for *_, log_prob in end.path()) for end in ends]
        best = ends[scores.index(max(scores))]
        assert search(start, 10_000, ask) is best
        # Every narrower beam finds a walk, and none a better one.
        for num_beams in (1, 2, 4):
            found = search(start, num_beams, ask)
            assert sum(log_prob for *_, log_prob in found.path()) <= max(scores) + 1e-9


def test_few_passes_where_the_model_is_sure(build_model):
    model = build_model("llama", "gner", 4)
    for parameter in model.module.parameters():
        parameter.data.mul_(0.05)
    requests = build_requests(model, random.Random(4), 2, 8)
    usage = check_equal(model, requests, 4)
    assert usage.requests == 2
    assert usage.passes < usage.tokens


def test_sentences_without_words_and_beams_that_cannot_be(build_model):
    model = build_model("llama")
    grounding = Grounding(model.format, Sentence((), ()), ("a",), model.lexicon)
    request = Request((5,), (6, 7), grounding)
    assert list(BeamEngine(model).decode([request, request])) == [[], []]
    assert list(BeamEngine(model).decode([])) == []
    with pytest.raises(ModelError, match="at least 1, was: 0"):
        BeamEngine(model, num_beams=0)


def test_a_reading_that_was_interrupted_spoils_no_other(build_model, monkeypatch):
    model = build_model("llama")
    requests = build_requests(model, random.Random(2), 1, 12)
    (want,) = BeamEngine(model, num_beams=2).decode(requests)
    engine = BeamEngine(model, num_beams=2)
    layer = model.module.model.layers[1]
    with monkeypatch.context() as patch:
        patch.setattr(layer, "forward", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            list(engine.decode(requests))
    (have,) = engine.decode(requests)
    assert [(f, c) for f, c, _ in have] == [(f, c) for f, c, _ in want]


def test_the_model_is_left_as_it_was(build_model):
    model = build_model("gemma3")
    before = model.module.config._attn_implementation
    ids = torch.arange(5).unsqueeze(0)
    want = model.module(ids).logits
    list(BeamEngine(model).decode(build_requests(model, random.Random(0), 2, 5)))
    assert model.module.config._attn_implementation == before
    assert torch.equal(model.module(ids).logits, want)
