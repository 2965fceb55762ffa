"""Small volumes on disk for tests."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import DTypeLike
from scipy.spatial.transform import Rotation

# How the axes of a file can stand, as nibabel says it: 6 orders and 8 sets of directions.
ORIENTATIONS = [
    np.array([*zip(axes, signs, strict=True)])
    for axes in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]


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


def reorder(path: Path, orientation: np.ndarray) -> Path:
    """Write a file anew with the same voxels in the same places, along other axes."""
    image = nib.load(path).as_reoriented(orientation)
    return save_nifti(path, np.asarray(image.dataobj).copy(), image.affine)
