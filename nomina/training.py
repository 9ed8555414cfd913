"""Training: a recipe in, a model folder out, by Hugging Face's `Trainer`.

The Trainer runs the loop, spreads it over processes (DDP, DeepSpeed, FSDP) and calls callbacks;
`_Steps` is ours: it reports, evaluates on dev, keeps the best model and writes checkpoints. What a
step does follows from its number (`batches.Place` says which questions, a seed of its own what is
random), so a killed run goes on to the very weights that it would have had.

Knows recipes, material, models and batches; nothing of the command line.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import shutil
import sys
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from nomina.base import quiet_libraries
from nomina.batches import Batches, Encoded, Place, by_tokens, collate, encode, pack
from nomina.calibration import FILE_NAME as CALIBRATION_NAME
from nomina.calibration import Calibration, fit_temperature
from nomina.checkpoints import Checkpoints, hold, replace_folder, run_folder, sync
from nomina.errors import DataError, MissingExtraError, RecipeError
from nomina.extractor import Tagger
from nomina.head_fitting import Show, check_heads, fit_heads
from nomina.material import DevSet, Material, default_mixture, read_material
from nomina.mixture import ORDER, Question
from nomina.model_cards import Card, CardData
from nomina.models import CONFIG_NAME, LanguageModel, load_model
from nomina.objective import Objective, can_pack, compile_layers, fold_attention, plain_layers
from nomina.optimizer import MasterAdamW, rate_factor
from nomina.recipes import Recipe, default_steps
from nomina.sharding import (
    deepspeed_config,
    fsdp_config,
    hold_in_float32,
    shard_on_cpus,
    whole_weights,
)
from nomina.trainable import Trainable, load_trainable

__all__ = [
    "Batches",
    "Encoded",
    "Objective",
    "Progress",
    "Recipe",
    "by_tokens",
    "collate",
    "default_mixture",
    "encode",
    "end_process",
    "pack",
    "train",
]

# Set by the recipe's own keys, or by how training works here.
_RESERVED = frozenset(
    "output_dir max_steps num_train_epochs learning_rate warmup_steps warmup_ratio seed data_seed "
    "gradient_accumulation_steps per_device_train_batch_size dataloader_num_workers do_train "
    "do_eval eval_strategy eval_steps eval_on_start save_strategy save_steps save_total_limit "
    "load_best_model_at_end resume_from_checkpoint lr_scheduler_type disable_tqdm "
    "remove_unused_columns max_grad_norm weight_decay adam_beta1 adam_beta2 adam_epsilon "
    "auto_find_batch_size lr_scheduler_kwargs "
    "label_smoothing_factor neftune_noise_alpha".split()
)

_MIN_TO_CALIBRATE = 20  # entities found on dev
_MIN_TO_CALIBRATE_ANEW = 200  # the same, if the start is calibrated


@dataclass(frozen=True)
class Progress:
    """How far a training run is.

    Attributes:
        step: Optimiser steps done.
        loss: Mean loss of the last step, over all processes.
        tokens: Tokens seen by all processes, without padding.
        questions: Questions seen.
        seconds: Spent training and evaluating, earlier attempts included.
        num_too_long: Questions that were drawn and left out for their length.
        steps: Steps in all.
        tokens_per_second: Since this process started.
        seconds_left: At the speed so far.
        dev_f1: Last F1 on dev, strict, 0 to 1; -1 before the first.
        best_f1: The best one.
    """

    step: int
    loss: float
    tokens: int
    questions: int
    seconds: float
    num_too_long: int = 0
    steps: int = 0
    tokens_per_second: float = 0.0
    seconds_left: float = 0.0
    dev_f1: float = -1.0
    best_f1: float = -1.0


Report = Callable[[Progress], None]


def train(
    recipe: Recipe,
    report: Report | None = None,
    note: Callable[[str], None] | None = None,
    show: Show | None = None,
) -> Path:
    """Train a model by a recipe; goes on from the last checkpoint if there is one.

    Run under `torchrun` it averages the gradients of all processes (gloo on CPUs); single-threaded
    processes, one a core, are faster there than one process with many threads, because small
    batches stay in the cache and nobody waits for anybody.

    Args:
        recipe: What to do.
        report: Called after each step of the first process.
        note: Called with what a user should know of the data before training starts, and with
            what goes wrong without stopping it, such as a checkpoint that a full disk refused.
        show: Called while draft heads are fitted, if the recipe wants some: what is done, how much
            of it, of how much.

    Returns:
        The folder of the model; `nomina.load` reads it.

    Raises:
        RecipeError: If the recipe does not fit the data, a run of another recipe is unfinished in
            the same place, or another process trains there.
        DataError: If the data cannot be used; names file and line.
        ModelError: If the base cannot be loaded.
        MissingExtraError: If accelerate is not installed.

    Example:
        >>> recipe = Recipe.of({"data": "my.jsonl", "output": "my-adapter"})
        >>> train(recipe)                                                       # doctest: +SKIP
        PosixPath('my-adapter')
    """
    try:
        import accelerate  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("accelerate", "train") from error
    is_first = int(os.environ.get("RANK", "0")) == 0
    tell = note if note is not None and is_first else (lambda text: None)
    given = Path(recipe.output)
    try:
        output = given.resolve()  # behind links: what takes its place is made beside it
        is_model = (output / CONFIG_NAME).is_file()
        is_taken = output.is_symlink() or (output.exists() and not is_model)
    except (OSError, RuntimeError, ValueError) as error:  # links in a circle, no right to look
        raise RecipeError(f"{given} cannot be an output: {error}. Use another one.") from error
    if is_taken:
        raise RecipeError(f"{given} exists and is no model of nomina's. Use another output.")
    recipe = dataclasses.replace(recipe, output=str(output))
    extra = _trainer_options(recipe.trainer)
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size > 1 and not torch.cuda.is_available():
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // size))
    with hold(run_folder(output)) if is_first else contextlib.nullcontext():
        material = read_material(recipe)
        for text in material.notes:
            tell(text)
        torch.manual_seed(recipe.seed)
        trainable = load_trainable(recipe)
        for text in trainable.notes:
            tell(text)
        if recipe.heads:
            check_heads(trainable.model)
        recipe = _settled(recipe, trainable.model, material, size)
        run = _Run(recipe, material, trainable, extra, report, tell, show)
        run.train()
    return given


def end_process() -> None:
    """End this process at once if it is one of several, after all that it had to write.

    At the regular end of an interpreter torch's gloo threads may abort the process ("terminate
    called without an active exception"), and torchrun would call a finished training failed;
    leaving the group first can hang, because torch joins the threads with the interpreter's lock
    in hand while they need it to let go of tensors.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def _trainer_options(values: Mapping[str, Any]) -> dict[str, Any]:
    known = {item.name for item in dataclasses.fields(TrainingArguments) if item.init}
    for key in values:
        if key in _RESERVED:
            raise RecipeError(f"trainer: {key!r} is set by the recipe's own keys. Remove it.")
        if key not in known:
            raise RecipeError(
                f"trainer: {key!r} is not an argument of transformers.TrainingArguments"
            )
        if key.startswith("optim") and not (values.get("deepspeed") or values.get("fsdp")):
            raise RecipeError(f"trainer: {key!r} has no effect: the optimiser is nomina's own")
    if values.get("deepspeed"):
        return {**values, "deepspeed": deepspeed_config(values["deepspeed"])}
    if values.get("fsdp"):
        return {**values, "fsdp_config": fsdp_config(values.get("fsdp_config"))}
    return dict(values)


