"""`nomina train`: a recipe in, an adapter out."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nomina.commands.extract import user_errors

if TYPE_CHECKING:
    from nomina.training import Recipe


def _dry_run(recipe: Recipe, count: int) -> None:
    from rich.console import Console
    from rich.table import Table

    from nomina.formats import Sentence, get_format, target
    from nomina.training import default_mixture

    mixture = default_mixture(recipe.corpora, recipe.mixture)
    table = Table("corpus", "passages", "share")
    for name, share in sorted(mixture.weights.items(), key=lambda item: -item[1]):
        table.add_row(name, str(len(mixture.corpora[name])), f"{share:.1%}")
    console = Console()
    console.print(table)
    form = get_format(recipe.format)
    for question in itertools.islice(mixture.questions(recipe.seed), count):
        sentence = Sentence.of(question.example.text, question.example.offsets)
        prompt = form.prompt(
            sentence, question.labels, question.definitions, question.demonstrations
        )
        written = target(form, sentence, question.labels.names, question.example.spans)
        console.rule(question.source)
        console.print(prompt.text + written, markup=False, highlight=False)


def register(app: typer.Typer) -> None:
    """Add the command to the program."""

    @app.command("train")
    def train(
        recipe: Annotated[Path, typer.Argument(help="TOML file; recipes/default.toml is one.")],
        dry_run: Annotated[
            int, typer.Option(help="Only print the mixture and this many examples.")
        ] = 0,
    ) -> None:
        """Train an adapter on corpora of NOMINA_DATA; goes on from its last checkpoint.

        On CPUs run one process a core: torchrun --nproc-per-node 2 -m nomina.cli train RECIPE.
        Exit codes: 0 trained; 1 the recipe, data or base cannot be used; 2 wrong usage.
        """
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        with user_errors():
            from nomina import training

            plan = training.Recipe.read(recipe)
            if dry_run:
                _dry_run(plan, dry_run)
                return
            is_first = os.environ.get("RANK", "0") == "0"
            columns = (
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.description}"),
                TimeRemainingColumn(),
            )
            with Progress(*columns, console=Console(stderr=True), disable=not is_first) as bar:
                task = bar.add_task("reading corpora", total=plan.steps)

                def show(now: training.Progress) -> None:
                    speed = now.tokens / max(now.seconds, 1e-9)
                    text = f"loss {now.loss:.3f}  {speed:.0f} tokens/s  {now.num_too_long} too long"
                    bar.update(task, completed=now.step, description=text)

                folder = training.train(plan, show)
            if is_first:
                typer.echo(f"trained: {folder}")
