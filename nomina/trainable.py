"""Models to be trained: which weights move, and how the result is saved.

LoRA (Hu et al. 2021) adds an adapter to a base, or goes on with the adapter that it is given; full
fine-tuning moves all weights, those of an adapter merged in. Either is saved as a folder that
`nomina.load` reads. Knows nothing of data, losses or optimisers.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nomina.base import quiet_libraries
from nomina.calibration import FILE_NAME as CALIBRATION_NAME
from nomina.calibration import Calibration
from nomina.environment import give_usual_rights
from nomina.errors import RecipeError
from nomina.families import plain_module, text_config
from nomina.formats import get_format
from nomina.models import (
    LanguageModel,
    ModelConfig,
    adapter_base,
    load_heads,
    load_model,
    model_folder,
    write_config,
)
from nomina.recipes import Recipe

_ADAPTER = "adapter_config.json"


@dataclass
class Trainable:
    """A model whose weights can be trained.

    Attributes:
        model: With the trainable module inside, so that it can tag between steps.
        method: "lora" or "full".
        origin: What it started from.
        base: The base model below it all.
        notes: What is not as the recipe says.
        calibration: That of what it started from; the result keeps it, with the threshold, unless
            a new one is fitted.
    """

    model: LanguageModel
    method: str
    origin: str
    base: str
    notes: tuple[str, ...] = ()
    calibration: Calibration | None = None

    @property
    def module(self) -> Any:
        """The Hugging Face or PEFT module."""
        return self.model.module

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """The weights that move, by name."""
        return {n: p for n, p in self.module.named_parameters() if p.requires_grad}

    def save(self, folder: Path, card: str, state: dict[str, Any] | None = None) -> None:
        """Save a folder that `nomina.load` reads, with its model card.

        Args:
            folder: Where to; made if need be.
            card: The model card.
            state: Weights gathered from other processes, where they are shared out among them.

        Raises:
            OSError: If the disk is full.
        """
        is_adapter = self.method == "lora"
        rest = {} if state is None else {"state_dict": state}
        with quiet_libraries():
            if is_adapter:  # "auto" would ask a hub about the base model
                self.module.save_pretrained(folder, save_embedding_layers=False, **rest)
            else:
                self.module.save_pretrained(folder, **rest)
                self.model.tokenizer.save_pretrained(folder)
        if is_adapter:
            path = folder / _ADAPTER
            settings = json.loads(path.read_text(encoding="utf-8"))
            settings["base_model_name_or_path"] = self.base
            path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        config = dataclasses.replace(self.model.config, base=self.base if is_adapter else "")
        write_config(folder, config)
        give_usual_rights(*folder.glob("*.safetensors"))
        if self.calibration is not None:
            self.calibration.save(folder)
        if self.model.heads is not None:
            self.model.heads.save(folder)
        (folder / "README.md").write_text(card, encoding="utf-8")


def load_trainable(recipe: Recipe) -> Trainable:
    """Load what a recipe starts from.

    Raises:
        ModelError: If it cannot be found or read.
        RecipeError: If it cannot be trained as the recipe says, or the result would take the place
            of its own base.
    """
    dtype = getattr(torch, recipe.dtype) if recipe.dtype else None
    folder = model_folder(recipe.base)
    is_adapter = (folder / _ADAPTER).is_file()
    base, config = recipe.base, ModelConfig.read(folder)
    notes = []
    base_folder = adapter_base(folder, config) if is_adapter else folder
    if is_adapter:
        settings = json.loads((folder / _ADAPTER).read_text(encoding="utf-8"))
        base = (config.base if config else "") or settings["base_model_name_or_path"]
        if base_folder == folder / base:  # packed with it; the result will lie elsewhere
            base = str(base_folder)
    _check_output(recipe, base_folder, is_adapter)
    if recipe.method == "full":
        model = load_model(recipe.base, dtype)
        for weight in model.module.parameters():
            weight.requires_grad_(True)
        _freeze_towers(model.module)
    else:
        model = load_model(base, dtype)
        model.module, rank = _with_adapter(model, folder if is_adapter else None, recipe)
        if config is not None:
            model.config = config
        if rank != recipe.rank:
            notes.append(f"the adapter {recipe.base!r} goes on with its own rank, {rank}")
    is_calibrated = (folder / CALIBRATION_NAME).is_file()
    if recipe.format and recipe.format != model.config.format:
        # Temperature and threshold belong to the scores of the old format.
        is_calibrated = False
        model.config = dataclasses.replace(model.config, format=recipe.format, threshold=0.0)
    model.format = get_format(model.config.format)
    if is_adapter and recipe.method == "lora":
        # Those of the adapter that it started from guess nearly as well for the new one.
        model.heads = load_heads(folder, model.module)
    return Trainable(
        model,
        recipe.method,
        _spelled(recipe.base),
        _spelled(base),
        tuple(notes),
        Calibration.load(folder) if is_calibrated else None,
    )


def _check_output(recipe: Recipe, base: Path, is_adapter: bool) -> None:
    """Raise if the result would take the place of a base model that an adapter needs."""
    output, base = Path(recipe.output).resolve(), base.resolve()
    is_needed = recipe.method == "lora" or is_adapter
    is_inside = recipe.method == "lora" and output in base.parents
    if is_inside or (is_needed and output == base):
        raise RecipeError(
            f"the adapter needs its base model {base}, which would be lost if {output} were "
            "replaced. Use another output."
        )


def _spelled(name: str) -> str:
    """A name, or the whole path of a folder: the result may be loaded from anywhere."""
    path = Path(name)
    return str(path.resolve()) if path.exists() and ("/" in name or path.is_dir()) else name


def _with_adapter(model: LanguageModel, folder: Path | None, recipe: Recipe) -> tuple[Any, int]:
    from peft import LoraConfig, PeftModel, get_peft_model

    dtype = model.module.dtype
    module: Any
    with quiet_libraries():
        if folder is not None:
            module = PeftModel.from_pretrained(
                model.module, folder, is_trainable=True, use_safetensors=True
            )
        else:
            module = get_peft_model(
                model.module,
                LoraConfig(
                    r=recipe.rank,
                    lora_alpha=recipe.rank,
                    target_modules="all-linear",
                    task_type="SEQ_2_SEQ_LM" if model.is_encoder_decoder else "CAUSAL_LM",
                ),
            )
    for weight in module.parameters():
        if weight.requires_grad:  # PEFT makes them float32; the optimiser keeps such copies itself
            weight.data = weight.data.to(dtype)
    _freeze_towers(module)
    if not any(weight.requires_grad for weight in module.parameters()):
        raise RecipeError(f"{recipe.base}: this kind of adapter has no weights to train")
    config = module.peft_config["default"]
    return module, int(getattr(config, "r", recipe.rank))


def _freeze_towers(module: Any) -> None:
    """Let only what reads text move: what sees or hears beside it never gets a gradient."""
    plain = plain_module(module)
    if plain.config.is_encoder_decoder or text_config(plain.config) is plain.config:
        return
    parts = (plain.get_decoder(), plain.get_output_embeddings())
    kept = {weight for part in parts if part is not None for weight in part.parameters()}
    for weight in module.parameters():
        if weight not in kept:
            weight.requires_grad_(False)
