"""Heads guess what the model will choose: fewer readings, never another answer."""

from __future__ import annotations

import json
import math
import random
import re
import shutil
import sys
from functools import partial

import pytest

pytest.importorskip("torch")

import heads as tool
import torch
from conftest import draw_heads
from test_engine import WORDS, build_requests, check_equal

from nomina.engine import Engine, EngineConfig
from nomina.entities import Example, LabelSet, Span, split_words
from nomina.errors import ModelError, RecipeError
from nomina.formats import Guess, Sentence
from nomina.grounding import Grounding
from nomina.head_fitting import fit_heads
from nomina.heads import FILE_NAME, Foresight, Heads, foresee, word_ends
from nomina.mixture import Question
from nomina.models import load_model


@pytest.fixture
def with_heads(build_model):
    def build(family, form="inline", seed=0, **options):
        model = build_model(family, form, seed)
        model.heads = draw_heads(seed, **options)
        return model

    return build


@pytest.mark.parametrize("form", ["inline", "gner"])
@pytest.mark.parametrize("family", ["gemma3", "llama", "t5"])
@pytest.mark.parametrize("seed", range(2))
def test_the_answer_is_the_plain_decoders_whatever_they_guess(with_heads, family, form, seed):
    model = with_heads(family, form, seed)
    rng = random.Random(seed)
    config = EngineConfig(max_pass_tokens=rng.choice([1, 400]), max_rows=rng.choice([1, 3]))
    check_equal(model, build_requests(model, rng, 5, 12), config)


def test_guesses_that_come_true_save_readings(build_model, monkeypatch):
    model = build_model("gemma3")
    requests = build_requests(model, random.Random(3), 6, 20)
    paths = list(Engine(model).decode(requests))
    reads = {}
    for is_right in (False, True):
        engine = Engine(model)
        model.heads = draw_heads(0) if is_right else None
        if is_right:
            of_path = {(f.key, f.forced): (f, c) for path in paths for f, c, _ in path}

            def know(self, fork, of_path=of_path):
                _, choice = of_path.get((fork.key, fork.forced), (None, 0))
                return Guess(choice, "known", 0.99)

            monkeypatch.setattr(Foresight, "guess", know)
        assert list(map(len, engine.decode(requests))) == list(map(len, paths))
        reads[is_right] = engine.usage.reads
    assert reads[True] < 0.7 * reads[False]


def test_a_word_ends_where_its_tokens_end(build_model):
    model = build_model("llama")
    text = r"did [make] \ 東京? éa"
    sentence = Sentence.of(text, split_words(text))
    grounding = Grounding(model.format, sentence, ("a",), model.lexicon)
    rest = [id for piece in sentence.pieces for id in model.lexicon.ids(piece)]
    ends = word_ends(grounding)
    assert len(ends) == len(sentence.words)
    for number, end in enumerate(ends):
        assert model.tokenizer.decode(rest[: end + 1]) == "".join(sentence.pieces[: number + 1])
    gner = build_model("llama", "gner")
    assert word_ends(Grounding(gner.format, sentence, ("a",), gner.lexicon)) == []


def test_one_pass_over_many_sentences_is_one_over_each(build_model):
    model, heads = build_model("llama"), draw_heads(5)
    requests = build_requests(model, random.Random(1), 5, 12)
    states = [torch.randn(len(r.sentence_ids), 32) for r in requests]
    groundings = [r.grounding for r in requests]
    many = foresee(heads, groundings, states, model.choice_logits)
    for request, of_sentence, found in zip(requests, states, many, strict=True):
        (alone,) = foresee(heads, [request.grounding], [of_sentence], model.choice_logits)
        if found is None:
            assert alone is None
            assert not request.grounding.sentence.words
            continue
        forks, num_known = [request.grounding.start()], 0
        while forks:  # every fork that can be reached by few choices
            fork = forks.pop()
            if not fork.allowed:
                continue
            want, have = alone.guess(fork), found.guess(fork)
            assert (want is None) == (have is None)
            if want is not None:
                num_known += 1
                assert have.move == want.move
                assert have.odds == pytest.approx(want.odds, abs=1e-4)
                assert 0 <= want.move < len(fork.allowed)
            if fork.state.word < 3:
                forks += [fork.take(choice) for choice in range(len(fork.allowed))]
        assert num_known


