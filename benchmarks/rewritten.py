"""What `nomina evaluate` says of dev sets that were written anew, as rows of one table."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path


def print_table(first, forms, write, options):
    """Print F1 and strict F1 of each form.

    Args:
        first: Head of the first column.
        forms: What to ask `nomina evaluate` for beside the files, by name of the form.
        write: Writes the files of a form into a folder and returns them.
        options: `model`; the default model if empty.
    """
    if not os.environ.get("NOMINA_DATA"):
        sys.exit("set NOMINA_DATA to the folder of the corpora")
    print(f"| {first} | F1 | | strict |\n|---|---|---|---|")
    for form, asked in forms.items():
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "nomina.cli", "evaluate", "--json", "--no-errors"]
            command += ["--metric", "gner,strict", "--output", f"{folder}/found", *asked]
            command += ["--model", options.model] if options.model else []
            for path in write(Path(folder), form):
                command += ["--data", path]
            done = subprocess.run(
                [str(x) for x in command], check=True, stdout=subprocess.PIPE, text=True
            )
        average = json.loads(done.stdout)["average"]
        f1, low, high = (100 * average["gner"][key] for key in ("f1", "low", "high"))
        strict = 100 * average["strict"]["f1"]
        print(f"| {form} | {f1:.1f} | {low:.1f} to {high:.1f} | {strict:.1f} |", flush=True)
