"""Small volumes on disk for tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import DTypeLike
from scipy.spatial.transform import Rotation


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


def affine_of(
    spacing: Sequence[float] = (1, 1, 1),
    degrees: Sequence[float] = (0, 0, 0),
    origin: Sequence[float] = (0, 0, 0),
) -> np.ndarray:
    """`(4, 4)` affine of axes of these spacings, turned about the world's x, y and z."""
    affine = np.eye(4)
    turned = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    affine[:3, :3] = turned * np.asarray(spacing)
    affine[:3, 3] = origin
    return affine


def save_nifti(path: Path, voxels: np.ndarray, affine: np.ndarray | None = None) -> Path:
    """Write these voxels; make the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.eye(4) if affine is None else affine
    nib.save(nib.nifti1.Nifti1Image(voxels, affine, dtype=voxels.dtype), path)
    return path
