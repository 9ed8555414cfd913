"""DeepSpeed shares weights and optimiser out, and the same model comes out."""

from __future__ import annotations

import json
import shutil
import sysconfig
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_training import SCRIPT, WEIGHTS, folder, run_two, start_two, values, write_recipe

from nomina.errors import RecipeError
from nomina.models import load_model
from nomina.recipes import Recipe
from nomina.sharding import deepspeed_config
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


# ZeRO on CPUs compiles a library of its own.
can_compile = shutil.which("g++") and (Path(sysconfig.get_path("include")) / "Python.h").is_file()


@pytest.mark.skipif(not can_compile, reason="needs a compiler and Python's headers")
@pytest.mark.parametrize("stage", [2, 3])
def test_shards_are_one_process_with_twice_the_batch(folder, stage):
    pytest.importorskip("deepspeed")
    base = {
        "dtype": "float32",
        "steps": 6,
        "dev_sentences": 4,
        "evaluate_every": 6,
        "save_every": 2,
    }
    losses = []
    one = values(folder, output=f"{folder}/one", accumulate=2, **base)
    want = train(Recipe.of(one), lambda now: losses.append(now.loss))
    made = values(folder, accumulate=1, **base)
    path = write_recipe(folder / "recipe.toml", made)
    with path.open("a") as file:
        file.write(f"[trainer.deepspeed]\nzero_optimization = {{ stage = {stage} }}\n")
    # Killed in the fifth step, so that it goes on from the fourth.
    both = start_two(SCRIPT, path, 5, folder / "two.json")
    try:
        both[0].wait(timeout=300)
    finally:
        for process in both:
            process.kill()
            process.communicate()
    assert {"checkpoint-4", "place-000004"} <= {x.name for x in (folder / "out.run").iterdir()}
    run_two(SCRIPT, path, 0, folder / "two.json")
    assert json.loads((folder / "two.json").read_text()) == pytest.approx(losses[4:], rel=1e-4)
    have = load_file(folder / "out" / WEIGHTS)
    for name, tensor in load_file(want / WEIGHTS).items():
        assert torch.allclose(tensor, have[name], atol=2e-4), name
    assert not (folder / "out.run").exists()
    assert load_model(folder / "out", torch.float32).config.format == "inline"
