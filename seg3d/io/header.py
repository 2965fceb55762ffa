"""What a volume says about itself before its voxels are read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seg3d.common.errors import UserError
from seg3d.common.notes import Note
from seg3d.geometry import Grid

# Of the volume that three axes of length 1 span, 1 at right angles; lengths themselves say nothing.
LEAST_INDEPENDENCE = 1e-6
# Products of three still fit floating point, and one fits 64 bits.
LONGEST_AXIS = 2**40


@dataclass(frozen=True, eq=False)
class Header:
    """What a file says about itself before its voxels are read.

    Attributes:
        grid: shape and position.
        channels: number of channels (1 for a 3D file).
        native: the format's own header, kept so that outputs can carry it.
        notes: what is odd about the file.
    """

    grid: Grid
    channels: int
    native: Any
    notes: tuple[Note, ...] = ()


def checked_header(
    path: Path, shape: tuple[int, ...], affine: np.ndarray, native: Any = None
) -> Header:
    """The header of a file of this shape.

    Args:
        path: for messages.
        shape: as stored, channels last.
        affine: `(4, 4)`, voxel index to world millimetres (RAS+).
        native: the format's own header.

    Raises:
        UserError: if the shape is not that of a 3D volume, or the affine places nothing.
    """
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    # NIfTI keeps the fourth axis for time and puts vectors on the fifth.
    if len(shape) == 5 and shape[3] == 1:
        shape = (*shape[:3], shape[4])
    if len(shape) not in (3, 4) or min(shape) < 1:
        raise UserError(
            f"{path} is not a 3D volume",
            given=f"shape {tuple(shape)}",
            legal="three axes, or four with the channels last",
        )
    if max(shape) > LONGEST_AXIS:
        raise UserError(
            f"{path} has an axis that no volume has", given=shape, legal=f"up to {LONGEST_AXIS}"
        )
    affine = np.asarray(affine, dtype=np.float64)
    if not places_voxels(affine):
        raise no_geometry(path, f"affine {affine.tolist()}")
    x, y, z = (int(size) for size in shape[:3])
    channels = int(shape[3]) if len(shape) == 4 else 1
    return Header(Grid((x, y, z), affine), channels, native)


def no_geometry(path: Path, given: str) -> UserError:
    """What to say about a header that does not tell where voxels lie."""
    return UserError(
        f"{path} has no usable geometry",
        given=given,
        legal="an invertible affine",
        fix="repair the header (for example by converting the volume anew from DICOM)",
    )


def places_voxels(affine: np.ndarray) -> bool:
    """Whether all numbers are finite, and no axis is without length or in the plane of others."""
    with np.errstate(all="ignore"):
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        independent = abs(np.linalg.det(affine[:3, :3] / spacing))
    return bool(np.isfinite(affine).all() and independent > LEAST_INDEPENDENCE)


def voxel_dtype(path: Path, stored: np.dtype) -> np.dtype:
    """The number type in which stored voxels are read.

    Integers stay what they are; floating point of any width becomes float32, truth values uint8.

    Raises:
        UserError: if a voxel is not one real number.
    """
    if stored.kind not in "biuf":
        raise UserError(
            f"{path} holds {stored} voxels",
            legal="integer or floating-point numbers",
            fix="convert it to one number per voxel",
        )
    if stored.kind in "bf":
        return np.dtype(np.float32 if stored.kind == "f" else np.uint8)
    return stored.newbyteorder("=")


def as_voxels(path: Path, stored: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Stored numbers, or what they stand for, in the number type of `voxel_dtype`.

    Raises:
        UserError: if a finite number is too large for it.
    """
    try:
        with np.errstate(over="raise"):
            return stored.astype(dtype, copy=False)
    except FloatingPointError as error:
        finite = stored[np.isfinite(stored)]
        raise UserError(
            f"{path} holds numbers that are too large for float32",
            given=f"{finite.min():.6g} to {finite.max():.6g}",
            legal=f"magnitudes up to {np.finfo(np.float32).max:.6g}",
            fix="scale them, or replace those that stand for no value",
        ) from error
