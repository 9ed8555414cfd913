"""Free decoding writes what `generate` writes: always, on chaotic models of three families."""

from __future__ import annotations

import random
import warnings

import pytest
import torch
from test_engine import build_requests

from nomina.drafting import DraftConfig
from nomina.engine import EngineConfig, Request
from nomina.entities import LabelSet, split_words
from nomina.errors import ModelError
from nomina.formats import Sentence
from nomina.generation import Generator
from nomina.grounding import Grounding


@torch.inference_mode()
def generate(model, request, limit):
    """Return the ids that transformers writes, and their log probabilities."""
    ids = torch.tensor([[*request.prefix_ids, *request.sentence_ids]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        out = model.module.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=limit,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
    log_probs = [float(step.log_softmax(-1).max()) for step in out.logits]
    return out.sequences[0, -len(log_probs) :].tolist(), log_probs


def check_equal(model, requests, limit, config=None, draft_config=None):
    generator = Generator(model, config, limit, draft_config)
    have = list(generator.decode(iter(requests)))
    assert len(have) == len(requests)
    for request, one in zip(requests, have, strict=True):
        ids, log_probs = generate(model, request, limit)
        assert list(one.ids) == ids
        assert one.log_probs == pytest.approx(log_probs, abs=1e-3)
        ends = model.module.generation_config.eos_token_id
        assert one.is_finished == (ids[-1] in (ends if isinstance(ends, list) else [ends]))
    assert generator.usage.requests == len(requests)
    return generator.usage


@pytest.mark.parametrize("form", ["inline", "gner"])
@pytest.mark.parametrize("family", ["gemma3", "llama", "t5"])
@pytest.mark.parametrize("seed", range(2))
def test_equals_generate(build_model, family, form, seed):
    model = build_model(family, form, seed)
    rng = random.Random(seed)
    requests = build_requests(model, rng, 5, 9)
    config = EngineConfig(
        max_pass_tokens=rng.choice([1, 100, 400]),
        max_rows=rng.choice([1, 3, 8]),
        max_cache_tokens=rng.choice([100, 4000]),
        max_prefixes=rng.choice([1, 4]),
    )
    limit = rng.choice([1, 2, 30, 60])
    check_equal(
        model,
        requests,
        limit,
        config,
        DraftConfig(rng.choice([1, 7, 256]), rng.choice([0.0, 0.07, 0.9]), 3),
    )


@pytest.mark.parametrize("family", ["gemma3", "llama", "t5"])
def test_models_that_loop_never_stop_or_stop_at_once(build_model, family):
    model = build_model(family, "gner", 11)
    settings = model.module.generation_config
    before = settings.eos_token_id
    request = build_requests(model, random.Random(1), 1, 12)[0]
    try:
        settings.eos_token_id = None
        written, _ = generate(model, request, 150)
        assert len(written) == 150
        check = Generator(model, max_new_tokens=150)
        (endless,) = check.decode([request])
        assert list(endless.ids) == written
        assert not endless.is_finished
        for end in (written[0], written[20]):
            settings.eos_token_id = [end, 399]
            check_equal(model, [request, request], 150)
    finally:
        settings.eos_token_id = before


def test_sliding_windows_are_crossed_by_long_prompts(build_model):
    model = build_model("gemma3")  # sees 9 tokens back in two of three layers
    check_equal(model, build_requests(model, random.Random(7), 2, 40), 40)


def learned(model, request, written, num_steps):
    """Train a tiny model until it writes a completion by heart."""
    prompt = [*request.prefix_ids, *request.sentence_ids]
    ids = torch.tensor([[*prompt, *written]])
    targets = torch.tensor([[*[-100] * len(prompt), *written]])
    for parameter in model.module.parameters():
        parameter.data.mul_(0.2)
    optimizer = torch.optim.Adam(model.module.parameters(), 0.01)
    for _ in range(num_steps):
        optimizer.zero_grad()
        model.module(ids, labels=targets).loss.backward()
        optimizer.step()


def test_a_model_that_copies_needs_few_readings(build_model):
    model = build_model("llama", "gner", 3)
    text = "did george clooney make a musical in the 1980s ?"
    sentence, labels = Sentence.of(text, split_words(text)), LabelSet.of(["actor", "year"])
    prompt = model.format.prompt(sentence, labels)
    request = Request(
        (),
        tuple(model.sentence_ids(prompt)[-20:]),
        Grounding(model.format, sentence, labels.names, model.lexicon),
    )
    # It leaves out a word, invents a label and misspells a name.
    completion = (
        "did(O) george(B-actor) clooney(I-actor) make(O) musikal(O) in(O) the(O) 1980s(B-date) ?(O)"
    )
    written = [*model.tokenizer.encode(completion, add_special_tokens=False), 1]
    learned(model, request, written, 120)
    assert generate(model, request, 100)[0] == written
    usage = check_equal(model, [request], 100)
    assert usage.passes < len(written) / 2


def test_the_limit_grows_with_the_sentence(build_model):
    model = build_model("llama", "gner")
    model.module.generation_config.eos_token_id = None
    for parameter in model.module.parameters():
        parameter.data.mul_(0.05)  # it says the same again and again
    words = "a " * 120
    sentence = Sentence.of(words, split_words(words))
    grounding = Grounding(model.format, sentence, ("actor",), model.lexicon)
    (completion,) = Generator(model).decode([Request((), (5, 6, 7), grounding)])
    assert len(completion.ids) > 640
    model.module.generation_config.eos_token_id = 1


def test_settings_beyond_greedy_search_are_refused(build_model):
    model = build_model("llama", "gner")
    model.module.generation_config.repetition_penalty = 1.2
    with pytest.raises(ModelError, match=r"repetition_penalty=1\.2"):
        Generator(model)
    model.module.generation_config.repetition_penalty = 1.0
    with pytest.raises(ModelError, match="at least 1"):
        Generator(model, max_new_tokens=0)
    Generator(model)


def test_requests_are_taken_only_as_there_is_room(build_model):
    model = build_model("llama")
    taken = 0

    def stream():
        nonlocal taken
        for request in build_requests(model, random.Random(0), count=40, most_words=4):
            taken += 1
            yield request

    found = Generator(model, EngineConfig(max_rows=2), 5).decode(stream())
    next(found)
    assert taken <= 12
    assert len(list(found)) == 39
