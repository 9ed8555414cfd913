"""The engine gives the plain decoder's answers: always, on chaotic models of three families."""

from __future__ import annotations

import math
import mmap
import random
import sys
from functools import partial

import pytest
import torch
from contracts import draw_labels

from nomina.beams import BeamEngine
from nomina.engine import Engine, EngineConfig, KeyStore, Odds, Request, decode_plain
from nomina.entities import LabelSet, split_words
from nomina.errors import ModelError
from nomina.formats import Guess, Sentence
from nomina.generation import Generator
from nomina.grounding import Grounding

WORDS = "did george clooney [make] a musical (O) in Paris's O2-arena, 東京? zz \\ ] 12 éa ש".split()


def build_requests(model, rng, count=14, most_words=24, prefixes=3):
    label_sets = [draw_labels(rng, 4) for _ in range(prefixes)]
    if model.name == "tiny-t5":  # its vocabulary lacks the other labels' characters
        label_sets = [LabelSet.of(["actor", "actor name", "act", "year"]) for _ in range(prefixes)]
    requests = []
    for _ in range(count):
        text = " ".join(rng.choices(WORDS, k=rng.randint(0, most_words)))
        labels = rng.choice(label_sets)
        sentence = Sentence.of(text, split_words(text))
        prompt = model.format.prompt(sentence, labels)
        requests.append(
            Request(
                tuple(model.prefix_ids(prompt)),
                tuple(model.sentence_ids(prompt)),
                Grounding(model.format, sentence, labels.names, model.lexicon),
            )
        )
    return requests


def check_equal(model, requests, config):
    want = [decode_plain(model, request) for request in requests]
    engine = Engine(model, config)
    have = list(engine.decode(iter(requests)))
    assert len(have) == len(want)
    for one, other in zip(have, want, strict=True):
        assert [(fork, choice) for fork, choice, _ in one] == [(f, c) for f, c, _ in other]
        for (_, _, a), (_, _, b) in zip(one, other, strict=True):
            assert a == pytest.approx(b, abs=1e-4)
    return engine.usage


@pytest.mark.parametrize("form", ["inline", "gner"])
@pytest.mark.parametrize("family", ["gemma3", "llama", "t5"])
@pytest.mark.parametrize("seed", range(3))
def test_engine_equals_the_plain_decoder(build_model, family, form, seed):
    model = build_model(family, form, seed)
    rng = random.Random(seed)
    requests = build_requests(model, rng, 4, 9)
    config = EngineConfig(
        max_pass_tokens=rng.choice([1, 100, 400]),
        max_rows=rng.choice([1, 3, 8]),
        max_cache_tokens=rng.choice([100, 4000]),
        max_prefixes=rng.choice([1, 4]),
        pass_tokens=rng.choice([0, 10, 1000]),
    )
    usage = check_equal(model, requests, config)
    assert usage.requests == len(requests)
    assert usage.reads >= usage.passes


@pytest.mark.parametrize("form", ["inline", "gner"])
def test_words_shown_behind_those_decided_change_nothing(build_model, form):
    num_saved = num_found = 0
    for seed in range(6):  # some open an entity and never close it
        model = build_model("gemma3", form, seed)
        rng = random.Random(seed)
        for request in build_requests(model, rng, 3, 16):
            whole = request.grounding
            num_decided = rng.randint(0, len(whole.sentence.words))
            cut = Grounding(model.format, whole.sentence, whole.labels, model.lexicon, num_decided)
            want = decode_plain(model, request)
            (have,) = Engine(model).decode(iter([request._replace(grounding=cut)]))
            found = [span for span in cut.read(have) if span.start < num_decided]
            kept = [span for span in whole.read(want) if span.start < num_decided]
            assert [span[:3] for span in found] == [span[:3] for span in kept]
            scores = [span.score for span in kept]
            assert [span.score for span in found] == pytest.approx(scores, abs=1e-4)
            num_saved += len(want) - len(have)
            num_found += len(found)
    assert num_saved > 0 < num_found


