"""Small datasets on disk for tests, to be broken in one way or another."""

from __future__ import annotations

import hashlib
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from seg3d.checking import Report, check_dataset
from seg3d.config import config_from_tree
from seg3d.data.layouts import find_dataset
from tests.volumes import save_nifti

SHAPE = (8, 9, 10)
AFFINE = np.array([[1, 0, 0, -30], [0, 1, 0, 10], [0, 0, 2, 5], [0, 0, 0, 1.0]])
GOOD = ("a", "b", "c")


def seed_of(name: str) -> int:
    return zlib.crc32(name.encode())


def image(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 100, SHAPE).astype("int16")


def label(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2, SHAPE).astype("uint8")


def write_case(
    root: Path,
    name: str,
    voxels: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    affine: np.ndarray = AFFINE,
    label_affine: np.ndarray | None = None,
) -> None:
    """``images/NAME.nii.gz`` and ``labels/NAME.nii.gz``; the voxels depend on the name."""
    voxels = image(seed_of(name)) if voxels is None else voxels
    labels = label(seed_of(name)) if labels is None else labels
    save_nifti(root / "images" / f"{name}.nii.gz", voxels, affine)
    save_nifti(
        root / "labels" / f"{name}.nii.gz", labels, affine if label_affine is None else label_affine
    )


def write_good(root: Path) -> Path:
    """Three cases with nothing wrong."""
    for name in GOOD:
        write_case(root, name)
    return root


def cut(path: Path) -> None:
    """Take the end of a file away."""
    path.write_bytes(path.read_bytes()[:-100])


def moved(*millimetres: float) -> np.ndarray:
    """The usual affine, elsewhere."""
    affine = AFFINE.copy()
    affine[:3, 3] += millimetres
    return affine


def check(source: Path, **data: Any) -> Report:
    """The report on a dataset; keys are those of ``data`` in the config."""
    config = config_from_tree({"data": data})
    return check_dataset(find_dataset(source, config.data.labels, config.data.files), config)


def found(report: Report) -> set[tuple[str, str]]:
    """Kind and case of all problems."""
    return {(one.kind.value, one.case) for one in report.problems}


def fingerprint_of(folder: Path) -> dict[str, tuple[str, int]]:
    """Content and time of every file in a folder."""
    return {
        str(path.relative_to(folder)): (
            hashlib.sha256(path.read_bytes()).hexdigest(),
            path.stat().st_mtime_ns,
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
