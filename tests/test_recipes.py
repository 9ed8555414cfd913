"""A recipe is checked before anything is loaded, and names the key and the line."""

from __future__ import annotations

import json

import pytest

from nomina.errors import RecipeError
from nomina.recipes import FINE_TUNING, Recipe, default_steps


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[mixture]\np_typo = 0.1", r"recipe.toml:3: mixture: unknown keys .*mean 'p_typos'"),
        ("[mixture]\np_typos = 2", r"recipe.toml:3: p_typos is a probability from 0 to 1, was: 2"),
        ("stepps = 3", r"recipe.toml:2: unknown keys \['stepps'\]; did you mean 'steps'"),
        ("rank = 0", r"recipe.toml:2: rank must be 1 or more, was: 0"),
        ("rank = 2.5", "rank must be a whole number, was: 2.5"),
        ('objective = "x"', "objective must be decisions or tokens, was: 'x'"),
        ('method = "half"', "method must be lora or full"),
        ('dtype = "int8"', "dtype must be bfloat16 or float32"),
        ('format = "xml"', "xml"),
        ("steps = 0", "steps must be 1 or more"),
        ("compile = 1", "compile must be true or false"),
        ('dev = "x"', "dev must be a list of names"),
        ("learning_rate = 0", "learning_rate must be above 0"),
        ("learning_rate = 2", "learning_rate must be above 0 and below 1, was: 2"),
        ("seed = -1", r"recipe.toml:2: seed must be 0 or more and below 2 \*\* 32, was: -1"),
        ("seed = 100000000000000000000", "seed must be 0 or more and below"),
        ("trainer = {run_name = 2026-01-01}", "trainer: 'run_name' must be text, a number"),
        ("dev_share = 0.9", "dev_share from 0 to 0.5"),
        ("patience = 2", "needs a dev set"),
        ('labels = "x.toml"', "label set of `data`"),
        ("trainer = 3", "trainer must be a table"),
        ("x = ", "cannot be read"),
        ("x = " + "[" * 5000, "cannot be read"),
    ],
)
def test_a_wrong_recipe_is_named(tmp_path, line, message):
    path = tmp_path / "recipe.toml"
    path.write_text(f'output = "out"\n{line}\n')
    with pytest.raises(RecipeError, match=message):
        Recipe.read(path)


def test_a_recipe_needs_an_output():
    with pytest.raises(RecipeError, match="`output` is missing"):
        Recipe.of({})
    with pytest.raises(RecipeError, match="not on both"):
        Recipe.of({"output": "x", "data": "y", "corpora": ["z"]})


def test_data_brings_its_own_defaults_and_changes_win(tmp_path):
    path = tmp_path / "recipe.toml"
    text = 'output = "out"\ndata = "my.jsonl"\nseed = 3\n[mixture]\np_define = 0.0\n'
    path.write_text(text, encoding="utf-8-sig")  # with a byte order mark
    recipe = Recipe.read(path, {"seed": 4, "base": "other"})
    assert (recipe.seed, recipe.base) == (4, "other")
    assert recipe.learning_rate == FINE_TUNING["learning_rate"]
    assert recipe.mixture == {"p_define": 0.0}
    assert json.loads(json.dumps(recipe.to_dict()))["steps"] == 0


def test_the_shipped_recipe_is_one():
    from pathlib import Path

    assert Recipe.read(Path(__file__).parent.parent / "recipes" / "default.toml").steps > 0


@pytest.mark.parametrize(
    ("data_tokens", "steps"), [(1_000, 25), (16_000, 123), (100_000, 123), (1_000_000, 769)]
)
def test_default_steps(data_tokens, steps):
    assert default_steps(data_tokens, 1300) == steps
