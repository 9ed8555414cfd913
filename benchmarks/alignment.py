"""Align 100,000 damaged completions; check each against a slow aligner, and time it all.

    PYTHONPATH=. python benchmarks/alignment.py [--size 100000] [--seed 0] [--no-check]

Sentences are drawn from `NOMINA_DATA` if it is set, else made up. Each completion is damaged the
way models damage them: words left out, doubled, looped, split, merged, misspelt, put in another
case, stripped of characters; labels outside the set; brackets lost or nested; cut off. For each:

- it must not crash, and give a tag a word with labels of the set only;
- its equal words must be as many, and as often neighbours, as in the best of all alignments, found
  by a table over all pairs (quadratic);
- where each written word came from is known, so tags on wrong words are counted for our aligner,
  for the table's and for the published one.

Prints one JSON line.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import sys
import time
from collections import Counter
from pathlib import Path

from nomina.alignment import _longest_by_lis, align, match_hierarchically
from nomina.completions import fold, read_pairs
from nomina.entities import LabelSet, tags_to_spans
from nomina.predictions import read_json_lines
from nomina.subsequences import longest_common_subsequence

Written = tuple[str, str, tuple[int, ...]]  # word, tag, indices of the source words it came from

SETS = ("crossner_ai", "crossner_politics", "mit_movie", "mit_restaurant", "wnut17")
MADE_UP = (
    "did george clooney and the other George make a musical ( in 1980s ) , at the New York 's bank "
    "of the river café { x } “ quoted ” Stanisław - Lem or not"
).split()


def sentences(size: int, rng: random.Random) -> list[tuple[list[str], list[str]]]:
    """Words and gold tags."""
    rows: list[tuple[list[str], list[str]]] = []
    if os.environ.get("NOMINA_DATA"):
        from nomina.corpora import read_corpus

        for name in SETS:
            for example in read_corpus(f"{name}:dev").examples:
                if len(example.words) <= 30:
                    rows.append((example.words, example.tags))
    for _ in range(500):
        words = [rng.choice(MADE_UP) for _ in range(rng.randint(1, 20))]
        tags = [rng.choice(["O", "O", "O", "B-actor", "I-actor", "B-year"]) for _ in words]
        rows.append((words, tags))
    return [rng.choice(rows) for _ in range(size)]


def damage(words: list[str], tags: list[str], rng: random.Random) -> list[Written]:
    """Damage a perfect completion; return its words with their tags and origins."""
    written: list[Written] = [
        (w, t, (k,)) for k, (w, t) in enumerate(zip(words, tags, strict=True))
    ]
    for _ in range(rng.choice((0, 1, 1, 2, 3, 5))):
        if not written:
            break
        k = rng.randrange(len(written))
        word, tag, origin = written[k]
        kind = rng.randrange(12)
        if kind == 0:
            del written[k]
        elif kind == 1:
            written.insert(k, written[k])
        elif kind == 2:
            written[k] = (word.swapcase(), tag, origin)
        elif kind == 3 and len(word) > 3:
            cut = rng.randint(1, len(word) - 1)
            rest = tag if tag == "O" else "I-" + tag[2:]
            written[k : k + 1] = [(word[:cut], tag, origin), (word[cut:], rest, origin)]
        elif kind == 4 and k + 1 < len(written):
            written[k : k + 2] = [(word + written[k + 1][0], tag, origin + written[k + 1][2])]
        elif kind == 5:
            written[k] = (word, "B-no such label", origin)
        elif kind == 6:
            written = written[:k]
        elif kind == 7 and rng.random() < 0.1:
            written[k:k] = [written[k]] * rng.choice((5, 50, 300))
        elif kind == 8 and len(word) > 3:
            cut = rng.randrange(len(word))
            written[k] = (word[:cut] + word[cut + 1 :], tag, origin)
        elif kind == 9:
            written[k] = ("".join(c for c in word if c.isascii() and c not in "{}"), tag, origin)
        elif kind == 10:
            written.insert(k, (rng.choice(words), "O", ()))
        else:
            written[k] = (rng.choice(("foo", "“", "the")), tag, origin)
    return written


def spoil(text: str, rng: random.Random) -> str:
    """Put a stray sign into a completion."""
    k = rng.randrange(len(text))
    return text[:k] + rng.choice(("", "(", ")", "[", "]", "(O", "((", "\\", "\n")) + text[k:]


def best_by_table(a: list[str], b: list[str]) -> tuple[int, int, list[tuple[int, int]]]:
    """Most equal words, then most neighbours, over all alignments; and one such alignment."""
    unit = 10_000
    best = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    ending: dict[tuple[int, int], int] = {}
    for i, x in enumerate(a):
        row, above = best[i + 1], best[i]
        for j, y in enumerate(b):
            value = above[j + 1] if above[j + 1] >= row[j] else row[j]
            if x == y:
                here = above[j] + unit
                before = ending.get((i - 1, j - 1))
                if before is not None and before + unit + 1 > here:
                    here = before + unit + 1
                ending[i, j] = here
                value = max(value, here)
            row[j + 1] = value
    i, j, want = len(a), len(b), best[-1][-1]
    pairs: list[tuple[int, int]] = []
    while want > 0:
        if ending.get((i - 1, j - 1)) == want:
            pairs.append((i - 1, j - 1))
            before = ending.get((i - 2, j - 2), -1)
            is_run = before >= 0 and before + unit + 1 == want
            want = before if is_run else want - unit
            i, j = i - 1, j - 1
            if not is_run:
                continue
        elif best[i - 1][j] == want:
            i -= 1
        else:
            j -= 1
    total = best[-1][-1]
    return total // unit, total % unit, pairs[::-1]


def neighbours(pairs: list[tuple[int, int]]) -> int:
    return sum(a[0] + 1 == b[0] and a[1] + 1 == b[1] for a, b in itertools.pairwise(pairs))


def num_wrong(matched: list[int], written: list[Written]) -> int:
    """Source words that took a tag of an entity from a written word of another origin."""
    return sum(
        j >= 0 and written[j][1] != "O" and i not in written[j][2] for i, j in enumerate(matched)
    )


def num_right(matched: list[int], written: list[Written]) -> int:
    return sum(
        j >= 0 and written[j][1] != "O" and i in written[j][2] for i, j in enumerate(matched)
    )


def fuzz(size: int, seed: int, is_checked: bool) -> dict[str, object]:
    rng = random.Random(seed)
    counts: Counter[str] = Counter()
    seconds, slowest = 0.0, 0.0
    for words, tags in sentences(size, rng):
        names = sorted({tag[2:] for tag in tags if tag != "O"} | {"actor", "a (b)"})
        labels = LabelSet.of(names)
        written = damage(words, tags, rng)
        text = " ".join(f"{word}({tag})" for word, tag, _ in written)
        if text and rng.random() < 0.1:
            written, text = [], spoil(text, rng)
        start = time.perf_counter()
        have = align(words, text, labels=labels)
        spent = time.perf_counter() - start
        seconds, slowest = seconds + spent, max(slowest, spent)
        counts[have.status.value] += 1
        counts["unaligned"] += have.num_unaligned
        counts["words"] += len(words)
        counts["malformed"] += len(have.tags) != len(words)
        counts["labels outside the set"] += any(
            span.label not in names for span in tags_to_spans(have.tags)
        )
        if not is_checked or not written:
            continue
        plain = [(word, tag) for word, tag in read_pairs(text, words=words, labels=labels)]
        if [word for word, _ in plain] != [word for word, *_ in written]:
            counts["read otherwise"] += 1  # an inserted word looked like a tag
            continue
        source, target = [fold(word) for word in words], [fold(word) for word, *_ in written]
        target = [word or f"\0{k}" for k, word in enumerate(target)]
        equal = [(i, j) for i, j in enumerate(have.sources) if j >= 0 and source[i] == target[j]]
        num_equal, num_neighbours, pairs = best_by_table(source, target)
        counts["checked"] += 1
        counts["fewer equal words"] += len(equal) < num_equal
        counts["fewer neighbours"] += len(equal) == num_equal and neighbours(equal) < num_neighbours
        slow = [-1] * len(words)
        for i, j in pairs:
            slow[i] = j
        published, _ = match_hierarchically(words, [word for word, *_ in written], None, text)
        shifted = [k for k, (word, *_) in enumerate(written) if word]
        if len(shifted) != len(written):
            published, _ = match_hierarchically(words, [written[k][0] for k in shifted], None, text)
            published = [shifted[k] if k >= 0 else -1 for k in published]
        for name, matched in (("ours", have.sources), ("table", slow), ("published", published)):
            counts[f"right, {name}"] += num_right(matched, written)
            counts[f"wrong, {name}"] += num_wrong(matched, written)
        only_equal = [
            j if j >= 0 and source[i] == target[j] else -1 for i, j in enumerate(have.sources)
        ]
        counts["worse than the table"] += num_wrong(only_equal, written) > num_wrong(slow, written)
        counts["better than the table"] += num_wrong(only_equal, written) < num_wrong(slow, written)
    return {
        "completions": size,
        "seconds": round(seconds, 2),
        "slowest_ms": round(1000 * slowest, 2),
        **dict(sorted(counts.items())),
    }


def repeats() -> dict[str, float]:
    """Milliseconds for lists of equal words, the best of five."""
    cases = {
        "5000 x against 5000 x": (["x"] * 5000, ["x"] * 5000),
        "5000 x against 4999 x": (["x"] * 5000, ["x"] * 4999),
        "5000 x against 4999 x and y": (["x"] * 5000, ["x"] * 2500 + ["y"] + ["x"] * 2499),
        "300 abc against 5000 abc": (["a", "b", "c"] * 100, ["a", "b", "c"] * 1667),
    }
    out = {}
    for name, (a, b) in cases.items():
        times = []
        for _ in range(5):
            start = time.perf_counter()
            longest_common_subsequence(a, b)
            times.append(time.perf_counter() - start)
        out[name] = round(1000 * min(times), 2)
    return out


def against_lis() -> dict[str, float]:
    """Milliseconds for the 700 real completions of GNER-T5-base: ours and the plain LIS method."""
    path = Path(os.environ.get("NOMINA_DATA", "")) / "gner_t5_base_predictions/dev700.jsonl.gz"
    if not path.is_file():
        return {}
    pairs = []
    for _, row in read_json_lines(path):
        words = [fold(word) for word in row["instance"]["words"]]
        pairs.append((words, [fold(word) for word, _ in read_pairs(row["prediction"])]))
    out = {}
    for name, match in (("ours", longest_common_subsequence), ("lis", _longest_by_lis)):
        times = []
        for _ in range(5):
            start = time.perf_counter()
            for a, b in pairs:
                match(a, b)
            times.append(time.perf_counter() - start)
        out[name] = round(1000 * min(times), 2)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-check", action="store_true")
    args = parser.parse_args()
    print(
        json.dumps(
            {
                "benchmark": "alignment",
                "python": sys.version.split()[0],
                "fuzz": fuzz(args.size, args.seed, not args.no_check),
                "repeats_ms": repeats(),
                "real_completions_ms": against_lis(),
            }
        )
    )


if __name__ == "__main__":
    main()
