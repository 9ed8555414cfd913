"""What a call costs on a free machine and beside a busy process, by how torch's threads wait.

Each figure is of a process of its own: median seconds of nine calls on three sentences, and of a
sentence when eighteen are read together. The busy process is a loop that does nothing else.

    python benchmarks/busy.py --spins 1000 300000     # the second is about libgomp's own
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

TEXTS = [
    "did george clooney make a musical in 1999",
    "The contract between Acme GmbH and Borealis Ltd. is governed by the laws of Norway.",
    "Marie Curie won the Nobel Prize in Physics in 1903 with Pierre Curie in Stockholm.",
]
LABELS = ["person", "date", "company", "country", "award"]


def measure():
    import nomina

    tagger = nomina.load()
    list(tagger.pipe(TEXTS, LABELS))
    seconds = []
    for text in TEXTS * 3:
        began = time.perf_counter()
        tagger(text, LABELS)
        seconds.append(time.perf_counter() - began)
    began = time.perf_counter()
    list(tagger.pipe(TEXTS * 6, LABELS))
    together = (time.perf_counter() - began) / (6 * len(TEXTS))
    print(json.dumps([statistics.median(seconds), together]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--spins", nargs="+", default=["1000", "300000"], help="GOMP_SPINCOUNT")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=int, default=120, help="seconds for one process")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        return measure()
    found = {}
    for _ in range(options.rounds):
        for is_busy in (False, True):
            for spins in options.spins:
                busy = [sys.executable, "-c", "while True: pass" if is_busy else ""]
                other = subprocess.Popen(busy)
                command = [sys.executable, __file__, "--measure"]
                environment = {**os.environ, "GOMP_SPINCOUNT": spins}
                try:
                    out = subprocess.run(command, env=environment, capture_output=True, text=True,
                                         check=True, timeout=options.limit).stdout  # fmt: skip
                    values = json.loads(out)
                except subprocess.TimeoutExpired:
                    values = [float("inf")] * 2
                finally:
                    other.kill()
                    other.wait()
                found.setdefault((spins, "busy" if is_busy else "free"), []).append(values)
    for (spins, state), rows in found.items():
        call, together = (statistics.median(column) for column in zip(*rows, strict=True))
        print(json.dumps({"spins": spins, "machine": state, "ms a call": round(1000 * call, 1),
                          "ms a sentence, read together": round(1000 * together, 1)}
                         if call < float("inf") else
                         {"spins": spins, "machine": state,
                          "not done": f"after {options.limit} s"}))  # fmt: skip


if __name__ == "__main__":
    main()
