"""Recipes: everything that a training run depends on, as a TOML file or as command-line options.

A recipe either mixes corpora of `NOMINA_DATA` (`corpora`) or trains on somebody's own file
(`data`); the second has defaults of its own, `FINE_TUNING`. Knows nothing of models or of what is
in the files.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nomina.errors import NominaError, RecipeError
from nomina.formats import get_format
from nomina.mixture import MixtureConfig, check_keys

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover
    import tomli as tomllib

# Defaults of a recipe that names `data`. 100 sentences are about 110 steps of 1,300 tokens with
# them: under ten minutes at 500 tokens/s. Compiling the layers would cost a tenth of that. At 2e-4
# fifty sentences are worth less, on one set by two F1 (docs/log.md, 2026-11-22, "fifty sentences").
FINE_TUNING: Mapping[str, Any] = {
    "base": "default",
    "learning_rate": 7e-5,
    "warmup_steps": 10,
    "steps": 0,
    "accumulate": 1,
    "max_length": 512,
    "dev_sentences": 60,
    "patience": 3,
}

FEWEST_FOR_HEADS = 20  # questions

_CHOICES = {
    "objective": ("decisions", "tokens"),
    "method": ("lora", "full"),
    "dtype": ("", "bfloat16", "float32"),
}


@dataclass(frozen=True)
class Recipe:
    """Everything that a training run depends on; a TOML file with these keys.

    Attributes:
        output: Folder of the trained model.
        base: What to start from: an adapter that is trained further (`default` is nomina's own), or
            a model that gets a new one; name, folder or hub id.
        method: "lora" for an adapter, "full" for all weights of the model.
        format: Format to train. Defaults to that of the base.
        data: File or folder to train on, or `NAME:SPLIT` of a set in `NOMINA_DATA`; empty for a
            mixture of `corpora`.
        labels: File of the label set of `data`, with definitions; empty for the labels in it.
        corpora: Names of sets in `NOMINA_DATA`, or files; "default" stands for all sets that are
            marked `default_model`. Defaults to these.
        mixture: Settings of `MixtureConfig`.
        dev: Files or `NAME:SPLIT` that checkpoints are compared on. Defaults to a part of `data`.
        dev_share: That part, drawn by `seed`; nothing is taken from fewer than 200 sentences.
        dev_sentences: Sentences of each dev set that are read in an evaluation, at most.
        rank: Rank of a new LoRA adapter (Hu et al. 2021), on all projections of every layer.
        learning_rate: Highest rate; warmed up over `warmup_steps`, then linear to 3 %.
        warmup_steps: Steps of the warm-up.
        steps: Optimiser steps; 0 for ten passes over `data` within bounds (`default_steps`).
        batch_tokens: Tokens of a forward pass, padding included.
        accumulate: Passes of each process for a step.
        max_length: Tokens of a question and of a packed row, at most. Longer questions of a mixture
            are left out and counted; in `data` they are an error.
        pack: Put sentences with equal prompts behind one copy of it.
        objective: "decisions" or "tokens".
        dtype: "bfloat16" or "float32"; empty for the fastest the machine has. The optimiser works
            in float32 either way.
        heads: Questions that draft heads are fitted on (`nomina.head_fitting`) once training is
            done, for speed alone: the engine then reads a third to two thirds as often. 0 for none;
            an adapter that is trained further keeps those it has.
        compile: Compile the layers: 1.24 times the speed on CPUs after about 40 s.
        seed: Of weights and questions.
        save_every: Steps between checkpoints.
        evaluate_every: Steps between evaluations on dev; 0 for a fifth of all.
        patience: Stop after so many evaluations without a better one; 0 for never.
        trainer: Further arguments of Hugging Face's `TrainingArguments`, such as `report_to`,
            `deepspeed` or `fsdp`.
    """

    output: str
    base: str = "gemma-3-270m"
    method: str = "lora"
    format: str = ""
    data: str = ""
    labels: str = ""
    corpora: tuple[str, ...] = ()
    mixture: Mapping[str, Any] = field(default_factory=dict)
    dev: tuple[str, ...] = ()
    dev_share: float = 0.15
    dev_sentences: int = 100
    rank: int = 32
    learning_rate: float = 6e-4
    warmup_steps: int = 20
    steps: int = 400
    batch_tokens: int = 1300
    accumulate: int = 2
    max_length: int = 400
    pack: bool = True
    objective: str = "decisions"
    dtype: str = ""
    heads: int = 0
    compile: bool = False
    seed: int = 100
    save_every: int = 50
    evaluate_every: int = 0
    patience: int = 0
    trainer: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            self._check_type(item.name, str(item.type), getattr(self, item.name))
        self._check_ranges()
        self._check_together()

    def _check_ranges(self) -> None:
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                known = " or ".join(x for x in allowed if x)
                raise RecipeError(f"{name} must be {known}, was: {getattr(self, name)!r}")
        for name in ("rank", "batch_tokens", "accumulate", "max_length", "save_every"):
            if getattr(self, name) < 1:
                raise RecipeError(f"{name} must be 1 or more, was: {getattr(self, name)}")
        if self.heads and self.heads < FEWEST_FOR_HEADS:
            least = FEWEST_FOR_HEADS
            raise RecipeError(f"heads must be 0 or {least} or more, was: {self.heads}")
        for name in ("warmup_steps", "evaluate_every", "patience"):
            if getattr(self, name) < 0:
                raise RecipeError(f"{name} must be 0 or more, was: {getattr(self, name)}")
        if self.dev_sentences < 1 or not 0 <= self.dev_share <= 0.5:
            raise RecipeError(
                "dev_sentences must be 1 or more and dev_share from 0 to 0.5, were: "
                f"{self.dev_sentences}, {self.dev_share}"
            )
        if not 0 < self.learning_rate < 1:
            raise RecipeError(
                f"learning_rate must be above 0 and below 1, was: {self.learning_rate}"
            )
        if not 0 <= self.seed < 2**32:
            raise RecipeError(f"seed must be 0 or more and below 2 ** 32, was: {self.seed}")
        if self.format:
            get_format(self.format)

    def _check_together(self) -> None:
        if self.steps < (0 if self.data else 1):
            raise RecipeError(f"steps must be 1 or more, was: {self.steps}")
        if not self.output:
            raise RecipeError("output must name a folder for the trained model, was empty")
        if self.data and self.corpora:
            raise RecipeError("a recipe trains on `data` or on `corpora`, not on both")
        if self.labels and not self.data:
            raise RecipeError("`labels` is the label set of `data`, which is empty")
        if self.patience and not (self.data or self.dev):
            raise RecipeError("`patience` needs a dev set: name one in `dev`")
        for key, value in self.trainer.items():
            try:
                json.dumps(value)
            except (TypeError, ValueError) as error:  # TOML has dates
                raise RecipeError(
                    f"trainer: {key!r} must be text, a number, true or false, a list or a table, "
                    f"was: {value!r}"
                ) from error

    @staticmethod
    def _check_type(name: str, kind: str, value: Any) -> None:
        if kind.startswith("Mapping"):
            is_right, wanted = isinstance(value, Mapping), "a table"
        elif kind.startswith("tuple"):
            is_right = isinstance(value, tuple) and all(isinstance(x, str) for x in value)
            wanted = "a list of names"
        elif kind == "float":
            is_right = isinstance(value, (int, float)) and not isinstance(value, bool)
            wanted = "a number"
        elif kind == "int":
            is_right = isinstance(value, int) and not isinstance(value, bool)
            wanted = "a whole number"
        else:
            is_right = type(value).__name__ == kind
            wanted = {"str": "a string", "bool": "true or false"}[kind]
        if not is_right:
            raise RecipeError(f"{name} must be {wanted}, was: {value!r}")

    @staticmethod
    def of(values: Mapping[str, Any]) -> Recipe:
        """Build a recipe from keys and values; one that names `data` has `FINE_TUNING`'s defaults.

        Raises:
            RecipeError: If a key is unknown, a value out of range, or `output` is missing.

        Example:
            >>> Recipe.of({"data": "my.jsonl", "output": "my-adapter"}).base
            'default'
        """
        check_keys(values, Recipe)
        if isinstance(mixture := values.get("mixture"), Mapping):
            MixtureConfig.of(mixture)  # an error here can still be told its line
        if "output" not in values:
            raise RecipeError("`output` is missing: the folder for the trained model")
        values = {**(FINE_TUNING if values.get("data") else {}), **values}
        for name in ("corpora", "dev"):
            if isinstance(values.get(name), list):
                values[name] = tuple(values[name])
        return Recipe(**values)

    @staticmethod
    def read(path: str | os.PathLike[str], changes: Mapping[str, Any] | None = None) -> Recipe:
        """Read a recipe from a TOML file.

        Args:
            path: The file.
            changes: Values that replace those of the file.

        Raises:
            RecipeError: If the file is missing or malformed, or has an unknown key or a value out
                of range; names the file, and the line of the key where it can be told.
        """
        try:
            text = Path(path).read_text(encoding="utf-8-sig")
            values = tomllib.loads(text)
        except (OSError, ValueError, RecursionError) as error:  # brackets without end
            raise RecipeError(f"{path} cannot be read: {error}") from error
        try:
            return Recipe.of({**values, **(changes or {})})
        except (TypeError, NominaError) as error:
            raise RecipeError(f"{_place(path, text, str(error))}: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as JSON holds it."""
        values = dataclasses.asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def _place(path: str | os.PathLike[str], text: str, message: str) -> str:
    """File, and line of the first key that the message speaks of."""
    for number, line in enumerate(text.splitlines(), 1):
        key = line.partition("=")[0].strip().strip("[]\"'")
        if key and "=" in line and (message.startswith(f"{key} ") or f"'{key}'" in message):
            return f"{path}:{number}"
    return str(path)


def default_steps(data_tokens: int, step_tokens: int) -> int:
    """Return how many steps a fine-tuning takes if the recipe does not say.

    Ten passes over the data, but no more than 160,000 tokens (what 2 cores read in five to eight
    minutes) unless one pass is longer than that, and 25 steps at least.

    Args:
        data_tokens: Tokens of one pass over the data, prompts included.
        step_tokens: Tokens of one step.

    Example:
        >>> default_steps(data_tokens=16_000, step_tokens=1300)
        123
    """
    tokens = max(data_tokens, min(10 * data_tokens, 160_000))
    return max(25, round(tokens / step_tokens))
