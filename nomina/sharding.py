"""Optimiser, gradients and weights shared out among processes, by DeepSpeed or FSDP.

ZeRO (Rajbhandari et al. 2020) shares optimiser (stage 1), gradients (2) and weights (3); torch's
FSDP (Zhao et al. 2023) is stage 3. The recipe already says how large a batch is, how fast to learn
and in which type; settings need only say what is shared out. Here they are checked and filled, CPUs
are made to share at all, and weights are held whole for as long as a model is evaluated. Knows
nothing of language models or of how training goes.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

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
    given, place = _settings(given, "deepspeed")
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


def _settings(given: Any, name: str) -> tuple[Mapping[str, Any], str]:
    """Return settings, read if they are the name of a JSON file, and how to call them in errors."""
    place = f"trainer: {name}"
    if isinstance(given, str):
        place += f" = {given!r}"
        try:
            given = json.loads(Path(given).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RecipeError(f"{place} cannot be read: {error}") from error
    if not isinstance(given, Mapping):
        raise RecipeError(f"{place} must be a table of settings or a file of them, was: {given!r}")
    return given, place


def fsdp_config(given: Any) -> dict[str, Any]:
    """Return the settings of FSDP, a table or a JSON file or None, with the version that is needed.

    Raises:
        RecipeError: If they cannot be read or ask for FSDP's first version; or if torch or
            accelerate are too old.
    """
    given, place = _settings({} if given is None else given, "fsdp_config")
    settings = {key.removeprefix("fsdp_"): value for key, value in given.items()}
    version = settings.setdefault("version", 2)
    if str(version) != "2":
        raise RecipeError(
            f"{place}: version must be 2, was: {version!r}. Of weights that version 1 "
            "shares out no dev set can be read"
        )
    from accelerate.utils import FullyShardedDataParallelPlugin
    from torch.distributed import fsdp

    unit = getattr(fsdp, "FSDPModule", None)
    if not hasattr(unit, "set_reshard_after_forward"):
        raise RecipeError("trainer: fsdp needs a newer torch, this one cannot hold weights whole")
    if not hasattr(FullyShardedDataParallelPlugin, "fsdp_version"):
        raise RecipeError("trainer: fsdp needs a newer accelerate, this one knows version 1 only")
    return settings


def hold_in_float32(module: Any, plugin: dict[str, Any]) -> None:
    """Let FSDP hold the weights that train in float32, whatever type the model is read in.

    A weight in bfloat16 has eight bits: the optimiser's steps that are smaller than the last
    of them would be lost. DeepSpeed keeps copies in float32 by itself.

    Args:
        module: The model; its weights that train are float32 afterwards.
        plugin: Settings of accelerate's plugin, which are told the type to read them in.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy

    weights = [weight for weight in module.parameters() if weight.requires_grad]
    types = {weight.dtype for weight in weights} - {torch.float32}
    if not types:
        return
    plugin["mixed_precision_policy"] = MixedPrecisionPolicy(types.pop(), torch.float32)
    for weight in weights:
        weight.data = weight.data.float()


def shard_on_cpus(accelerator: Any, given: Mapping[str, Any]) -> bool:
    """Let accelerate shard by FSDP among processes on CPUs; by itself it does so on accelerators.

    Returns:
        Whether it does; not for a single process.
    """
    from accelerate import PartialState
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

    state = accelerator.state
    if state.distributed_type != DistributedType.MULTI_CPU:
        return False
    # As AcceleratorState does it: it takes the kind from there whenever it is made anew.
    PartialState._shared_state["distributed_type"] = DistributedType.FSDP
    state.distributed_type = DistributedType.FSDP
    state.fsdp_plugin = FullyShardedDataParallelPlugin(**given)
    return True


@contextlib.contextmanager
def whole_weights(wrapped: Any, reshard: bool = True) -> Iterator[None]:
    """Hold every weight whole in every process, where they are shared out.

    Processes may then run the model as often as they like, each for itself. Otherwise each reading
    waits for all processes to have one.

    Args:
        wrapped: What DeepSpeed or FSDP made of the model.
        reshard: FSDP's `reshard_after_forward`, which is as before afterwards.
    """
    if getattr(wrapped, "zero_optimization_stage", int)() == 3:
        from deepspeed.runtime.zero.stage3 import unwrap_model_for_generation

        with unwrap_model_for_generation(wrapped):
            yield
        return
    try:
        from torch.distributed.fsdp import FSDPModule
    except ImportError:  # an older torch, so it is not FSDP
        yield
        return
    units = [x for x in wrapped.modules() if isinstance(x, FSDPModule)]
    try:
        for unit in units:
            unit.unshard()
            if unit is not wrapped:  # which is not called here
                unit.set_reshard_after_forward(False, recurse=False)
        yield
    finally:
        for unit in units:
            if unit is not wrapped:
                unit.set_reshard_after_forward(reshard, recurse=False)
            unit.reshard()
