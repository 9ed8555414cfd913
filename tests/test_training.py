"""Batches ask what decoding asks; training learns, resumes, and says what is wrong first."""

from __future__ import annotations

import gzip
import itertools
import json

import pytest
import torch
from conftest import build_module

from nomina.entities import Example, LabelSet
from nomina.errors import RecipeError
from nomina.mixture import Mixture, MixtureConfig, Question
from nomina.models import LanguageModel, ModelConfig, load_model
from nomina.training import Batches, Objective, Recipe, by_tokens, collate, encode, train

ROWS = [
    Example.from_tags(["in", "Oslo", "now"], ["O", "B-city", "O"]),
    Example.from_tags(["Anna", "Berg", "spoke"], ["B-person", "I-person", "O"]),
    Example.from_tags(["nothing"], ["O"]),
]
LABELS = LabelSet.of(["city", "person"])
PLAIN = {name: 0.0 for name in vars(MixtureConfig()) if name.startswith("p_")}


@pytest.mark.parametrize("family", ["gemma3", "llama", "t5"])
@pytest.mark.parametrize("form", ["inline", "gner"])
def test_padding_changes_no_loss(build_model, family, form):
    model = build_model(family, form)
    items = [encode(model, Question(row, LABELS)) for row in ROWS]
    objective = Objective(model.module)
    with torch.inference_mode():
        alone = [objective(**collate([x], 0, model.is_encoder_decoder))["loss"] for x in items]
        together = objective(**collate(items, 0, model.is_encoder_decoder))["loss"]
    counts = [len(item.choices) for item in items]
    mean = sum(float(a) * n for a, n in zip(alone, counts, strict=True)) / sum(counts)
    assert float(together) == pytest.approx(mean, abs=1e-4)


def test_the_right_choice_stands_first(build_model):
    model = build_model("llama")
    item = encode(model, Question(ROWS[1], LABELS))
    batch = collate([item], 0, False)
    for index, ids in zip(batch["choice_index"], batch["choice_ids"], strict=True):
        assert batch["input_ids"][0, index + 1] == ids[0]


def test_the_loss_on_tokens_is_cross_entropy(build_model):
    model = build_model("llama")
    batch = collate([encode(model, Question(row, LABELS)) for row in ROWS], 0, False)
    with torch.inference_mode():
        have = Objective(model.module, "tokens")(**batch)["loss"]
        logits = model.module(batch["input_ids"]).logits[:, :-1].log_softmax(-1)
        want = -logits.gather(-1, batch["input_ids"][:, 1:, None]).squeeze(-1)
    assert float(have) == pytest.approx(float(want[batch["target_mask"][:, :-1]].mean()), abs=1e-4)


def test_batches_keep_to_their_budget(build_model):
    model = build_model("llama")
    mixture = Mixture({"mine": ROWS}, {"mine": LABELS}, None, MixtureConfig(**PLAIN))
    batches = Batches(model, mixture, 300, buffer=40)
    for batch in itertools.islice(iter(batches), 20):
        assert batch["input_ids"].numel() <= 300
    assert Batches(model, mixture, 300, max_length=5).num_too_long == 0
    groups = list(by_tokens([[encode(model, Question(row, LABELS))] for row in ROWS], 1))
    assert [len(group) for group in groups] == [1, 1, 1]


@pytest.fixture
def recipe(tmp_path, byte_tokenizer, monkeypatch):
    base = LanguageModel(build_module("llama", scale=0.3), byte_tokenizer, ModelConfig())
    base.save(tmp_path / "base")
    folder = tmp_path / "data" / "mine"
    folder.mkdir(parents=True)
    with gzip.open(folder / "train.jsonl.gz", "wt") as file:
        for row in ROWS * 5:
            file.write(json.dumps({"tokens": row.words, "labels": row.tags}) + "\n")
    (folder / "labels.json").write_text('{"c": "city", "p": "person"}')
    index = {"mine": {"default_model": True, "language": "en", "splits": {"train": 15}}}
    (tmp_path / "data" / "sets.json").write_text(json.dumps(index))
    monkeypatch.setenv("NOMINA_DATA", str(tmp_path / "data"))
    path = tmp_path / "recipe.toml"
    path.write_text(
        f'output = "{tmp_path}/out"\nbase = "{tmp_path}/base"\nsteps = 30\nrank = 4\n'
        "learning_rate = 0.02\nwarmup_steps = 1\nbatch_tokens = 800\nsave_every = 4\n"
        "[mixture]\np_typos = 0.0\n"
    )
    return path


def test_training_learns_and_its_adapter_loads(recipe):
    losses = []
    folder = train(Recipe.read(recipe), lambda now: losses.append(now.loss))
    assert len(losses) == 30
    assert sum(losses[-5:]) < sum(losses[:5])
    assert load_model(folder, torch.float32).config.format == "inline"
    assert not folder.with_name("out.run").exists()


def test_a_killed_run_goes_on_where_it_stopped(recipe):
    steps = []

    def stop(now):
        steps.append(now.step)
        if now.step == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(Recipe.read(recipe), stop)
    steps.clear()
    train(Recipe.read(recipe), lambda now: steps.append(now.step))
    assert steps[0] == 5  # the checkpoint was written after step 4
    assert steps[-1] == 30


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("stepps = 3", "unknown keys"),
        ("rank = 0", "rank must be 1"),
        ('objective = "x"', "decisions or tokens"),
        ('format = "xml"', "xml"),
        ("[mixture]\np_nothing = 0.1", "p_nothing"),
    ],
)
def test_a_wrong_recipe_is_named(recipe, line, message):
    text = "\n".join(
        row for row in recipe.read_text().splitlines() if row.split(" ")[0] != line.split(" ")[0]
    )
    text = text.replace("[mixture]\np_typos = 0.0\n", "").split("[mixture]")[0]
    recipe.write_text(text + "\n" + line + "\n")
    with pytest.raises(RecipeError, match=message):
        train(Recipe.read(recipe))
