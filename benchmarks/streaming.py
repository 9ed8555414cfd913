"""Measure what `nomina extract` itself costs: memory and time with a tagger that reads nothing.

    python benchmarks/streaming.py                 files of 1, 10 and 100 MB
    python benchmarks/streaming.py --sizes 10      megabytes

Each case is a process of its own, so that its peak memory is its own. The tagger cuts every text
into words and windows and finds nothing, so that all that is left is reading, cutting and writing.
What a model adds is bounded by `EngineConfig`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

SENTENCE = "Mette Holm founded Acme GmbH in Aarhus, 東京 and São Paulo on 3 March 2011. "
CASES = (
    "json lines",
    "one plain text",
    "one line of text",
    "one line of JSON",
    "binary",
    "latin-1",
)


class Reader:
    """A tagger that reads but finds nothing, behind the face that the command needs."""

    engine = SimpleNamespace(usage=SimpleNamespace(requests=0))  # for the progress bar

    def pipe(self, texts: Iterable[str], labels: object, **_: Any) -> Iterator[Any]:
        """Cut each text as the real one does; yield documents without entities."""
        from nomina.chunking import split_text
        from nomina.documents import Document
        from nomina.entities import split_words

        for text in texts:
            offsets = split_words(text)
            split_text(text, offsets, 200, 30)
            yield Document(text)


def write_case(case: str, path: Path, num_bytes: int) -> None:
    with path.open("wb") as file:
        if case == "json lines":
            number = 0
            while file.tell() < num_bytes:
                number += 1
                file.write(json.dumps({"id": number, "text": SENTENCE * 8}).encode() + b"\n")
            return
        if case == "binary":
            # in pieces: a child starts with the memory of its parent
            for _ in range(num_bytes // 10**6):
                file.write(os.urandom(10**6))
            return
        unit = SENTENCE * 50
        if case == "one line of JSON":
            file.write(b'{"text": "')
        piece = unit.encode() if case != "one plain text" else (unit + "\n\n").encode()
        if case == "latin-1":
            piece = "Mette Holm founded Café Ångström in Århus.\n".encode("latin-1") * 90
        while file.tell() < num_bytes:
            file.write(piece)
        if case == "one line of JSON":
            file.write(b'"}\n')


def measure(path: str) -> None:
    """Run the command in this process and print what it took, as JSON."""
    import nomina
    from nomina.cli import app

    nomina.load = lambda *_, **__: Reader()  # type: ignore[assignment, return-value]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    start = time.process_time()
    code, message = 0, ""
    out, err = os.dup(1), tempfile.TemporaryFile()
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 1)
        os.dup2(err.fileno(), 2)
        try:
            app(["extract", "--labels", "person,city", "--file", path, "--output", "jsonl"])
        except SystemExit as end:
            code = int(end.code or 0)
        sys.stdout.flush()
    err.seek(0)
    message = err.read().decode().replace("\n", " ")[:160]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    row = {"code": code, "seconds": time.process_time() - start, "before": before, "peak": peak}
    os.write(out, json.dumps({**row, "message": message.replace(path, "FILE")}).encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 10, 100])
    parser.add_argument("--cases", nargs="+", default=list(CASES))
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(args.measure)
        return
    print(
        "| file | MB | exit | MB/s | memory before, most (MB) | said |\n|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "case"
        for case in args.cases:
            for size in args.sizes:
                write_case(case, path, size * 10**6)
                command = [sys.executable, __file__, "--measure", str(path)]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if not done.stdout:
                    print(f"| {case} | {size} | {done.returncode} | | | {done.stderr[-200:]!r} |")
                    continue
                row = json.loads(done.stdout)
                speed = size / max(row["seconds"], 1e-9)
                print(
                    f"| {case} | {size} | {row['code']} | {speed:.1f} | {row['before']:.0f}, "
                    f"{row['peak']:.0f} | {row['message']} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
