"""Print the numbers of the README's tables, but for those named as measured once (40 minutes)."""

import os
import subprocess
import sys
from pathlib import Path

DATA = os.environ.get("NOMINA_DATA", "")
PREDICTIONS = f"{DATA}/gner_t5_base_predictions/dev700.jsonl.gz"
NOMINA = [sys.executable, "-m", "nomina.cli"]
COMMANDS = [
    [*NOMINA, "evaluate", "--metric", "gner,strict", "--no-errors", "--output", "runs/bench"],
    [*NOMINA, "score", PREDICTIONS, "--metric", "gner", "--no-errors"],
    [*NOMINA, "score", PREDICTIONS, "--metric", "gner", "--no-errors", "--alignment", "best"],
    [sys.executable, "benchmarks/decoding.py", "--generate", "1", "--batches", "4", "16"],
    [sys.executable, "benchmarks/decoding.py", "--generate", "1", "--sentences", "48"],
    [sys.executable, "benchmarks/workers.py", "--workers", "2"],
    [sys.executable, "benchmarks/corpora.py", "--offsets"],
]  # fmt: skip

if __name__ == "__main__":
    if not DATA:
        sys.exit("set NOMINA_DATA to the folder of the corpora")
    os.chdir(Path(__file__).parent.parent)
    for command in COMMANDS:
        print("$", " ".join(command), flush=True)
        subprocess.run(command, check=True)
