"""Predictions of nnU-Net beside seg3d's, by the same models."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np

from seg3d.benchmarks.tables import print_table
from seg3d.common.sizes import GIB
from seg3d.geometry import Grid
from seg3d.io import Header, read_volume, write_volume

# Seconds between two looks at the memory.
PACE = 0.05
MANY = "many"


class Taken(NamedTuple):
    """What a command took, with all processes that it started.

    Attributes:
        peak: bytes of RAM; what processes share counts once.
        seconds: on the clock.
    """

    peak: int
    seconds: float


def compare(python: Path, maker: Path, models: Path, edge: int, memory: str) -> dict[str, Any]:
    """Print and return agreement, peaks and times.

    Args:
        python: of the environment with nnU-Net.
        maker: the script that makes models there.
        models: folder of models and scans that it has made.
        edge: of the large volume, voxels; 0 for none.
        memory: ``--memory`` for the large volume.
    """
    rows = []
    with tempfile.TemporaryDirectory(prefix="seg3d_") as name:
        folder = Path(name)
        for model in sorted(path for path in models.iterdir() if (path / "model").is_dir()):
            for mirrored in (True, False):
                rows.append(_row(python, model, folder, mirrored))
        if edge:
            subprocess.run([python, maker, "--into", folder, MANY], check=True)
            _enlarge(folder / MANY / "scans", edge)
            rows.append(_row(python, folder / MANY, folder, False, memory))
    print_table(
        "labels of nnU-Net and of seg3d",
        ("model", "mirrored", "voxels", "agreement", "least Dice", "peak, GiB", "nnU-Net's",
         "seconds", "nnU-Net's"),
        [
            (
                row["model"],
                "yes" if row["mirrored"] else "no",
                "×".join(map(str, row["shape"])),
                f"{100 * row['agreement']:.3f} %",
                f"{row['least_dice']:.5f}",
                f"{row['peak_gib']:.2f}",
                f"{row['nnunet_peak_gib']:.2f}",
                f"{row['seconds']:.1f}",
                f"{row['nnunet_seconds']:.1f}",
            )
            for row in rows
        ],
    )  # fmt: skip
    return {"rows": rows}


def _row(
    python: Path, model: Path, folder: Path, mirrored: bool, memory: str | None = None
) -> dict[str, Any]:
    ours, theirs = folder / "ours", folder / "theirs"
    for one in (ours, theirs):
        shutil.rmtree(one, ignore_errors=True)
    scans = model / "scans"
    folds = [path.name.removeprefix("fold_") for path in sorted((model / "model").glob("fold_*"))]
    nnunet = run(
        [
            python.parent / "nnUNetv2_predict_from_modelfolder",
            "-i", scans, "-o", theirs, "-m", model / "model", "-f", *folds, "-device", "cpu",
            "-npp", 1, "-nps", 1, *([] if mirrored else ["--disable_tta"]),
        ]
    )  # fmt: skip
    seg3d = run(
        [
            sys.executable, "-m", "seg3d", "predict", model / "model", scans, "--output", ours,
            "--device", "cpu", "--set", f"predict.mirror={str(mirrored).lower()}",
            *([] if memory is None else ["--memory", memory]),
        ]
    )  # fmt: skip
    (found,) = (np.asanyarray(nib.load(path).dataobj) for path in ours.glob("*.nii.gz"))
    (expected,) = (np.asanyarray(nib.load(path).dataobj) for path in theirs.glob("*.nii.gz"))
    foreground = (found > 0) | (expected > 0)
    return {
        "model": model.name,
        "mirrored": mirrored,
        "shape": found.shape,
        "agreement": float((found == expected)[foreground].mean()),
        "least_dice": min(_dice(found == one, expected == one) for one in np.unique(expected)),
        "peak_gib": seg3d.peak / GIB,
        "nnunet_peak_gib": nnunet.peak / GIB,
        "seconds": seg3d.seconds,
        "nnunet_seconds": nnunet.seconds,
    }


def _dice(one: np.ndarray, other: np.ndarray) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


def _enlarge(scans: Path, edge: int) -> None:
    """Repeat the scan of a folder until it has so many voxels along each axis."""
    (path,) = scans.glob("*.nii.gz")
    volume = read_volume(path)
    repeated = np.pad(
        volume.array[0],
        [(0, max(0, edge - length)) for length in volume.array.shape[1:]],
        mode="symmetric",
    )[:edge, :edge, :edge]
    header = Header(Grid((edge, edge, edge), volume.grid.affine), 1, None)
    write_volume(path, repeated[None], header)


def run(command: Sequence[object]) -> Taken:
    """Run a command.

    Raises:
        CalledProcessError: if it fails.
    """
    folders = {
        f"nnUNet_{part}": tempfile.gettempdir() for part in ("raw", "preprocessed", "results")
    }
    begin = time.perf_counter()
    process = subprocess.Popen(
        [*map(str, command)], stdout=subprocess.DEVNULL, env=os.environ | folders
    )
    peak, over = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not over.wait(PACE):
            peak = max(peak, sum(map(_resident, _with_children(process.pid))))

    watcher = threading.Thread(target=watch)
    watcher.start()
    status = process.wait()
    seconds = time.perf_counter() - begin
    over.set()
    watcher.join()
    if status:
        raise subprocess.CalledProcessError(status, process.args)
    return Taken(peak, seconds)


def _with_children(pid: int) -> list[int]:
    """A process and all that it has started."""
    found = [pid]
    for one in found:
        for path in Path(f"/proc/{one}/task").glob("*/children"):
            try:
                found += map(int, path.read_text().split())
            except OSError:
                continue
    return found


def _resident(pid: int) -> int:
    """Bytes of RAM of a process, and its share of what it has in common with others."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        # It has ended meanwhile.
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))
