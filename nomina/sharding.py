"""DeepSpeed's settings: what a file leaves open that training needs, and what it may not say.

ZeRO (Rajbhandari et al. 2020) shares optimiser (stage 1), gradients (2) and weights (3) out among
processes. The recipe already says how large a batch is, how fast to learn and in which type; the
file need only say what is shared out: `{"zero_optimization": {"stage": 2}}`. Knows nothing of
models or of how training goes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nomina.errors import RecipeError

# Settings that the recipe has keys of its own for, and the keys.
_OURS = {
    "train_batch_size": "batch_tokens",
    "optimizer": "learning_rate",
    "scheduler": "learning_rate and warmup_steps",
    "bf16": "dtype",
    "fp16": "dtype",
}
_AUTO = ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
_GATHER = "stage3_gather_16bit_weights_on_model_save"


def deepspeed_config(given: str | Mapping[str, Any]) -> dict[str, Any]:
    """Return DeepSpeed's settings with what they left open.

    Args:
        given: A JSON file, or what is in it.

    Raises:
        RecipeError: If the file cannot be read or a setting belongs into the recipe; or if weights
            are shared out that no process could gather again at the end to save the model.

    Example:
        >>> deepspeed_config({"zero_optimization": {"stage": 2}})["gradient_clipping"]
        'auto'
    """
    place = "trainer: deepspeed"
    if isinstance(given, str):
        place += f" = {given!r}"
        try:
            given = json.loads(Path(given).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RecipeError(f"{place} cannot be read: {error}") from error
    if not isinstance(given, Mapping):
        raise RecipeError(f"{place} must be a table of settings or a file of them, was: {given!r}")
    for key, ours in _OURS.items():
        if given.get(key) not in (None, "auto"):
            raise RecipeError(f"{place}: {key!r} is set by the recipe ({ours}). Remove it.")
    zero = given.get("zero_optimization", {})
    if not isinstance(zero, Mapping):
        raise RecipeError(f"{place}: zero_optimization must be a table, was: {zero!r}")
    made = {**dict.fromkeys(_AUTO, "auto"), **given}
    if zero.get("stage") == 3:
        if zero.get(_GATHER) is False:
            raise RecipeError(
                f"{place}: {_GATHER} must be true, or no process could save the model"
            )
        made["zero_optimization"] = {**zero, _GATHER: True}
    return made
