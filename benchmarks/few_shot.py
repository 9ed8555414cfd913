r"""How F1 grows with labelled sentences: fine-tune on n of a set, score on its dev split.

Drives `nomina train` and `nomina evaluate`; what is done already is not done again, so a killed run
goes on. Prints a table and draws a picture.

    NOMINA_DATA=... python benchmarks/few_shot.py                      # 5 CrossNER sets, hours
    NOMINA_DATA=... python benchmarks/few_shot.py --sets crossner_ai --shots 50 --seeds 0 --limit 50
    NOMINA_DATA=... python benchmarks/few_shot.py --sets contract_ner ncbi_disease wnut17 \
        stackoverflow --shots 1000 --seeds 0 --steps 600               # supervised
"""

import argparse
import json
import os
import random
import re
import statistics
import subprocess
import sys
from pathlib import Path

from nomina.corpora import read_corpus, write_examples
from nomina.labels import write_labels
from nomina.protocols import PROTOCOLS, ZERO_SHOT_SETS, drop_labels

NOMINA = [sys.executable, "-m", "nomina.cli"]
PROTOCOL = PROTOCOLS["zero-shot"]


def draw(name, shots, seed, folder):
    """Write n sentences of a train split, and its label set, without what the protocol drops."""
    corpus = read_corpus(f"{name}:train")
    examples, labels = drop_labels(corpus.examples, corpus.labels, PROTOCOL.dropped_labels(name))
    chosen = random.Random(seed).sample(range(len(examples)), min(shots, len(examples)))
    folder.mkdir(parents=True, exist_ok=True)
    write_examples([examples[k] for k in sorted(chosen)], folder / "train.jsonl", "tokens")
    write_labels(labels, folder / "labels.json")


def run(command):
    print("$", " ".join(map(str, command)), file=sys.stderr, flush=True)
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def score(name, shots, seed, options):
    """F1 of a set, by metric, and the minutes that training took; from the disk if it is there."""
    parts = [f"{shots}-{seed}" if shots else "0"]
    parts += [f"{options.steps}steps"] if shots and options.steps else []
    parts += [options.model.strip("/").replace("/", "_")] if options.model != "default" else []
    folder = options.output / name / "-".join(parts)
    done = folder / f"result-{options.limit or 'all'}.json"
    if done.is_file():
        return json.loads(done.read_text())
    folder.mkdir(parents=True, exist_ok=True)
    model, minutes = options.model, 0.0
    if shots:
        draw(name, shots, seed, folder)
        adapter = folder / "adapter"
        arguments = ["--data", folder / "train.jsonl", "--labels-file", folder / "labels.json"]
        arguments += ["--output", adapter, "--model", model, "--seed", str(seed)]
        if options.steps:
            arguments += ["--steps", str(options.steps)]
        if not (adapter / "nomina.json").is_file():
            run([*NOMINA, "train", *arguments])
        card = (adapter / "README.md").read_text()  # counts attempts that were killed, too
        model, minutes = str(adapter), float(re.search(r"\| time \| ([\d.]+) min", card)[1])
    arguments = ["--model", model, "--data", f"{name}:dev", "--metric", "gner,strict"]
    if options.limit:
        arguments += ["--limit", str(options.limit)]
    found = json.loads(run([*NOMINA, "evaluate", *arguments, "--json", "--no-errors",
                            "--output", folder / "evaluation"]))  # fmt: skip
    result = {"minutes": round(minutes, 1)}
    for metric in ("gner", "strict"):
        result[metric] = 100 * found["average"][metric]["f1"]
    done.write_text(json.dumps(result) + "\n")
    return result


def table(results, options):
    """Rows of mean and spread over the seeds, one a set, and the average."""
    shots = [0, *options.shots]
    heads = [f"{n} sentences" if n else "zero-shot" for n in shots]
    rows = [["set", *heads], ["---"] * (len(shots) + 1)]
    means = {n: [] for n in shots}
    for name in options.sets:
        row = [name]
        for n in shots:
            values = [x[options.metric] for x in results[name, n]]
            means[n].append(statistics.mean(values))
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            row.append(f"{means[n][-1]:.1f}{spread}")
        rows.append(row)
    rows.append(["**average**", *(f"**{statistics.mean(means[n]):.1f}**" for n in shots)])
    minutes = [x["minutes"] for key, items in results.items() for x in items if key[1]]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.append(
        f"\ntraining: {statistics.mean(minutes):.1f} minutes on average" if minutes else ""
    )
    return "\n".join(lines), means


def draw_curve(results, means, options):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7.5, 4))
    shots = [0, *options.shots]
    for name in options.sets:
        ys = [statistics.mean(x[options.metric] for x in results[name, n]) for n in shots]
        (line,) = axes.plot(shots, ys, marker="o", label=name)
        for n in shots:  # every draw
            found = [x[options.metric] for x in results[name, n]]
            axes.plot([n] * len(found), found, ".", color=line.get_color(), alpha=0.5)
    if len(options.sets) > 1:
        axes.plot(shots, [statistics.mean(means[n]) for n in shots], "k-o", label="average")
    axes.set_xlabel("sentences to train on")
    axes.set_ylabel(f"F1 on dev ({options.metric})")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.02, 0.5))
    figure.tight_layout()
    path = options.output / "few_shot.png"
    figure.savefig(path, dpi=150)
    return path


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    sets = [name for name in ZERO_SHOT_SETS if name.startswith("crossner")]
    parser.add_argument("--sets", nargs="+", default=sets)
    parser.add_argument("--shots", nargs="+", type=int, default=[10, 50, 100])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--model", default="default", help="what to start from")
    parser.add_argument("--steps", type=int, default=0, help="of each training; nomina's own if 0")
    parser.add_argument("--limit", type=int, default=100, help="dev sentences; 0 for all")
    parser.add_argument("--metric", default="gner", choices=["gner", "strict"])
    parser.add_argument("--output", type=Path, default=Path("runs/few-shot"))
    options = parser.parse_args()
    if not os.environ.get("NOMINA_DATA"):
        sys.exit("set NOMINA_DATA to the folder of the corpora")
    results = {}
    for name in options.sets:
        for shots in [0, *options.shots]:
            seeds = options.seeds if shots else [0]
            results[name, shots] = [score(name, shots, seed, options) for seed in seeds]
    text, means = table(results, options)
    print(text)
    print(f"\ndrawn: {draw_curve(results, means, options)}")


if __name__ == "__main__":
    main()
