"""Draw F1 against the tokens that models were trained on; nothing is run again.

The figures are those of docs/log.md, collected in docs/images/tokens.csv. From one shipped adapter
to the next the data changed, too, so their curve shows tokens and data together. The runs of one
recipe (benchmarks/ablations.py with more and more steps, and `make model`) show tokens alone.

    python benchmarks/tokens.py
"""

import argparse
import csv
import itertools
import math
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "docs" / "images"
STYLES = {"one recipe": "C2^-", "shipped, 100 sentences": "C0o-", "shipped, full dev": "C1s-"}


def fit(points):
    """Slope and intercept of F1 over log10(tokens), by least squares."""
    xs, ys = [math.log10(x) for x, _ in points], [y for _, y in points]
    mx, my = sum(xs) / len(xs), sum(ys) / len(ys)
    slope = sum((x - mx) * (y - my) for x, y in zip(xs, ys, strict=True))
    slope /= sum((x - mx) ** 2 for x in xs)
    return slope, my - slope * mx


def main():
    argparse.ArgumentParser(description=__doc__.split("\n")[0]).parse_args()
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with (FOLDER / "tokens.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    figure, axes = pyplot.subplots(figsize=(6, 4))
    for column, style in STYLES.items():
        named = [(row["model"], float(row["tokens"]) / 1e6, row[column]) for row in rows]
        named = [(name, x, float(y)) for name, x, y in named if y]
        points = [(x, y) for _, x, y in named]
        axes.plot(*zip(*points, strict=True), style, label=column)
        print(f"{column}: {fit(points)[0]:.1f} F1 for ten times the tokens")
        for (x1, y1), (x2, y2) in itertools.pairwise(points):
            gain = (y2 - y1) / math.log10(x2 / x1)
            print(f"  {x1:6.2f} M to {x2:5.2f} M: {gain:4.1f} for ten times")
        for name, x, y in named if column != "shipped, full dev" else named[-1:]:
            above = column == "one recipe"
            axes.annotate(name, (x, y), xytext=(-3, 6) if above else (3, -12), fontsize=8,
                          textcoords="offset points", ha="right" if above else "left")  # fmt: skip
    axes.set_xscale("log")
    ticks = [0.2, 0.5, 1, 2, 5, 10, 20]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks], minor=False)
    axes.set_xticks([], minor=True)
    axes.set_xlim(left=0.1)
    axes.set_xlabel("tokens trained on, millions")
    axes.set_ylabel("zero-shot F1 on dev, seven sets")
    axes.grid(alpha=0.3, which="both")
    axes.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(FOLDER / "tokens.png", dpi=150)


if __name__ == "__main__":
    main()
