"""What torch's libraries read from the environment, said before torch is loaded.

Between two parallel loops libgomp's threads spin for up to a millisecond. If anything else runs on
one of the cores, the thread that others wait for stands in line behind it, and they spin away whole
time slices: a call of a tenth of a second took more than five seconds beside one busy process.
Threads that spin a little and then sleep lose a tenth on a free machine and nothing like that on a
busy one (`benchmarks/busy.py`). It is what libgomp itself does when it has more threads than cores.

oneDNN writes code for every shape that it meets and keeps that of 1,024, twice: its own and
torch's. Readings of sentences have ever new shapes, and what is kept grows to gigabytes. Those that
come again (`nomina.kernels` sees to it that there are such) are a few hundred.

Knows environment variables; nothing of models.
"""

from __future__ import annotations

import os
import sys

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
