"""Triton's kernels are compiled for GPUs that are not here."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

pytest.importorskip("triton")


def test_kernels_compile_to_machine_code() -> None:
    """The interpreter takes what the compiler may not; scripts/check_kernels compiles them all."""
    few = ["--capability", "80", "--bits", "0.5", "--dtypes", "bfloat16", "--shapes", "1"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "scripts/check_kernels", *few],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "10 compiled, 0 of them spill" in done.stdout
