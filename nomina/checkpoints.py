"""Checkpoints: what a killed training run needs to go on as if nothing had happened.

A run keeps, beside the folder of its output:

    OUTPUT.run/
      step-000040/state.safetensors   float32 weights and both means of the optimiser
      step-000040/state.json          how far the run is, and the recipe and data it belongs to
      best-000020/                    the best model on dev so far, ready to load
      checkpoint-40/, place-000040/   in place of these, where DeepSpeed or FSDP shard the weights:
                                      the Trainer's files, and how far the run is

A folder is written under another name and renamed when it is complete and on disk, and only then is
the one before it removed: there is a whole checkpoint at any moment, and never more than two. Only
safetensors and JSON: nothing here can run code when it is read, and the masters stay in float32,
which `Optimizer.load_state_dict` would round to the type of the weights. `OUTPUT.run` is locked for
as long as a run goes on, so that two never write to one.

Knows nothing of models, recipes or training; the seeds of a step follow from its number, so no
state of a random generator is kept.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from nomina.errors import RecipeError
from nomina.optimizer import STATE_KEYS, MasterAdamW

try:
    import fcntl
except ImportError:  # pragma: no cover
    fcntl = None  # type: ignore[assignment]  # Windows

_PARTIAL = ".partial"


@dataclass
class RunState:
    """How far a run is.

    Attributes:
        step: Optimiser steps done.
        place: Of the last batch: number, buffer, index.
        tokens: Tokens seen by all processes, without padding.
        questions: Questions seen.
        seconds: Spent on them, by all attempts.
        num_too_long: Questions left out for their length.
        best_f1: Best F1 on dev of a model that was kept; -1 for none.
        best_step: When that was.
        dev_f1: The last F1.
        num_worse: Evaluations since `top_f1`.
        top_f1: Best F1 on dev, be it that its model could not be written.
    """

    step: int = 0
    place: tuple[int, int, int] = (0, 0, 0)
    tokens: int = 0
    questions: int = 0
    seconds: float = 0.0
    num_too_long: int = 0
    best_f1: float = -1.0
    best_step: int = 0
    dev_f1: float = -1.0
    num_worse: int = 0
    top_f1: float = -1.0


class Checkpoints:
    """The folder of a run.

    Args:
        folder: `OUTPUT.run`.
        identity: What a run that goes on must have in common with the one that stopped.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.folder = folder
        self.identity = json.loads(json.dumps(identity))

    def latest(self) -> Path | None:
        """Return the last whole checkpoint."""
        found = sorted(x for x in self.folder.glob("step-*") if x.suffix != _PARTIAL)
        return found[-1] if found else None

    def save(
        self, state: RunState, weights: Mapping[str, torch.Tensor], optimizer: MasterAdamW
    ) -> str:
        """Write a checkpoint; the one before it goes when this one is safe.

        Returns:
            Why it could not be written; the one before it is then untouched. Empty if it was.
        """
        tensors = {
            f"{key}/{name}": optimizer.state[weight][key]
            for name, weight in weights.items()
            for key in STATE_KEYS
            if weight in optimizer.state
        }

        def write(folder: Path) -> None:
            save_file(tensors, folder / "state.safetensors")
            self._write_state(folder, state)

        problem = self._write(f"step-{state.step:06d}", write)
        if not problem:
            keep = {f"step-{state.step:06d}", f"best-{state.best_step:06d}"}
            self._remove_but(keep)
        return problem

    def _write_state(self, folder: Path, state: RunState) -> None:
        content = json.dumps({"state": asdict(state), "identity": self.identity}, indent=1)
        (folder / "state.json").write_text(content, encoding="utf-8")

    def sharded(self) -> Path | None:
        """Return the last whole checkpoint of the Trainer's own, beside which its place stands."""
        whole = [
            path
            for path in self.folder.glob("checkpoint-*")
            if path.name.removeprefix("checkpoint-").isdecimal()
            and (path / "trainer_state.json").is_file()  # the Trainer writes that last
            and self._place(_step_of(path)).is_dir()
        ]
        return max(whole, key=_step_of, default=None)

    def _place(self, step: int) -> Path:
        return self.folder / f"place-{step:06d}"

    def save_place(self, state: RunState) -> str:
        """Write how far the run is, before the Trainer writes a checkpoint of the same step.

        Returns:
            Why it could not be written; empty if it was.
        """
        last, made = self.sharded(), self._place(state.step)
        problem = self._write(made.name, lambda folder: self._write_state(folder, state))
        keep = {made.name, self._place(_step_of(last)).name if last else ""}
        for path in () if problem else self.folder.glob("place-*"):
            if path.name not in keep:
                shutil.rmtree(path, ignore_errors=True)
        return problem

    def save_best(self, step: int, write: Callable[[Path], None]) -> str:
        """Write the best model so far; what it replaces goes with the next checkpoint.

        Returns:
            Why it could not be written; empty if it was.
        """
        return self._write(f"best-{step:06d}", write)

    def best(self, step: int) -> Path:
        """Return the folder of the best model."""
        return self.folder / f"best-{step:06d}"

    def _write(self, name: str, write: Callable[[Path], None]) -> str:
        partial = self.folder / (name + _PARTIAL)
        final = self.folder / name
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            write(partial)
            sync(partial)
            if final.exists():
                shutil.rmtree(final)
            partial.rename(final)
            sync(self.folder)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            return f"{final} was not written: {error}. Free some space; training goes on"
        return ""

    def _remove_but(self, keep: set[str]) -> None:
        for path in [*self.folder.glob("step-*"), *self.folder.glob("best-*")]:
            if path.name not in keep:
                shutil.rmtree(path, ignore_errors=True)

    def load(self, weights: Mapping[str, torch.Tensor], optimizer: MasterAdamW) -> RunState:
        """Set weights and optimiser to the last checkpoint; a fresh state if there is none.

        Raises:
            RecipeError: If the run was begun with another recipe or other data, or the checkpoint
                cannot be read.
        """
        latest = self.latest()
        if latest is None:
            return RunState()
        state = self.read_state()
        try:
            tensors = load_file(latest / "state.safetensors")
            names = {key.partition("/")[2] for key in tensors}
            for name in sorted(names):  # weights that never got a gradient have no state
                kept = {key: tensors[f"{key}/{name}"] for key in STATE_KEYS}
                optimizer.start(weights[name], state.step, **kept)
        except (OSError, KeyError, SafetensorError) as error:
            raise RecipeError(
                f"{latest} cannot be read: {error}. Delete {self.folder} to begin anew."
            ) from error
        return state

    def read_state(self) -> RunState:
        """Return how far the last checkpoint is, and check whose it is.

        Raises:
            RecipeError: As `load`.
        """
        latest, sharded = self.latest(), self.sharded()
        if sharded is not None:
            latest = self._place(_step_of(sharded))
        if latest is None:
            return RunState()
        try:
            content = json.loads((latest / "state.json").read_text(encoding="utf-8"))
            given = content["identity"]
            state = RunState(**content["state"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RecipeError(
                f"{latest} cannot be read: {error}. Delete {self.folder} to begin anew."
            ) from error
        keys = {*given, *self.identity}
        changed = sorted(k for k in keys if given.get(k) != self.identity.get(k))
        if changed:
            changes = ", ".join(
                f"{k}: {given.get(k)!r} -> {self.identity.get(k)!r}" for k in changed
            )
            raise RecipeError(
                f"{self.folder} holds a run that was not finished, of another recipe or other data "
                f"({changes}). Go on with that one, use another output, or delete the folder."
            )
        state.place = (state.place[0], state.place[1], state.place[2])
        return state

    def clean(self) -> None:
        """Remove what was written here; the run is finished. Logs of `report_to` stay."""
        if not self.folder.is_dir():
            return
        for path in self.folder.iterdir():
            if path.name == "runs":
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()


def run_folder(output: Path) -> Path:
    """Return the folder of the run that makes an output."""
    return output.with_name(output.name + ".run")


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Make the folder of a run and hold it: no other process can. Empty, it goes afterwards.

    The folder itself is locked, and the system lets go of it however this process ends. Where it
    cannot be locked (Windows, some network disks) nobody is kept out.

    Raises:
        RecipeError: If it cannot be made, or another process holds it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecipeError(
            f"{folder} cannot be made: {error.strerror}. A run keeps its checkpoints there: use "
            "another output."
        ) from error
    with contextlib.ExitStack() as held:
        if fcntl is not None:
            try:
                handle = os.open(folder, os.O_RDONLY)
                held.callback(os.close, handle)
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RecipeError(
                    f"{folder} is in use: another process trains the same output. Wait for it to "
                    "end, or use another output."
                ) from error
            except OSError:
                pass
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                folder.rmdir()


def _step_of(checkpoint: Path) -> int:
    """The step of a checkpoint of the Trainer's, `checkpoint-40`."""
    return int(checkpoint.name.removeprefix("checkpoint-"))


def sync(folder: Path) -> None:
    """Make sure that a folder and its files are on disk, not in a cache.

    Raises:
        OSError: If the disk is full or fails.
    """
    for path in (*(x for x in folder.iterdir() if x.is_file()), folder):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def replace_folder(partial: Path, final: Path) -> None:
    """Put a complete folder in the place of another; the old one goes last."""
    sync(partial)
    old = partial.with_name(partial.name + ".replaced")  # beside what is ours, not the user's
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        final.rename(old)
    partial.rename(final)
    shutil.rmtree(old, ignore_errors=True)
