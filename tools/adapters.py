"""Average LoRA adapters, or give one a higher rank: how the shipped adapter was put together.

    python tools/adapters.py average OUT A:0.5 B:0.5      # the mean of their factors, weighted
    python tools/adapters.py widen OUT ADAPTER --rank 80  # computes the same, and has room to learn

Averages of runs that began at one adapter keep more of what each learnt than either run does
(Wortsman et al. 2022). The mean is that of the factors, not of their products; for adapters that
lie as near to each other as stages of one training do, the two are nearly the same.

Everything but the weights is copied from the first adapter. A calibration is not: it belongs to the
scores of one model (`nomina evaluate --fit-temperature` fits another).
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from nomina.environment import give_usual_rights

WEIGHTS, SETTINGS, CALIBRATION = (
    "adapter_model.safetensors",
    "adapter_config.json",
    "calibration.json",
)
Weights = dict[str, torch.Tensor]


def average(parts: Mapping[Path, float]) -> Weights:
    """Return the weighted mean of adapters, each tensor in its own type.

    Raises:
        ValueError: If weights do not add up to 1 or adapters are not of one shape.
    """
    if not math.isclose(sum(parts.values()), 1.0, abs_tol=1e-6):
        raise ValueError(f"weights must add up to 1, were: {', '.join(map(str, parts.values()))}")
    loaded = [(path, load_file(path / WEIGHTS), weight) for path, weight in parts.items()]
    first, like, _ = loaded[0]
    for path, weights, _ in loaded:
        if {k: v.shape for k, v in weights.items()} != {k: v.shape for k, v in like.items()}:
            raise ValueError(f"{path} and {first} are not of one shape: another rank or base model")
    made = {}
    for name, tensor in like.items():
        mean = sum(weights[name].float() * share for _, weights, share in loaded)
        assert isinstance(mean, torch.Tensor)
        made[name] = mean.to(tensor.dtype).contiguous()
    return made


def widen(weights: Weights, rank: int, seed: int) -> Weights:
    """Return an adapter of a higher rank that computes the same: its new rows meet zeros.

    The new rows of A are drawn as PEFT draws them, uniform within `1 / sqrt(width)`.

    Raises:
        ValueError: If its rank is as high already.
    """
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for name, tensor in weights.items():
        is_first = "lora_A" in name
        more = rank - tensor.shape[0 if is_first else 1]
        if more <= 0:
            raise ValueError(f"the rank must be above the adapter's, was: {rank}")
        if is_first:
            rows = torch.rand(more, tensor.shape[1], generator=generator) * 2 - 1
            new = torch.cat([tensor, (rows / math.sqrt(tensor.shape[1])).to(tensor.dtype)])
        else:
            new = torch.cat([tensor, tensor.new_zeros(tensor.shape[0], more)], 1)
        made[name] = new.contiguous()
    return made


def write(out: Path, like: Path, weights: Weights, rank: int | None = None) -> None:
    """Write an adapter; all but its weights and rank as in another folder.

    Raises:
        ValueError: If alpha is not the rank, so that another rank would scale what was learnt.
    """
    settings = json.loads((like / SETTINGS).read_text("utf-8"))
    if rank is not None and settings["lora_alpha"] != settings["r"]:
        raise ValueError(f"{like}: lora_alpha must be the rank, was: {settings['lora_alpha']}")
    shutil.copytree(like, out, ignore=shutil.ignore_patterns(CALIBRATION))
    save_file(weights, out / WEIGHTS, metadata={"format": "pt"})
    give_usual_rights(out / WEIGHTS)
    if rank is not None:
        settings["r"] = settings["lora_alpha"] = rank
        (out / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", "utf-8")


def main() -> int:
    """Run a command; what cannot be done is said in a line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("average")
    command.add_argument("out", type=Path)
    command.add_argument("parts", nargs="+", metavar="ADAPTER:WEIGHT")
    command = commands.add_parser("widen")
    command.add_argument("out", type=Path)
    command.add_argument("adapter", type=Path)
    command.add_argument("--rank", type=int, required=True)
    command.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    try:
        if args.out.exists():
            raise ValueError(f"{args.out} exists already")
        if args.command == "average":
            pairs = [part.rpartition(":") for part in args.parts]
            parts = {Path(path): float(weight) for path, _, weight in pairs}
            write(args.out, next(iter(parts)), average(parts))
        else:
            weights = widen(load_file(args.adapter / WEIGHTS), args.rank, args.seed)
            write(args.out, args.adapter, weights, args.rank)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
