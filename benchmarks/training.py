"""How fast the default recipe trains, beside the naive way, and how much memory it takes.

The naive way is what one would write first: full fine-tuning of float32 weights under bfloat16
autocast, eight questions a batch, padded, the loss over the whole vocabulary. Both see questions of
the same mixture; tokens are those of the questions, without padding (of packed rows a shared prompt
counts once). First steps, in which layers are compiled, are not counted. Needs the files that
`make model` writes (`make runs/queries.jsonl runs/written.jsonl`), ten minutes on 2 cores.

    NOMINA_DATA=... python benchmarks/training.py
"""

import argparse
import dataclasses
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
WAYS = {  # the name, processes, threads of each
    "naive, two threads": ("naive", 1, 2),
    "default recipe, two threads": ("recipe", 1, 2),
    "default recipe, two processes of one thread": ("recipe", 2, 1),
}


class Clock:
    """Tokens a second from a step on."""

    def __init__(self, first):
        self.first, self.marks = first, []

    def tick(self, step, tokens):
        """Note the tokens seen up to a step."""
        if step >= self.first:
            self.marks.append((tokens, time.perf_counter()))

    def result(self):
        """Tokens a second and the process's memory; None if there were no steps to note."""
        if not self.marks:  # only the first process reports
            return None
        (before, began), (after, ended) = self.marks[0], self.marks[-1]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        return {"speed": (after - before) / (ended - began), "tokens": after - before, "peak": peak}


def recipe_of(output):
    from nomina.recipes import Recipe

    values = Recipe.read(ROOT / "recipes" / "default.toml")
    return dataclasses.replace(values, output=output, dev=(), heads=0, save_every=10_000)


def train_by_recipe(output, steps):
    from nomina.training import train

    clock = Clock(first=steps // 2)
    recipe = dataclasses.replace(recipe_of(output), steps=steps, evaluate_every=steps)
    train(recipe, lambda now: clock.tick(now.step, now.tokens))
    return clock.result()


def train_naively(output, steps):
    import torch
    from transformers import AutoModelForCausalLM

    from nomina.base import prepare_base
    from nomina.batches import encode
    from nomina.material import default_mixture
    from nomina.models import load_model

    recipe = recipe_of(output)
    mixture = default_mixture(recipe.corpora, recipe.mixture)
    reader = load_model(recipe.base, torch.bfloat16)
    items = (encode(reader, question) for question in mixture.questions(recipe.seed))
    fitting = (item for item in items if len(item) <= recipe.max_length)
    batches = [list(itertools.islice(fitting, 8)) for _ in range(steps)]
    del reader
    model = AutoModelForCausalLM.from_pretrained(prepare_base(), dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5)
    clock, tokens = Clock(first=2), 0
    for step, batch in enumerate(batches, start=1):
        rows = [item.prefix_ids + item.prompt_ids + item.target_ids for item in batch]
        width = max(map(len, rows))
        ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        labels = ids.masked_fill(mask == 0, -100)
        for index, item in enumerate(batch):
            labels[index, : len(rows[index]) - len(item.target_ids)] = -100
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        tokens += sum(map(len, rows))
        clock.tick(step, tokens)
    return clock.result()


def run(way, processes, threads, steps):
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    with tempfile.TemporaryDirectory() as folder:
        command += [__file__, "--way", way, "--steps", str(steps), "--output", f"{folder}/model"]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        done = subprocess.run(
            command, env=environment, check=True, text=True, cwd=ROOT, stdout=subprocess.PIPE
        )
    return json.loads(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=60, help="of the recipe; a quarter naively")
    parser.add_argument("--way", choices=["naive", "recipe"], help=argparse.SUPPRESS)
    parser.add_argument("--output", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not os.environ.get("NOMINA_DATA"):
        sys.exit("set NOMINA_DATA to the folder of the corpora")
    if options.way:
        train = train_naively if options.way == "naive" else train_by_recipe
        if found := train(options.output, options.steps):
            print(json.dumps(found))
        return
    print("| training | tokens/s | times the naive | GB a process |\n|---|---|---|---|")
    naive = None
    for name, (way, processes, threads) in WAYS.items():
        steps = options.steps // 4 if way == "naive" else options.steps
        found = run(way, processes, threads, steps)
        naive = naive or found["speed"]
        print(f"| {name} | {found['speed']:.0f} | {found['speed'] / naive:.1f} | "
              f"{found['peak']:.1f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
