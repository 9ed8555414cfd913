"""Draw F1 against the tokens that each shipped adapter was trained on; nothing is run again.

The figures are those of docs/log.md, collected in docs/images/tokens.csv. The data changed from one
adapter to the next, so the curve shows tokens and data together.

    python benchmarks/tokens.py
"""

import argparse
import csv
import math
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "docs" / "images"


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
    for column, style in (("100 sentences", "C0o-"), ("full dev", "C1s-")):
        points = [(float(row["tokens"]) / 1e6, float(row[column])) for row in rows if row[column]]
        axes.plot(*zip(*points, strict=True), style, label=column)
        if column == "100 sentences":  # the other has too few points
            slope, start = fit(points)
            ends = [points[0][0], 3 * points[-1][0]]
            axes.plot(ends, [slope * math.log10(x) + start for x in ends], ":k")
            print(f"{slope:.1f} F1 for ten times the tokens, data and tokens together")
    for row in rows:
        height = float(row["100 sentences"] or row["full dev"])
        axes.annotate(row["adapter"], (float(row["tokens"]) / 1e6, height),
                      xytext=(4, -12), textcoords="offset points", fontsize=8)  # fmt: skip
    axes.set_xscale("log")
    axes.set_xticks([2, 5, 10, 20, 50], ["2", "5", "10", "20", "50"], minor=False)
    axes.set_xticks([], minor=True)
    axes.set_xlabel("tokens trained on, millions")
    axes.set_ylabel("zero-shot F1 on dev, seven sets")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    figure.tight_layout()
    figure.savefig(FOLDER / "tokens.png", dpi=150)


if __name__ == "__main__":
    main()
