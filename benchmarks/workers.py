"""Worker processes beside one process with as many threads: same texts, rounds in turn.

    python benchmarks/workers.py --workers 2 --chars 20000

Reads a run of news sentences as one long text, then the same sentences as texts of their own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch

import nomina
from nomina.corpora import read_corpus

LABELS = ["person", "organization", "location", "date"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="conll2003:dev")
    parser.add_argument("--chars", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    texts, size = [], 0
    for example in read_corpus(options.data).examples:
        if size >= options.chars:
            break
        texts.append(example.text)
        size += len(example.text) + 1
    jobs = {"one text": ["\n".join(texts)], "sentences": texts}
    taggers = {"threads": nomina.load(), "workers": nomina.load(num_workers=options.workers)}
    speed = {kind: {name: [] for name in taggers} for kind in jobs}
    found = {}
    for number in range(options.rounds + 1):  # the first warms up
        for kind, job in jobs.items():
            for name, tagger in taggers.items():
                began = time.perf_counter()
                documents = list(tagger.pipe(job, LABELS))
                seconds = time.perf_counter() - began
                found[kind, name] = [document.entities for document in documents]
                if number:
                    speed[kind][name].append(sum(map(len, job)) / seconds)
    report = {}
    for kind, by_name in speed.items():
        median = {name: statistics.median(speeds) for name, speeds in by_name.items()}
        places = [
            {(n, e.start, e.end, e.label) for n, es in enumerate(found[kind, name]) for e in es}
            for name in taggers
        ]
        report[kind] = {
            **{f"characters/s, {name}": round(value) for name, value in median.items()},
            "workers / threads": round(median["workers"] / median["threads"], 2),
            "entities, and those found by one only": [len(places[0]), len(places[0] ^ places[1])],
        }
    shown = {"data": options.data, "threads": torch.get_num_threads(), "workers": options.workers}
    print(json.dumps(shown | report, indent=2))


if __name__ == "__main__":
    main()
