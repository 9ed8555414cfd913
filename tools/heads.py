"""Fit the heads that guess what a model will choose (`nomina.heads`) to a model that has none.

`nomina train` does it after training if the recipe says `heads = 4500`; this does it alone, with
the questions of a recipe.

    NOMINA_DATA=... python tools/heads.py nomina/adapters/default
    python tools/heads.py my-adapter --recipe my.toml --sentences 500
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

import nomina
from nomina.errors import NominaError
from nomina.head_fitting import fit_heads
from nomina.material import read_material
from nomina.recipes import Recipe


def main() -> None:
    """Fit the heads of a folder."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path, help="folder of the model, where they are written")
    parser.add_argument("--recipe", type=Path, default=Path("recipes/default.toml"))
    parser.add_argument("--sentences", type=int, default=4500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    try:
        model = nomina.load(options.model).model
        mixture = read_material(Recipe.read(options.recipe)).mixture
        with Progress(console=Console(stderr=True)) as bar:
            task = bar.add_task("reading corpora", total=None)

            def show(text: str, done: int, total: int) -> None:
                bar.update(task, description=text, completed=done, total=total)

            questions = mixture.questions(options.seed)
            fitted = fit_heads(model, questions, options.sentences, seed=options.seed, show=show)
    except NominaError as error:
        parser.exit(1, f"error: {error}\n")
    fitted.heads.save(options.model)
    print(f"fitted on {fitted.num_sentences} sentences, {fitted.num_left_out} left out")
    for phase, share in fitted.right.items():
        print(f"{phase}: right at {100 * share:.1f} % of {fitted.num_held_out} held out")


if __name__ == "__main__":
    main()