def _settled(recipe: Recipe, model: LanguageModel, material: Material, size: int) -> Recipe:
    """Return the recipe with what depends on the data, after checking that all of it fits."""
    if not recipe.data:
        return recipe
    assert material.labels is not None
    (rows,) = material.mixture.corpora.values()
    total = 0
    for row, place in zip(rows, material.places, strict=True):
        defined = material.mixture.config.p_define > 0
        length = len(
            encode(model, Question(row, row.labels or material.labels, definitions=defined))
        )
        total += length
        if length > recipe.max_length:
            raise DataError(
                f"{place}: the sentence has {length} tokens with all labels and what is to be "
                f"written; max_length is {recipe.max_length}. Raise it in the recipe, or shorten "
                "the sentence or the definitions."
            )
    if recipe.steps:
        return recipe
    step_tokens = recipe.batch_tokens * recipe.accumulate * size
    return dataclasses.replace(recipe, steps=default_steps(total, step_tokens))


# --------------------------------------------------------------------------------------------------


class _Run:
    """One training run: what it needs, how far it is."""

    def __init__(
        self,
        recipe: Recipe,
        material: Material,
        trainable: Trainable,
        extra: Mapping[str, Any],
        report: Report | None,
        tell: Callable[[str], None],
        show: Show | None,
    ) -> None:
        self.recipe, self.material, self.trainable = recipe, material, trainable
        self.report, self.tell, self.show = report, tell, show
        self.figures: dict[str, str] = {}  # of what comes after the steps
        self.rank = int(os.environ.get("RANK", "0"))
        self.size = int(os.environ.get("WORLD_SIZE", "1"))
        # These shard weights and optimiser among processes, and bring checkpoints of their own.
        self.is_sharded = bool(extra.get("deepspeed") or extra.get("fsdp"))
        self.output = Path(recipe.output)
        identity = {**recipe.to_dict(), "sentences": material.fingerprint, "processes": self.size}
        identity["order"] = ORDER
        for key in ("output", "compile", "save_every", "heads"):
            del identity[key]
        # FSDP holds weights that train in float32; they are saved in their own type.
        self.dtype = next(iter(trainable.weights.values())).dtype
        self.wrapped: Callable[[], Any] = lambda: None  # what the Trainer made of the model
        self.checkpoints = Checkpoints(run_folder(self.output), identity)
        self.state = self.checkpoints.read_state()
        self.evaluate_every = recipe.evaluate_every or max(recipe.steps // 5, 1)
        with quiet_libraries():
            self.args = self._arguments(extra)
        self._began = time.monotonic()
        self._seconds_before = self.state.seconds
        self._tokens_before = self.state.tokens

    def _arguments(self, extra: Mapping[str, Any]) -> TrainingArguments:
        recipe = self.recipe
        is_cpu = self.trainable.model.device.type == "cpu"
        values: dict[str, Any] = {
            "output_dir": str(self.checkpoints.folder),
            "max_steps": recipe.steps,
            "learning_rate": recipe.learning_rate,
            "gradient_accumulation_steps": recipe.accumulate,
            "per_device_train_batch_size": 1,
            "seed": recipe.seed,
            "use_cpu": is_cpu,
            "ddp_backend": "gloo" if is_cpu and self.size > 1 else None,
            "ddp_find_unused_parameters": False,
            "max_grad_norm": 1.0 if self.is_sharded else 0.0,  # MasterAdamW clips in float32
            "weight_decay": 0.0,
            "adam_beta2": 0.98,
            "save_strategy": "steps" if self.is_sharded else "no",
            "save_steps": recipe.save_every,
            "save_total_limit": 1,
            "eval_strategy": "no",
            "logging_steps": 10,
            "report_to": "none",
            "disable_tqdm": True,
            "remove_unused_columns": False,
            "ignore_data_skip": True,
        }
        try:
            return TrainingArguments(**{**values, **extra})
        except (ValueError, TypeError, ImportError) as error:
            raise RecipeError(f"trainer: {error}") from error

    # What the run does

    def train(self) -> None:
        """Go on to the last step, and write the model."""
        recipe, module = self.recipe, self.trainable.module
        trainer = None
        if self.is_sharded or not self.is_over():  # only the Trainer can read its checkpoints
            fold_attention(module)
            try:
                trainer = _Trainer(self)
            # `report_to` of what is not installed, `fsdp` in a single process
            except (RuntimeError, ImportError, ValueError) as error:
                raise RecipeError(f"trainer: {error}") from error
            if recipe.compile and (problem := compile_layers(module)):
                self.tell(problem)
            try:
                with quiet_libraries():
                    trainer.train(resume_from_checkpoint=self._sharded_checkpoint())
            except FloatingPointError as error:
                raise RecipeError(self._diverged(error)) from error
        self._finish(trainer)

    def _diverged(self, error: FloatingPointError) -> str:
        hint = f"a lower learning_rate (it is {self.recipe.learning_rate:g})"
        if self.dtype == torch.float16:
            hint = "dtype = 'bfloat16'"
        return (
            f"Behind step {self.state.step} the training diverged: {error}. Begin anew with "
            f"{hint}, and with another output or without {self.checkpoints.folder}."
        )

    def is_over(self) -> bool:
        """Whether all steps are done or patience is at its end: what is left is the model."""
        patience = self.recipe.patience
        return self.state.step >= self.recipe.steps or 0 < patience <= self.state.num_worse

    def _sharded_checkpoint(self) -> str | None:
        last = self.checkpoints.sharded() if self.is_sharded else None
        return str(last) if last else None

    def batches(self) -> Batches:
        """Return the questions that are still to be asked."""
        recipe, state = self.recipe, self.state
        is_packed = recipe.pack and can_pack(self.trainable.model.module.config)
        return Batches(
            self.trainable.model,
            self.material.mixture,
            recipe.batch_tokens,
            recipe.seed,
            recipe.max_length,
            is_packed=is_packed,
            rank=self.rank,
            size=self.size,
            after=Place(*state.place) if state.step else None,
            num_too_long=state.num_too_long,
        )

    def start_clock(self) -> None:
        """Count from now: loading is not training."""
        self._began = time.monotonic()

    def seconds(self) -> float:
        """Time spent, that of earlier attempts included."""
        return self._seconds_before + time.monotonic() - self._began

    def progress(self, loss: float) -> Progress:
        """Return how far the run is."""
        state, seconds = self.state, time.monotonic() - self._began
        speed = (state.tokens - self._tokens_before) / max(seconds, 1e-9)
        share = self.seconds() / max(state.step, 1)
        return Progress(
            state.step,
            loss,
            state.tokens,
            state.questions,
            self.seconds(),
            state.num_too_long,
            self.recipe.steps,
            speed,
            share * (self.recipe.steps - state.step),
            state.dev_f1,
            state.best_f1,
        )

    def evaluate(self) -> tuple[float, Calibration | None]:
        """Return strict F1 on dev, of each set, then their mean; and a calibration fitted there."""
        model = self.trainable.model
        model.module.eval()
        f1s, found = [], _Found()
        with plain_layers(model.module), self._whole_weights():
            for dev in self.material.dev:
                parts = [_find(Tagger(model), dev, self.rank, self.size)]
                if self.size > 1:
                    parts *= self.size
                    torch.distributed.all_gather_object(parts, parts[self.rank])
                of_set = sum(parts, _Found())
                f1s.append(of_set.f1)
                found += of_set
        is_calibrated = self.trainable.calibration is not None
        least = _MIN_TO_CALIBRATE_ANEW if is_calibrated else _MIN_TO_CALIBRATE
        return sum(f1s) / len(f1s), found.calibration(least)

    def _whole_weights(self) -> contextlib.AbstractContextManager[None]:
        if not self.is_sharded:
            return contextlib.nullcontext()
        settings = self.args.fsdp_config or {}
        return whole_weights(self.wrapped(), settings.get("reshard_after_forward", True))

    def note_f1(self, f1: float, calibration: Calibration | None) -> None:
        """Take note of an evaluation, and keep the model if it is the best so far."""
        state = self.state
        state.dev_f1 = f1
        state.num_worse += 1
        if f1 > state.top_f1:
            state.top_f1, state.num_worse = f1, 0
        if f1 > state.best_f1:
            before = state.best_f1, state.best_step
            state.best_f1, state.best_step = f1, state.step
            if self.rank == 0 and not self.is_sharded:
                card = self.card(calibration)

                def write(folder: Path) -> None:
                    self.trainable.save(folder, card)
                    if calibration is not None:
                        calibration.save(folder)

                problem = self.checkpoints.save_best(state.step, write)
                if problem:
                    self.tell(problem)
                    state.best_f1, state.best_step = before

    def save(self, optimizer: MasterAdamW) -> None:
        """Write a checkpoint; a full disk is noted and does not stop the run."""
        self.state.seconds = self.seconds()
        if self.rank == 0:
            problem = self.checkpoints.save(self.state, self.trainable.weights, optimizer)
            if problem:
                self.tell(problem)

    def save_place(self) -> None:
        """Write how far the run is, beside the checkpoint that the Trainer writes next."""
        self.state.seconds = self.seconds()
        if self.rank == 0 and (problem := self.checkpoints.save_place(self.state)):
            self.tell(problem)

    def _finish(self, trainer: Trainer | None) -> None:
        """Put the best model, or the last if there is no dev set, where the recipe says."""
        state = None
        if self.is_sharded and trainer is not None:
            wrapped = trainer.accelerator.get_state_dict(trainer.model_wrapped)
            state = {
                k.removeprefix("module."): v.to(self.dtype) for k, v in (wrapped or {}).items()
            }
        if self.rank:
            return
        partial = self.checkpoints.folder / "result.partial"
        shutil.rmtree(partial, ignore_errors=True)
        best = self.checkpoints.best(self.state.best_step)
        is_whole = False
        try:
            if self.state.best_f1 >= 0 and best.is_dir():
                shutil.copytree(best, partial)
            else:
                if trainer is None:  # which reads the checkpoint otherwise
                    weights = self.trainable.weights
                    self.checkpoints.load(weights, MasterAdamW(weights.values()))
                partial.mkdir(parents=True)
                self.trainable.save(partial, "", state)
            if self.recipe.heads:
                self._fit_heads(partial)
            is_fitted = (partial / CALIBRATION_NAME).is_file()
            card = self.card(Calibration.load(partial) if is_fitted else None)
            (partial / "README.md").write_text(card, encoding="utf-8")
            sync(partial)
            is_whole = True
            replace_folder(partial, self.output)
        except (OSError, SafetensorError) as error:
            if is_whole:
                hint = f"The trained model is whole in {partial}: take it from there"
            else:
                shutil.rmtree(partial, ignore_errors=True)
                step = self.checkpoints.read_state().step
                hint = f"To {f'go on from step {step}' if step else 'begin anew'}, free some space "
                hint += "and give the same command again"
            raise RecipeError(f"{self.output} cannot be written: {error}. {hint}.") from error
        self.checkpoints.clean()

    def _fit_heads(self, folder: Path) -> None:
        """Fit draft heads to the model of a folder; what goes wrong costs nothing but them."""
        if self.size > 1 and not torch.cuda.is_available():
            torch.set_num_threads(os.cpu_count() or 1)  # the other processes are done
        recipe = self.recipe
        questions = self.material.mixture.questions(recipe.seed + 1)
        try:
            model = load_model(folder, self.dtype)
            fitted = fit_heads(model, questions, recipe.heads, seed=recipe.seed, show=self.show)
        except RecipeError as error:
            self.tell(str(error))
            return
        fitted.heads.save(folder)
        shares = ", ".join(
            f"{100 * x:.1f} % ({phase})"
            for phase, x in fitted.right.items()
            if not math.isnan(x)  # no choice of this phase was held out
        )
        if shares:
            self.figures["draft heads right at"] = (
                f"{shares} of the choices in {fitted.num_held_out} questions held out"
            )

    def card(self, calibration: Calibration | None = None) -> str:
        """Return the model card as of now."""
        recipe, state, material = self.recipe, self.state, self.material
        figures = {
            "steps": f"{state.step} of {recipe.steps}",
            "tokens read": f"{state.tokens:,}",
            "questions": f"{state.questions:,}",
            "time": f"{self.seconds() / 60:.1f} minutes",
        }
        if state.num_too_long:
            figures["questions left out for their length"] = f"{state.num_too_long:,}"
        if state.best_f1 >= 0:
            num = sum(len(dev.examples) for dev in material.dev)
            names = ", ".join(Path(dev.name).name for dev in material.dev)
            f1, step = state.best_f1, state.best_step
            if self.is_sharded:  # the last weights are kept
                f1, step = state.dev_f1, state.step
            figures["strict F1 on dev"] = (
                f"{100 * f1:.1f} at step {step} ({num} sentences: {names})"
            )
        figures |= self.figures
        plain = Recipe(output="plain").to_dict()
        always = ("base", "method", "learning_rate", "steps", "batch_tokens", "objective", "seed")
        values = recipe.to_dict()
        shown = {
            key: _shown(values[key])
            for key in plain
            if key in always or (values[key] != plain[key] and key not in ("output", "mixture"))
        }
        shown |= {f"mixture.{key}": _shown(value) for key, value in recipe.mixture.items()}
        return Card(
            self.output.name,
            self.trainable.origin,
            self.trainable.base,
            recipe.method,
            self.trainable.model.format.name,
            [
                CardData(Path(x.name).name, x.licence, x.num_sentences) for x in material.sources
            ],  # paths are nobody else's business
            shown,
            material.labels.names if material.labels else (),
            figures,
            material.notes,
            is_measured=state.best_f1 >= 0,
            is_calibrated=(calibration or self.trainable.calibration) is not None,
        ).render()


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return ", ".join(value) if isinstance(value, (list, tuple)) else str(value)


@dataclass(frozen=True)
class _Found:
    """What was found on dev: how many gold entities there are, and each score with its outcome."""

    num_gold: int = 0
    scores: tuple[float, ...] = ()
    correct: tuple[bool, ...] = ()

    def __add__(self, other: _Found) -> _Found:
        return _Found(
            self.num_gold + other.num_gold,
            self.scores + other.scores,
            self.correct + other.correct,
        )

    @property
    def f1(self) -> float:
        return 2 * sum(self.correct) / max(len(self.scores) + self.num_gold, 1)

    def calibration(self, least: int = _MIN_TO_CALIBRATE) -> Calibration | None:
        """Return a calibration; None if there are fewer than `least` entities to fit it on."""
        if len(self.scores) < least or len(set(self.correct)) < 2:
            return None
        return fit_temperature(self.scores, self.correct)


def _find(tagger: Tagger, dev: DevSet, rank: int, size: int) -> _Found:
    """Find the entities of this process's part of a dev set."""
    rows = list(dev.examples)[rank::size]
    if not rows:
        # Weights that are shared out must be read by all or by none: FSDP would hang a step later.
        next(tagger.pipe_many([(dev.examples[0], dev.labels)]))
    # Sentences of one label set together share a prompt.
    rows.sort(key=lambda row: row.labels.names if row.labels else ())
    items = [(row, row.labels or dev.labels) for row in rows]
    found = _Found()
    for row, document in zip(rows, tagger.pipe_many(items, threshold=0.0), strict=True):
        want = {(e.start, e.end, e.label) for e in row.entities()}
        found += _Found(
            len(want),
            tuple(e.score for e in document.entities),
            tuple((e.start, e.end, e.label) in want for e in document.entities),
        )
    return found


# --------------------------------------------------------------------------------------------------
# Hugging Face's Trainer, and what it does otherwise here


class _Trainer(Trainer):  # type: ignore[misc, unused-ignore]
    """The Trainer with our batches, optimiser and learning rate."""

    is_fsdp_enabled: bool

    def __init__(self, run: _Run) -> None:
        self.run = run
        self.steps = _Steps(run)
        if run.args.fsdp:
            hold_in_float32(run.trainable.module, run.args.fsdp_plugin_args)
        with quiet_libraries():
            super().__init__(
                model=Objective(run.trainable.module, run.recipe.objective),
                args=run.args,
                callbacks=[self.steps],
            )
        run.wrapped = lambda: self.model_wrapped
        self.remove_callback(PrinterCallback)  # what it prints, `report` is told

    def create_accelerator_and_postprocess(self) -> None:
        """Make the accelerator shard on CPUs, too, where it would only average gradients."""
        super().create_accelerator_and_postprocess()
        if self.args.fsdp and not self.is_fsdp_enabled:
            self.is_fsdp_enabled = shard_on_cpus(self.accelerator, self.args.fsdp_plugin_args)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return our batches as they are: each process already has its own."""
        if self.run.is_over():  # its checkpoint is read, and no step made
            none: Any = []
            return DataLoader(none, batch_size=None)
        self.steps.batches = self.run.batches()
        return DataLoader(self.steps.batches, batch_size=None)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write nothing: what is beside it in a checkpoint of shards has the weights, too."""

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Return the optimiser with its state as of the last checkpoint."""
        if self.run.is_sharded:
            made: torch.optim.Optimizer = super().create_optimizer(model)
            return made
        weights = self.run.trainable.weights
        optimizer = MasterAdamW(weights.values(), lr=self.run.recipe.learning_rate)
        self.run.checkpoints.load(weights, optimizer)
        self.optimizer: Any = optimizer
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> LambdaLR:
        """Return the learning rate's course, from where the run is."""
        # The Trainer's own checkpoints hold the scheduler's place, ours do not.
        first = 0 if self.run.is_sharded else self.run.state.step
        warmup = self.run.recipe.warmup_steps
        scheduler = LambdaLR(
            optimizer or self.optimizer,
            lambda step: rate_factor(first + step, num_training_steps, warmup),
        )
        self.lr_scheduler: Any = scheduler
        return scheduler

    def training_step(
        self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Run one batch, with random numbers that follow from its place alone."""
        place = inputs.pop("place").tolist()
        counts = [int(inputs.pop("num_tokens")), int(inputs.pop("num_questions"))]
        torch.manual_seed(zlib.crc32(f"{self.run.recipe.seed}/{place[0]}".encode()))
        loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
        self.steps.add(place, counts, loss)
        return loss


class _Steps(TrainerCallback):  # type: ignore[misc, unused-ignore]
    """What happens between steps: reports, evaluations, checkpoints."""

    def __init__(self, run: _Run) -> None:
        self.run = run
        self.batches: Batches | None = None
        self._place = (0, 0, 0)
        self._sums = [0.0, 0.0, 0.0]  # tokens, questions, loss

    def add(self, place: Sequence[int], counts: Sequence[int], loss: torch.Tensor) -> None:
        """Take note of a batch; the loss is its share of the step's."""
        self._place = (place[0], place[1], place[2])
        values = (*counts, float(loss))
        self._sums = [a + b for a, b in zip(self._sums, values, strict=True)]

    def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """Set the Trainer to the step of the checkpoint."""
        if not self.run.is_sharded:
            state.global_step = self.run.state.step
        average_in_float32(self.run.wrapped())
        self.run.start_clock()

    def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """Report, evaluate and save as the recipe says."""
        run, recipe = self.run, self.run.recipe
        sums = torch.tensor(self._sums, dtype=torch.float64)
        if run.size > 1:
            device = "cpu" if run.args.use_cpu else run.trainable.model.device
            sums = sums.to(device)
            torch.distributed.all_reduce(sums)
        now = run.state
        now.step = state.global_step
        # The first process's batch is the first of those that all processes had in this pass.
        now.place = (self._place[0] - run.rank, self._place[1], self._place[2])
        now.tokens += int(sums[0])
        now.questions += int(sums[1])
        now.num_too_long = self.batches.num_too_long if self.batches else 0
        loss = float(sums[2]) / run.size
        if not math.isfinite(loss):  # of shards, whose optimiser is not ours
            raise FloatingPointError(f"the loss is {loss}")
        self._sums = [0.0, 0.0, 0.0]
        is_last = now.step >= recipe.steps
        is_due = bool(run.material.dev) and (now.step % run.evaluate_every == 0 or is_last)
        if is_due:
            run.note_f1(*run.evaluate())
            if run.is_over():
                control.should_training_stop = True
        if run.report is not None and run.rank == 0:
            run.report(run.progress(loss))
        is_time = now.step % recipe.save_every == 0
        if run.is_sharded and (is_time or is_last or control.should_training_stop):
            run.save_place()
        elif not run.is_sharded and not is_last and (is_due or is_time):
            run.save(_inner(rest["optimizer"]))


def _inner(optimizer: Any) -> MasterAdamW:
    """The optimiser inside accelerate's wrapper."""
    inner: MasterAdamW = getattr(optimizer, "optimizer", optimizer)
    return inner


def _average(bucket: Any) -> Any:
    """Average gradients of a bucket in float32: sums of bfloat16 numbers lose the small ones."""
    total = bucket.buffer().float()
    torch.distributed.all_reduce(total)
    done: Any = torch.futures.Future()
    done.set_result((total / torch.distributed.get_world_size()).to(bucket.buffer().dtype))
    return done


def average_in_float32(model: Any) -> None:
    """Let a data-parallel model average its gradients in float32."""
    is_float = all(p.dtype == torch.float32 for p in model.parameters() if p.requires_grad)
    if isinstance(model, DistributedDataParallel) and not is_float:
        # torch compares the annotations of a hook with classes, and ours are strings
        model.register_comm_hook(None, lambda state, bucket: _average(bucket))
