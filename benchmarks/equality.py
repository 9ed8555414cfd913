"""Whether the engine chooses what the plain decoder chooses, on many sentences of real corpora.

The engine's completion is read once by the model as transformers has it (no packing, no store of
keys, no drafts), and at every choice the likeliest of the allowed ids is looked up. If it is the
engine's own choice everywhere, then the plain decoder, which takes the likeliest id step by step,
takes the same path: up to any step both have written the same. In float32 that must hold for all
sentences; in bfloat16 near-ties may fall otherwise, and it says how often. A killed run goes on
where it was: results are kept in `--output` as JSON lines.

    NOMINA_DATA=... python benchmarks/equality.py --sentences 1000 --dtype float32
"""

import argparse
import json
from pathlib import Path

import torch
from decoding import build

import nomina
from nomina.corpora import read_corpus
from nomina.engine import Engine, choose
from nomina.models import load_model
from nomina.protocols import ZERO_SHOT_SETS


@torch.inference_mode()
def differences(model, request, path):
    """Whether a plain reading parts from a path, and how far its scores are till then."""
    ids = [*request.prefix_ids, *request.sentence_ids]
    places = []
    for fork, choice, _ in path:
        ids += fork.forced
        places.append(len(ids) - 1)
        ids.append(fork.allowed[choice])
    hidden = model.hidden(torch.tensor([ids]))[0, places]
    chosen, log_probs = choose(model, hidden, [fork for fork, _, _ in path])
    worst = 0.0
    for (_, choice, mine), other, its in zip(path, chosen, log_probs, strict=True):
        if choice != other:
            return 1, worst
        worst = max(worst, abs(mine - its))
    return 0, worst


def summary(rows):
    differ = [row for row in rows if row["differ"]]
    choices = sum(row["choices"] for row in rows)
    return {
        "sentences": len(rows),
        "equal": len(rows) - len(differ),
        "choices": choices,
        "choices where they part, of 10,000": round(1e4 * len(differ) / max(choices, 1), 2),
        "greatest distance of log probabilities": max((row["distance"] for row in rows), default=0),
        "where they part": [(row["set"], row["number"]) for row in differ][:20],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sentences", type=int, default=1000, help="over all seven sets")
    parser.add_argument("--sets", nargs="+", default=list(ZERO_SHOT_SETS))
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--model", default=None)
    parser.add_argument("--output", type=Path, default=Path("runs/equality"))
    options = parser.parse_args()
    model = nomina.load(options.model, dtype=options.dtype).model
    plain = load_model(options.model, getattr(torch, options.dtype))
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / f"{options.dtype}-{options.sentences}.jsonl"
    rows = [json.loads(line) for line in path.open()] if path.exists() else []
    done = {(row["set"], row["number"]) for row in rows}
    share = -(-options.sentences // len(options.sets))
    with path.open("a") as file:
        for start in range(0, share, 8):  # a few of each set in turn
            for name in options.sets:
                numbers = range(start, min(start + 8, share))
                if all((name, number) in done for number in numbers):
                    continue
                requests = build(model, read_corpus(f"{name}:dev"), share)[start : start + 8]
                paths = Engine(model).decode(requests)
                for number, request, found in zip(numbers, requests, paths, strict=True):
                    differ, distance = differences(plain, request, found)
                    row = {"set": name, "number": number, "choices": len(found),
                           "differ": differ, "distance": distance}  # fmt: skip
                    rows.append(row)
                    file.write(json.dumps(row) + "\n")
                    file.flush()
    print(json.dumps({"dtype": options.dtype, **summary(rows)}, indent=2))


if __name__ == "__main__":
    main()
