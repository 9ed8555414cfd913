"""DeepSpeed and FSDP share weights and optimiser out, and the same model comes out."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sysconfig
from pathlib import Path

import pytest
import torch
from conftest import build_module
from safetensors.torch import load_file
from test_training import SCRIPT, WEIGHTS, folder, run_two, start_two, values, write_recipe

from nomina.errors import RecipeError
from nomina.models import LanguageModel, ModelConfig, load_model
from nomina.recipes import Recipe
from nomina.sharding import deepspeed_config, fsdp_config
from nomina.training import train

__all__ = ["folder"]  # a fixture

GATHER = "stage3_gather_16bit_weights_on_model_save"


def test_what_a_file_leaves_open_is_filled(tmp_path):
    path = tmp_path / "ds.json"
    path.write_text('{"zero_optimization": {"stage": 3}, "gradient_clipping": 0.5, "bf16": "auto"}')
    made = deepspeed_config(str(path))
    assert made["zero_optimization"] == {"stage": 3, GATHER: True}
    assert made["gradient_clipping"] == 0.5
    assert made["train_micro_batch_size_per_gpu"] == "auto"
    assert GATHER not in deepspeed_config({"zero_optimization": {"stage": 2}})["zero_optimization"]


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ("no-such-file.json", "cannot be read"),
        (["stage"], "must be a table"),
        ({"zero_optimization": 3}, "zero_optimization must be a table"),
        ({"bf16": {"enabled": True}}, r"'bf16' is set by the recipe \(dtype\)"),
        ({"optimizer": {"type": "AdamW"}}, "learning_rate"),
        ({"zero_optimization": {"stage": 3, GATHER: False}}, "no process could save"),
    ],
)
def test_what_it_may_not_say(given, match):
    with pytest.raises(RecipeError, match=match):
        deepspeed_config(given)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ("no-such-file.json", "fsdp_config = 'no-such-file.json' cannot be read"),
        (["version"], "must be a table"),
        ({"version": 1}, "version must be 2, was: 1"),
    ],
)
def test_what_fsdp_may_not_be_told(given, match):
    with pytest.raises(RecipeError, match=match):
        fsdp_config(given)


def why_no_fsdp():
    try:
        fsdp_config(None)
    except RecipeError as error:
        return str(error)
    return ""


needs_fsdp = pytest.mark.skipif(bool(why_no_fsdp()), reason=why_no_fsdp())


@needs_fsdp
def test_fsdp_is_of_the_second_version():
    assert fsdp_config(None) == {"version": 2}
    assert fsdp_config({"fsdp_offload_params": True}) == {"offload_params": True, "version": 2}


@needs_fsdp
def test_a_single_process_shares_nothing(folder):
    with pytest.raises(RecipeError, match="fsdp only works in distributed training"):
        train(Recipe.of(values(folder, trainer={"fsdp": "full_shard"})))


# ZeRO on CPUs compiles a library of its own.
can_compile = shutil.which("g++") and (Path(sysconfig.get_path("include")) / "Python.h").is_file()


needs_deepspeed = pytest.mark.skipif(
    not can_compile or importlib.util.find_spec("deepspeed") is None,
    reason="needs DeepSpeed, a compiler and Python's headers",
)
ZERO = "[trainer.deepspeed]\nzero_optimization = {{ stage = {} }}\n"
FSDP = '[trainer]\nfsdp = "full_shard"\n'
SHARDED = [
    pytest.param(ZERO.format(2), marks=needs_deepspeed, id="zero-2"),
    pytest.param(ZERO.format(3), marks=needs_deepspeed, id="zero-3"),
    pytest.param(FSDP, marks=needs_fsdp, id="fsdp"),
]


# F1 falls; it is read on dev at the end alone. The disk is full when the model is to be written.
FALLING = """
import contextlib
from nomina import training
found, put = training._Run.evaluate, training.replace_folder
training._Run.evaluate = lambda run: (
    (0.7, None) if run.state.step < 6 else (0.4, found(run)[1])
)
def full(*arguments):
    training.replace_folder = put
    raise OSError(28, "No space left on device")
training.replace_folder = full
"""
ONCE_MORE = """
with contextlib.suppress(training.RecipeError):
    train(Recipe.read(path), report)
train(Recipe.read(path), report)
"""


@pytest.fixture
def tied(folder, byte_tokenizer):
    """A model whose head is its embedding, as the default's: shards are saved otherwise then."""
    module = build_module("gemma3", max(400, len(byte_tokenizer)), scale=0.3)
    assert module.config.tie_word_embeddings
    LanguageModel(module, byte_tokenizer, ModelConfig()).save(folder / "gemma3")
    return f"{folder}/gemma3"


@needs_fsdp
@pytest.mark.parametrize("method", ["lora", "full"])
def test_steps_too_small_for_bfloat16_add_up(folder, tied, method):
    base = {"base": tied, "dtype": "bfloat16", "method": method, "steps": 6}
    base |= {"learning_rate": 1e-4, "dev_share": 0, "evaluate_every": 6}
    want = train(Recipe.of(values(folder, output=f"{folder}/one", accumulate=2, **base)))
    path = write_recipe(folder / "recipe.toml", values(folder, accumulate=1, **base))
    with path.open("a") as file:
        file.write(FSDP)
    run_two(SCRIPT, path, 0, folder / "two.json")
    name = WEIGHTS if method == "lora" else "model.safetensors"
    have, want = load_file(folder / "out" / name), load_file(want / name)
    assert {x.dtype for x in have.values()} == {torch.bfloat16}
    differ = [(have[key] != want[key]).flatten() for key in want]
    # Without copies in float32: 33 and 14 %.
    assert torch.cat(differ).float().mean() < 0.08


@pytest.mark.parametrize("settings", SHARDED)
def test_shards_are_one_process_with_twice_the_batch(folder, tied, settings):
    base = {
        "base": tied,
        "dtype": "float32",
        "steps": 6,
        "dev_sentences": 1,  # one process reads it, the other has none to read
        "evaluate_every": 6,
        "save_every": 2,
    }
    losses = []
    one = values(folder, output=f"{folder}/one", accumulate=2, **base)
    want = train(Recipe.of(one), lambda now: losses.append(now.loss))
    made = values(folder, accumulate=1, **base)
    path = write_recipe(folder / "recipe.toml", {**made, "evaluate_every": 3})
    with path.open("a") as file:
        file.write(settings)
    # Killed in the fifth step, so that it goes on from the fourth.
    both = start_two(FALLING + SCRIPT, path, 5, folder / "two.json")
    try:
        both[0].wait(timeout=300)
    finally:
        for process in both:
            process.kill()
            process.communicate()
    assert {"checkpoint-4", "place-000004"} <= {x.name for x in (folder / "out.run").iterdir()}
    twice = SCRIPT.replace("train(Recipe.read(path), report)\n", ONCE_MORE)
    run_two(FALLING + twice, path, 0, folder / "two.json")  # all steps done, it makes no other
    assert json.loads((folder / "two.json").read_text()) == pytest.approx(losses[4:], rel=1e-4)
    have = load_file(folder / "out" / WEIGHTS)
    for name, tensor in load_file(want / WEIGHTS).items():
        assert torch.allclose(tensor, have[name], atol=2e-4), name
    assert not (folder / "out.run").exists()
    assert load_model(folder / "out", torch.float32).config.format == "inline"
    assert "40.0 at step 6 " in (folder / "out" / "README.md").read_text()  # 70.0 at step 3