def test_windows_beyond_the_sliding_attention(build_model):
    model = build_model("gemma3")  # sees 9 tokens back in two of three layers
    requests = build_requests(model, random.Random(7), count=2, most_words=40)
    check_equal(model, requests, EngineConfig())


@pytest.mark.parametrize("num_rows", [1, 7])
def test_idle_rows_of_the_store_are_looked_past(build_model, num_rows):
    # Sentences of very different length leave the batch one by one, and new ones take their slots.
    model = build_model("gemma3")
    rng = random.Random(num_rows)
    requests = [r for n in (1, 20, 2, 9) for r in build_requests(model, rng, 3, n)]
    check_equal(model, requests, EngineConfig(max_rows=num_rows, max_pass_tokens=40))


@pytest.mark.parametrize("num_rows", [1, 3, 7])
@pytest.mark.parametrize("family", ["gemma3", "llama"])
def test_attention_by_products_decodes_the_same(build_model, monkeypatch, family, num_rows):
    # Taken for bfloat16, where choices may differ by rounding: here in float32, where they may not.
    for module in ("engine", "families"):
        monkeypatch.setattr(f"nomina.{module}.favours_products", lambda tensor: True)
    model = build_model(family)
    rng = random.Random(num_rows)
    requests = [r for n in (1, 20, 2, 9) for r in build_requests(model, rng, 3, n)]
    check_equal(model, requests, EngineConfig(max_rows=num_rows, max_pass_tokens=60))


def test_short_drafts_read_fewer_tokens_in_more_readings(build_model):
    model = build_model("gemma3")
    requests = build_requests(model, random.Random(5), count=6, most_words=24)
    short, long = (Engine(model, EngineConfig(pass_tokens=n)) for n in (0, 1_000_000))
    paths = [list(engine.decode(requests)) for engine in (short, long)]
    assert [[c for _, c, _ in path] for path in paths[0]] == [
        [c for _, c, _ in path] for path in paths[1]
    ]
    assert short.usage.floor_tokens <= short.usage.tokens < long.usage.tokens
    assert short.usage.reads > long.usage.reads


def test_odds_begin_with_what_is_believed_and_end_with_what_was_seen():
    odds, guess = Odds(), Guess(0, "word", 0.9)
    assert odds.of(guess) == pytest.approx(0.9)
    for number in range(1000):
        odds.learn(guess, number % 4 == 0)
    assert odds.of(guess) == pytest.approx(0.25, abs=0.01)
    assert odds.of(Guess(0, "name", 0.4)) == pytest.approx(0.4)


def test_results_do_not_depend_on_company(build_model):
    model = build_model("llama")
    requests = build_requests(model, random.Random(3), count=6, most_words=10)
    alone = [next(Engine(model).decode([request])) for request in requests]
    together = list(Engine(model).decode(requests))
    for one, other in zip(alone, together, strict=True):
        assert [c for _, c, _ in one] == [c for _, c, _ in other]


def test_requests_are_taken_only_as_there_is_room(build_model):
    model = build_model("llama")
    taken = 0

    def stream():
        nonlocal taken
        for request in build_requests(model, random.Random(0), count=60, most_words=4):
            taken += 1
            yield request

    paths = Engine(model, EngineConfig(max_rows=2)).decode(stream())
    next(paths)
    assert taken <= 12


def test_an_empty_stream_and_empty_sentences(build_model):
    model = build_model("llama")
    assert list(Engine(model).decode([])) == []
    sentence = Sentence((), ())
    prompt = model.format.prompt(sentence, LabelSet.of(["a"]))
    grounding = Grounding(model.format, sentence, ("a",), model.lexicon)
    request = Request(tuple(model.prefix_ids(prompt)), tuple(model.sentence_ids(prompt)), grounding)
    assert list(Engine(model).decode([request, request])) == [[], []]


def test_the_model_is_left_as_it_was(build_model):
    model = build_model("gemma3")
    before = model.module.config._attn_implementation
    ids = torch.arange(5).unsqueeze(0)
    want = model.module(ids).logits
    list(Engine(model).decode(build_requests(model, random.Random(0), count=2, most_words=5)))
    assert model.module.config._attn_implementation == before
    assert torch.equal(model.module(ids).logits, want)


