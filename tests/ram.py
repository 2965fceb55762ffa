"""How much RAM a program takes; volumes that are large only to look at."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np

from tests.conftest import environment


def peak_growth(program: str, *arguments: object, folder: Path | None = None) -> int:
    """MiB by which a program's peak memory grows after it has called ``begin()``.

    Args:
        program: Python, in which ``sys`` and ``Path`` are known.
        arguments: what it finds in ``sys.argv``.
        folder: where it runs.
    """
    # Not ru_maxrss: a process inherits that of the one that started it.
    frame = (
        "import re, sys\n"
        "from pathlib import Path\n"
        "status = Path('/proc/self/status')\n"
        "peak = lambda: int(re.search(r'VmHWM:\\s*(\\d+)', status.read_text())[1]) // 1024\n"
        "def begin():\n    global start; start = peak()\n"
        f"{program}\nprint(peak() - start)"
    )
    done = subprocess.run(
        [sys.executable, "-c", frame, *map(str, arguments)],
        capture_output=True, text=True, env=environment(), check=True, cwd=folder,
    )  # fmt: skip
    return int(done.stdout)


def sparse_nifti(path: Path, shape: tuple[int, int, int]) -> Path:
    """A volume of int16 zeros that takes hardly any room on the disk."""
    header = nib.nifti1.Nifti1Image(np.broadcast_to(np.uint8(0), shape), np.eye(4)).header
    header.set_data_dtype("int16")
    with path.open("wb") as file:
        header.write_to(file)
        file.truncate(352 + 2 * int(np.prod(shape)))
    return path
