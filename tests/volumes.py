"""Small volumes on disk for tests."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import DTypeLike


def write_nifti(
    path: Path,
    shape: tuple[int, ...] = (5, 6, 7),
    affine: np.ndarray | None = None,
    dtype: DTypeLike = np.int16,
    seed: int = 0,
) -> Path:
    """Write random whole numbers from 0 to 2, which do as image and as label; make the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = np.random.default_rng(seed).integers(0, 3, shape).astype(dtype)
    nib.save(nib.nifti1.Nifti1Image(voxels, np.eye(4) if affine is None else affine), path)
    return path
