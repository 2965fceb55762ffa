"""Arrays in memory as volumes, read in the way that files are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from seg3d.common.errors import UserError
from seg3d.io.arrays import ArrayReader
from seg3d.io.header import checked_header, voxel_dtype
from seg3d.io.volume import Volume

# What messages call an array, which has no file name.
NAME = Path("array")


def volume_of(
    array: ArrayLike, spacing: Sequence[float] | None = None, affine: ArrayLike | None = None
) -> Volume:
    """An array with the place of its voxels in the world, voxels of 1 mm unless told otherwise.

    Args:
        array: `(X, Y, Z)`, or `(C, X, Y, Z)`; it is not copied.
        spacing: mm along the three axes, which then point to the right, to the front and upwards.
        affine: in place of the spacing `(4, 4)`, voxel index to world millimetres (RAS+).

    Raises:
        UserError: if the array is no 3D volume of real numbers, or if spacing or affine is none.
    """
    array = np.asarray(array)
    voxel_dtype(NAME, array.dtype)
    if array.ndim not in (3, 4) or not array.size:
        raise UserError(
            "array is not a 3D volume",
            given=f"shape {array.shape}",
            legal="three axes, or four with the channels first",
        )
    channels = array[None] if array.ndim == 3 else array
    shape = (*channels.shape[1:], len(channels))
    return Volume(channels, checked_header(NAME, shape, _affine(spacing, affine)))


def _affine(spacing: Sequence[float] | None, affine: ArrayLike | None) -> np.ndarray:
    if spacing is not None and affine is not None:
        raise UserError("an array has a spacing or an affine, not both", given="both")
    if affine is not None:
        return _numbers("affine", affine, (4, 4))
    sides = _numbers("spacing", (1, 1, 1) if spacing is None else spacing, (3,))
    if not (sides > 0).all():
        raise UserError("spacing is not a size", given=spacing, legal="three numbers > 0, in mm")
    return np.diag([*sides, 1.0])


def _numbers(name: str, given: ArrayLike, shape: tuple[int, ...]) -> np.ndarray:
    try:
        numbers = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError):
        numbers = np.empty(0)
    if numbers.shape != shape or not np.isfinite(numbers).all():
        raise UserError(
            f"{name} is not understood",
            given=given,
            legal=f"{' × '.join(map(str, shape))} finite numbers",
        )
    return numbers


class RamReader(ArrayReader):
    """Reads a volume that is in memory."""

    path = NAME

    def __init__(self, volume: Volume) -> None:
        self._channels_last = np.moveaxis(volume.array, 0, -1)
        self.header = volume.header
        self.dtype = voxel_dtype(NAME, volume.array.dtype)
        self.slow_axis = int(np.argmax(np.abs(self._channels_last.strides[:3])))

    def _array(self) -> np.ndarray:
        return self._channels_last