def test_a_sure_head_says_that_an_entity_begins(build_model):
    model = build_model("llama")
    heads = Heads(*(torch.zeros_like(x) for x in vars(draw_heads(0)).values()))
    heads.move_shift[0] = 5.0
    text = "[a] b"  # its first word is written `\[a\]`
    sentence = Sentence.of(text, split_words(text))
    grounding = Grounding(model.format, sentence, ("x", "y"), model.lexicon)
    (found,) = foresee(heads, [grounding], [torch.zeros(40, 32)], model.choice_logits)
    fork = grounding.start()
    guess = found.guess(fork)
    assert 1 in fork.moves[guess.move]  # the second move opens a bracket
    assert guess.odds > 0.99


def test_heads_are_kept_beside_their_model(build_model, tmp_path):
    model = build_model("gemma3")
    model.heads = draw_heads(1)
    model.save(tmp_path)
    loaded = load_model(tmp_path, torch.float32).heads
    for name, tensor in vars(model.heads).items():
        assert torch.allclose(getattr(loaded, name), tensor, rtol=0.01)
    draw_heads(0, width=8).save(tmp_path)
    with pytest.raises(ModelError, match=f"{FILE_NAME} has shapes .* only for speed: remove it"):
        load_model(tmp_path)
    (tmp_path / FILE_NAME).write_bytes(b"torn")
    with pytest.raises(ModelError, match=f"{FILE_NAME} cannot be read"):
        load_model(tmp_path)
    (tmp_path / FILE_NAME).unlink()
    assert load_model(tmp_path).heads is None


def test_the_tool_fits_them(tiny_folder, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    rng, lines = random.Random(0), []
    numbers = {"12", "zz", "Paris's", "in", "musical"}  # a third of the words
    for _ in range(300):
        words = rng.choices(WORDS, k=8)
        tags = ["B-number" if word in numbers else "O" for word in words]
        lines.append({"tokens": words, "labels": tags})
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, lines)))
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        f'data = "{tmp_path / "data.jsonl"}"\noutput = "unused"\n'
        "[mixture]\np_rename = 0.0\np_foreign = 0.0\np_natural = 0.0\np_lower = 0.0\n"
    )
    arguments = ["heads.py", folder, "--recipe", recipe, "--sentences", 300]
    monkeypatch.setattr(sys, "argv", list(map(str, arguments)))
    monkeypatch.setattr(tool, "fit_heads", partial(fit_heads, epochs=12, rate=0.01, rank=8))
    tool.main()
    shown = capsys.readouterr().out
    assert "fitted on 285 sentences, 0 left out" in shown
    assert "in: right at" in shown
    model = load_model(folder, torch.float32)
    right = []
    for line in lines[:20]:
        text = " ".join(line["tokens"])
        sentence = Sentence.of(text, [m.span() for m in re.finditer(r"\S+", text)])
        grounding = Grounding(model.format, sentence, ("number",), model.lexicon)
        prompt = model.format.prompt(sentence, LabelSet.of(["number"]), False)
        prefix, rest = model.prefix_ids(prompt), model.sentence_ids(prompt)
        states = model.hidden(torch.tensor([prefix + rest]))[0, len(prefix) :]
        (found,) = foresee(model.heads, [grounding], [states], model.choice_logits)
        guessed = [odds > 0.5 for odds in found._second["out"]]
        right += [a == (b != "O") for a, b in zip(guessed, line["labels"], strict=True)]
    assert sum(right) > 0.9 * len(right)


def test_heads_are_fitted_to_what_they_can_guess(build_model):
    def ask(text, *spans):
        return Question(Example(text, split_words(text), spans), LabelSet.of(["number"]))

    questions = [ask(f"no {k} here", Span(1, 2, "number")) for k in range(30)]
    for family, form, kind in (("t5", "inline", "an encoder"), ("llama", "gner", "writes 'gner'")):
        with pytest.raises(RecipeError, match=f"heads are for .*{kind}"):
            fit_heads(build_model(family, form), questions, 30)
    model = build_model("llama")
    told = []
    fitted = fit_heads(model, questions, 30, epochs=1, show=lambda *now: told.append(now))
    assert fitted.num_sentences + fitted.num_held_out == 30
    assert math.isnan(fitted.right["label"])  # one label is never chosen
    assert told[0] == ("reading sentences for draft heads", 0, 30)
    assert all(0 <= done < total for _, done, total in told)
    long = [ask("word " * 800)] * 11
    with pytest.raises(RecipeError, match="need 20 sentences that can be read, had 19 of 30"):
        fit_heads(model, [*long, *questions], 30)
