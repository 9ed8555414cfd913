"""What torch's libraries read from the environment is said before, and only then."""

import os
import subprocess
import sys

import pytest

from nomina.environment import NUM_KERNELS, SPIN_COUNT, keep_few_kernels


@pytest.mark.parametrize(
    ("before", "environment", "want"),
    [
        ("", {}, SPIN_COUNT),
        ("import torch", {}, "None"),  # too late
        ("", {"GOMP_SPINCOUNT": "7"}, "7"),
        ("", {"OMP_WAIT_POLICY": "active"}, "None"),
    ],
)
def test_the_user_has_the_last_word(before, environment, want):
    code = f"{before}\nimport nomina, os; print(os.environ.get('GOMP_SPINCOUNT'))"
    names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    rest = {name: value for name, value in os.environ.items() if name not in names}
    out = subprocess.run(
        [sys.executable, "-c", code],
        env={**rest, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    assert out.stdout.strip() == want


def test_few_kernels_are_kept_unless_the_user_wants_more(monkeypatch):
    names = "LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
    monkeypatch.delenv(names[0], raising=False)
    monkeypatch.setenv(names[1], "1024")
    keep_few_kernels()
    assert [os.environ[name] for name in names] == [NUM_KERNELS, "1024"]
