"""What several test files share: small real datasets, and the command line in a process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    # Triton, which looks at this when it is imported, then runs kernels on the CPU.
    os.environ["TRITON_INTERPRET"] = "1"

from seg3d.data.cohort import write_cohort

ROOT = Path(__file__).parent.parent

Cli = Callable[..., subprocess.CompletedProcess[str]]


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "seg3d", *map(str, arguments)]


def environment() -> dict[str, str]:
    """One thread, so that tests that share the machine compute alike."""
    return os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole runs of the command line, which take longest, come first: no process ends alone."""
    items.sort(key=lambda item: "test_end_to_end" not in item.nodeid)


@pytest.fixture(scope="session")
def cli() -> Cli:
    """Run ``seg3d ARGUMENTS`` and give back what it printed and its exit status."""

    def run(*arguments: object, status: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command(*arguments), capture_output=True, text=True, env=environment(), timeout=300
        )
        assert done.returncode == status, f"{done.args}\n{done.stdout}\n{done.stderr}"
        return done

    return run


@pytest.fixture(scope="session")
def brain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three synthetic subjects and the held-out template, in MSD layout."""
    folder = tmp_path_factory.mktemp("brain") / "cohort"
    write_cohort(ROOT / "data" / "brain", folder, subjects=3, seed=5)
    return folder
