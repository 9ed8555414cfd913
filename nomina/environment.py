"""What comes from the environment: how torch's threads wait, who may read what is written.

What torch's libraries read is said before torch is loaded.

Between two parallel loops libgomp's threads spin for up to a millisecond. If anything else runs on
one of the cores, the thread that others wait for stands in line behind it, and they spin away whole
time slices: a call of a tenth of a second took more than five seconds beside one busy process.
Threads that spin a little and then sleep lose a tenth on a free machine and nothing like that on a
busy one (`benchmarks/busy.py`). It is what libgomp itself does when it has more threads than cores.

oneDNN writes code for every shape that it meets and keeps that of 1,024, twice: its own and
torch's. Readings of sentences have ever new shapes, and what is kept grows to gigabytes. Those that
come again (`nomina.kernels` sees to it that there are such) are a few hundred.

Knows environment variables and the umask; nothing of models.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

SPIN_COUNT = "1000"


def wait_briefly() -> bool:
    """Let the threads of libgomp sleep soon when they wait; return whether that was still possible.

    What the user says with `GOMP_SPINCOUNT` or `OMP_WAIT_POLICY` stands. libgomp reads them when it
    is loaded, so with torch imported before it is too late.
    """
    if "torch" in sys.modules or {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        return False
    os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT
    return True


NUM_KERNELS = "256"


def keep_few_kernels() -> None:
    """Bound what oneDNN and torch keep of code for shapes; what the user says stands."""
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(name, NUM_KERNELS)


def give_usual_rights(*paths: Path) -> None:
    """Let those read files and folders whom the umask lets read new ones.

    `tempfile` and safetensors (from 0.8) write what only their owner may read: a model trained by
    one user could not be served by another.
    """
    mask = os.umask(0)
    os.umask(mask)
    for path in paths:
        path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)
