"""`nomina train`: a recipe or one's own data in, a model folder out."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nomina.commands.endings import user_errors

if TYPE_CHECKING:
    from nomina.head_fitting import Show
    from nomina.recipes import Recipe
    from nomina.training import Report


def _recipe(path: Path | None, changes: dict[str, Any]) -> Recipe:
    from nomina.errors import RecipeError
    from nomina.recipes import Recipe

    changes = {key: value for key, value in changes.items() if value is not None}
    if path is not None:
        return Recipe.read(path, changes)
    try:
        return Recipe.of(changes)
    except RecipeError as error:
        raise RecipeError(f"command line: {error}") from error


def _dry_run(recipe: Recipe, count: int) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from nomina.formats import Sentence, get_format, target
    from nomina.material import read_material

    material = read_material(recipe)
    mixture = material.mixture
    table = Table("corpus", "passages", "share")
    for name, share in sorted(mixture.weights.items(), key=lambda item: -item[1]):
        table.add_row(escape(name), str(len(mixture.corpora[name])), f"{share:.1%}")
    console = Console()
    console.print(table)
    for dev in material.dev:
        console.print(f"dev: {dev.name}, {len(dev.examples)} sentences", markup=False)
    for note in material.notes:
        console.print(f"note: {note}", markup=False, highlight=False)
    form = get_format(recipe.format or "inline")
    for question in itertools.islice(mixture.questions(recipe.seed), count):
        sentence = Sentence.of(question.example.text, question.example.offsets)
        prompt = form.prompt(
            sentence, question.labels, question.definitions, question.demonstrations
        )
        written = target(form, sentence, question.labels.names, question.example.spans)
        console.rule(escape(question.source))
        console.print(prompt.text + written, markup=False, highlight=False)


_EVERY = 60.0  # seconds between lines where there is no terminal


@contextmanager
def _shown(is_first: bool) -> Iterator[tuple[Report, Any, Show]]:
    """Show a run's progress: a bar on a terminal, in a file a line a minute and every tenth."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from nomina import training

    console = Console(stderr=True)
    columns = (BarColumn(bar_width=20), MofNCompleteColumn(), TextColumn("{task.description}"))
    bar = Progress(*columns, console=console, disable=not (is_first and console.is_terminal))

    def tell(text: str) -> None:
        console.print(f"note: {text}", markup=False, highlight=False, soft_wrap=True)

    def show(now: training.Progress) -> None:
        parts = [f"loss {now.loss:.3f}"]
        if now.best_f1 >= 0:
            parts.append(f"dev F1 {100 * now.dev_f1:.1f} (best {100 * now.best_f1:.1f})")
        parts.append(f"{now.tokens_per_second:.0f} tokens/s")
        left = round(now.seconds_left)
        parts.append(f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d} left")
        if now.num_too_long:
            parts.append(f"{now.num_too_long} too long")
        text = "  ".join(parts)
        bar.update(task, total=now.steps, completed=now.step, description=text)
        line(now.step, now.steps, text, now.step % max(now.steps // 10, 1) == 0)

    def show_more(text: str, done: int, total: int) -> None:
        bar.update(task, total=total, completed=done, description=text)
        line(done, total, text, False)

    last = [time.monotonic()]

    def line(done: int, total: int, text: str, is_due: bool) -> None:
        if console.is_terminal or not (is_due or time.monotonic() - last[0] > _EVERY):
            return
        last[0] = time.monotonic()
        console.print(f"{done}/{total}  {text}", markup=False, highlight=False, soft_wrap=True)

    with bar:
        task = bar.add_task("reading", total=None)
        yield show, tell, show_more


def register(app: typer.Typer) -> None:
    """Add the command to the program."""

    @app.command("train")
    def train(
        recipe: Annotated[
            Path | None, typer.Argument(help="TOML file; recipes/default.toml is one.")
        ] = None,
        data: Annotated[
            str | None,
            typer.Option(help="File or folder to train on, or NAME:SPLIT of a set."),
        ] = None,
        labels_file: Annotated[
            Path | None, typer.Option(help="TOML, JSON or YAML file of the labels; data's if none.")
        ] = None,
        output: Annotated[Path | None, typer.Option(help="Folder of the trained model.")] = None,
        dev: Annotated[
            list[str] | None,
            typer.Option(help="What to compare checkpoints on; a part of the data if none."),
        ] = None,
        model: Annotated[
            str | None,
            typer.Option(help="What to start from: adapter, model folder or hub id."),
        ] = None,
        method: Annotated[str | None, typer.Option(help="lora or full.")] = None,
        steps: Annotated[int | None, typer.Option(help="Optimiser steps.")] = None,
        learning_rate: Annotated[float | None, typer.Option(help="Highest learning rate.")] = None,
        seed: Annotated[int | None, typer.Option(help="Of weights, questions and split.")] = None,
        compile_: Annotated[
            bool | None, typer.Option("--compile/--no-compile", help="Compile the layers first.")
        ] = None,
        dry_run: Annotated[
            int, typer.Option(min=0, help="Only print the mixture and this many examples.")
        ] = 0,
    ) -> None:
        """Train a model on your data or on corpora of NOMINA_DATA; goes on where it was stopped.

        Options take the place of the recipe's keys. On CPUs run one process a core:
        torchrun --nproc-per-node 2 -m nomina.cli train RECIPE.
        Exit codes: 0 trained; 1 the recipe, data or base cannot be used; 2 wrong usage.
        """
        if recipe is None and (data is None or (output is None and not dry_run)):
            raise typer.BadParameter(
                "give a recipe, or --data FILE and --output FOLDER (docs/training.md)"
            )
        with user_errors():
            changes = {
                "data": data,
                "labels": None if labels_file is None else str(labels_file),
                "output": None if output is None else str(output),
                "dev": tuple(dev) if dev else None,
                "base": model,
                "method": method,
                "steps": steps,
                "learning_rate": learning_rate,
                "seed": seed,
                "compile": compile_,
            }
            if recipe is None and output is None:
                changes["output"] = "dry-run"
            plan = _recipe(recipe, changes)
            if dry_run:
                _dry_run(plan, dry_run)
                return
            is_first = os.environ.get("RANK", "0") == "0"
            with _shown(is_first) as (show, tell, show_more):
                from nomina import training

                folder = training.train(plan, show, tell, show_more)
            if is_first:
                typer.echo(f"trained: {folder}")
            training.end_process()
