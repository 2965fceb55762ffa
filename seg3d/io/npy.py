"""Arrays of NumPy, ``.npy``, through memory maps.

A file holds `(X, Y, Z)`, or `(X, Y, Z, C)` with the channels last, in C or Fortran order. It knows
no geometry: the voxels are taken to be cubes of 1 mm along the world's axes.
"""

from __future__ import annotations

import io
from pathlib import Path
from tokenize import TokenError

import numpy as np
from numpy.lib.format import dtype_to_descr, open_memmap, write_array_header_1_0

from seg3d.common.errors import UserError
from seg3d.geometry import Shape3
from seg3d.io.arrays import ArrayReader, MappedWriter
from seg3d.io.header import Header, checked_header, voxel_dtype
from seg3d.io.regions import VolumeReader, VolumeWriter

# The header is an expression of Python.
DAMAGED = (
    EOFError, MemoryError, OSError, OverflowError, RecursionError, SyntaxError, TokenError,
    TypeError, ValueError,
)  # fmt: skip


def open_volume(path: Path) -> VolumeReader:
    return _Reader(path)


def create_volume(path: Path, header: Header, dtype: np.dtype, channels: int) -> VolumeWriter:
    shape = header.grid.shape if channels == 1 else (*header.grid.shape, channels)
    head = io.BytesIO()
    described = {"descr": dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    write_array_header_1_0(head, described)
    return MappedWriter(path, head.getvalue(), dtype, shape, order="C")


def ram_of(path: Path, shape: Shape3, voxel_bytes: int) -> int:
    return 0


class _Reader(ArrayReader):
    def __init__(self, path: Path) -> None:
        self.path = path
        array = self._array()
        self.header = checked_header(path, array.shape, np.eye(4))
        self.dtype = voxel_dtype(path, array.dtype)
        self.slow_axis = int(np.argmax(array.strides[:3]))

    def _array(self) -> np.ndarray:
        try:
            # A map is never unpickled; files of Python objects are refused.
            return open_memmap(self.path, mode="r")
        except DAMAGED as error:
            raise UserError(
                f"{self.path} is damaged or not an array of numbers in NumPy's format",
                given=f"{type(error).__name__}: {error}",
                legal="what numpy.save writes of an array of numbers",
            ) from error