@pytest.mark.parametrize("seed", range(3))
def test_choices_of_any_number_are_as_if_each_were_alone(build_model, seed):
    model, rng = build_model("llama", seed=seed), random.Random(seed)
    sizes = [rng.choice([1, 2, 2, 4, 5, 32, 33, 90]) for _ in range(rng.randint(1, 40))]
    choices = [tuple(rng.choices(range(300), k=size)) for size in sizes]
    hidden = torch.randn(len(choices), 32)
    seen = []
    for rows, log_probs in model.choice_log_probs(hidden, choices):
        for row, found in zip(rows, log_probs, strict=True):
            ids = torch.tensor([choices[row]])
            want = model.choice_logits(hidden[row : row + 1], ids)[0].log_softmax(-1)
            assert torch.allclose(found[: len(choices[row])], want, atol=1e-5)
            assert found[len(choices[row]) :].tolist() == [-math.inf] * (len(found) - len(want))
        seen += rows
    assert sorted(seen) == list(range(len(choices)))


@pytest.mark.parametrize("engine", [Engine, partial(BeamEngine, num_beams=2), Generator])
def test_what_is_no_number_is_an_error_and_not_silence(build_model, engine):
    model = build_model("llama")
    requests = build_requests(model, random.Random(0), 2, 9)
    with torch.no_grad():
        model.module.model.norm.weight[0] = float("inf")
    with pytest.raises(ModelError, match="computes NaN in float32: its weights are damaged, or it"):
        list(engine(model).decode(requests))


@pytest.mark.parametrize("name", ["max_rows", "max_pass_tokens", "max_prefixes", "pass_tokens"])
def test_sizes_that_cannot_be_are_named(name):
    with pytest.raises(ModelError, match=f"EngineConfig.{name}` must be . or more, was: -1"):
        EngineConfig(**{name: -1})


def test_what_a_long_text_needed_is_given_back(build_model):
    model = build_model("gemma3")
    (short,) = build_requests(model, random.Random(5), 1, 9)
    long = Request(short.prefix_ids * (6000 // len(short.prefix_ids)), *short[1:])
    engine = Engine(model)
    (want,) = engine.decode([short])
    list(engine.decode([short, long, short]))
    with engine._readers.taken() as reader:
        assert reader._store.length > 6000
    (have,) = engine.decode([short])
    assert [(f, c) for f, c, _ in have] == [(f, c) for f, c, _ in want]
    with engine._readers.taken() as reader:
        assert reader._store.length < 2000
        assert not reader._requests
        assert not reader._store._used


@pytest.mark.parametrize("family", ["gemma3", "llama"])
def test_a_store_that_grows_by_slots_holds_the_same(build_model, family, monkeypatch):
    stores = []  # what GPUs have, where untouched memory is taken, too

    def grows(num_slots, _):
        stores.append(KeyStore(num_slots, grows_by_slots=True))
        return stores[-1]

    monkeypatch.setattr("nomina.engine.KeyStore", grows)
    model = build_model(family)
    requests = build_requests(model, random.Random(3), 12, 9)
    check_equal(model, requests, EngineConfig(max_rows=64))
    assert {len(keys) for keys in stores[-1]._keys.values()} == {16}
    check_equal(model, requests, EngineConfig(max_rows=3))
    assert {len(keys) for keys in stores[-1]._keys.values()} == {3}
    want = list(Generator(model, EngineConfig(max_rows=1), 20).decode(requests))
    have = list(Generator(model, EngineConfig(max_rows=64), 20).decode(requests))
    assert [x.ids for x in have] == [x.ids for x in want]
    assert {len(keys) for keys in stores[-1]._keys.values()} == {16}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_slots_that_nobody_uses_take_no_memory():
    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * mmap.PAGESIZE

    like = torch.zeros(1, 1, 1, 64)
    store = KeyStore(1000)
    store.reserve([0], 4096)
    before = resident()
    room = store._room(like, 4096)  # a gigabyte
    assert room.shape == (1000, 4096, 1, 64)
    assert not room[::250, ::1000].any()
    room[3] = 1
    assert resident() - before < 100_000_000
