"""What a whole model would weigh with its layers in int8, and what that costs.

The weights of every layer are rounded to 255 steps of the largest weight of their row (one output);
the embedding stays as it is. Both models are then scored on dev splits of the benchmark, without a
threshold. An adapter is merged first: that is what full fine-tuning would ship in its place.

    NOMINA_DATA=... python benchmarks/int8.py --model runs/ablations/full-fine-tuning-100
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from nomina.models import load_model


def round_rows(weight):
    """The weight as int8 and one scale a row hold it, and the bytes of both."""
    wide = weight.float()
    scale = wide.abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
    rounded = (wide / scale).round().to(torch.int8)
    back = (rounded.float() * scale).to(weight.dtype)
    return back, rounded.numel() + 2 * scale.numel()  # scales in bfloat16


@torch.no_grad()
def round_layers(module):
    """Round the weights of all layers in place; returns their bytes and those of what stays."""
    held = 0
    matrices = {
        id(part.weight): part
        for name, part in module.named_modules()
        if isinstance(part, torch.nn.Linear) and ".layers." in name
    }
    for part in matrices.values():
        back, size = round_rows(part.weight)
        part.weight.copy_(back)
        held += size
    stays = {id(x): x.numel() for x in module.parameters() if id(x) not in matrices}
    return held, 2 * sum(stays.values())


def score(folder, limit):
    command = [sys.executable, "-m", "nomina.cli", "evaluate", "--model", folder, "--threshold", 0]
    command += ["--limit", limit, "--metric", "gner,strict", "--json", "--no-errors"]
    command += ["--output", folder / "evaluation"]
    done = subprocess.run([str(x) for x in command], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)["average"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default=None, help="the default model, if not given")
    parser.add_argument("--limit", type=int, default=100, help="dev sentences of each set")
    options = parser.parse_args()
    if not os.environ.get("NOMINA_DATA"):
        sys.exit("set NOMINA_DATA to the folder of the corpora")
    model = load_model(options.model, torch.bfloat16)
    with tempfile.TemporaryDirectory() as folder:
        found = {}
        for name in ("bfloat16", "int8"):
            if name == "int8":
                held, stays = round_layers(model.module)
                print(f"layers in int8: {held / 1e6:.1f} MB; embedding and norms: "
                      f"{stays / 1e6:.1f} MB in bfloat16")  # fmt: skip
            model.save(Path(folder) / name)
            found[name] = score(Path(folder) / name, options.limit)
    print("| layers | F1 | | strict |\n|---|---|---|---|")
    for name, average in found.items():
        f1, low, high = (100 * average["gner"][key] for key in ("f1", "low", "high"))
        print(
            f"| {name} | {f1:.2f} | {low:.1f} to {high:.1f} | {100 * average['strict']['f1']:.2f} |"
        )


if __name__ == "__main__":
    main()
