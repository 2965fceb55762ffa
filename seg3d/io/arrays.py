"""What formats have in common whose voxels lie in one array, in RAM or in a map of a file."""

from __future__ import annotations

import math
import tempfile
from abc import abstractmethod
from collections.abc import Iterator
from io import BufferedIOBase
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from seg3d.common.files import UnfinishedFile, reserve
from seg3d.io.header import as_voxels
from seg3d.io.regions import Region, VolumeReader, VolumeWriter, lengths, slabs, whole

# Up to so many bytes are unpacked in RAM, more in a temporary file.
LARGEST_IN_RAM = 2**26
# So many bytes are copied, or mapped, at once.
STEP = 2**24

Order = Literal["C", "F"]


class ArrayReader(VolumeReader):
    """Reads from an array `(X, Y, Z)`, or with channels on further axes.

    Attributes:
        path: of the file.
    """

    path: Path

    def read(self, region: Region) -> np.ndarray:
        array = self._array()
        if not isinstance(array, np.memmap):
            return self._voxels(array[region])
        order: Order = "C" if self.slow_axis == 0 else "F"
        voxels = np.empty((*lengths(region), self.header.channels), self.dtype, order)
        voxels = np.moveaxis(voxels, -1, 0)
        for there, here in _thin_slabs(region, array):
            voxels[(slice(None), *here)] = self._voxels(self._array()[there])
        return voxels

    def close(self) -> None:
        pass

    @abstractmethod
    def _array(self) -> np.ndarray:
        """All voxels as they are stored, in RAM or in a map of a file that is made anew."""

    def _in_units(self, stored: np.ndarray) -> np.ndarray:
        """Apply the scaling that the file asks for."""
        return stored

    def _voxels(self, stored: np.ndarray) -> np.ndarray:
        voxels = as_voxels(self.path, self._in_units(stored), self.dtype)
        return np.moveaxis(voxels.reshape(*voxels.shape[:3], self.header.channels), -1, 0)


class ArrayWriter(VolumeWriter):
    """Writes into an array `(X, Y, Z)`, or `(X, Y, Z, C)` of several channels."""

    def write(self, region: Region, array: np.ndarray) -> None:
        voxels = array[0] if len(array) == 1 else np.moveaxis(array, 0, -1)
        file = self._array()
        if not isinstance(file, np.memmap):
            file[region] = voxels
            return
        for there, here in _thin_slabs(region, file):
            self._array()[there] = voxels[here]

    @abstractmethod
    def _array(self) -> np.ndarray:
        """Where the voxels go, in RAM or in a map of a file that is made anew."""


def _thin_slabs(region: Region, array: np.ndarray) -> Iterator[tuple[Region, Region]]:
    """A region in slabs for each of which little of a file needs to be mapped.

    Pages of a map count as the process's memory until it is let go of, and a region may touch
    every page of its slices.

    Yields:
        A slab's place in the array, and in the region.
    """
    axis = int(np.argmax(array.strides[:3]))
    thickness = max(1, STEP * array.shape[axis] // array.nbytes)
    return zip(
        slabs(region, axis, thickness),
        slabs(whole(lengths(region)), axis, thickness),
        strict=True,
    )


class MappedWriter(ArrayWriter):
    """Writes into a map of a file that is some bytes of header and then the voxels.

    Args:
        path: the final name.
        head: what stands in front of the voxels.
        dtype: of the voxels.
        shape: of the array.
        order: in which it is stored, ``C`` or ``F`` (Fortran).

    Raises:
        UserError: if the disk has too little space.
    """

    def __init__(
        self,
        path: Path,
        head: bytes,
        dtype: np.dtype,
        shape: tuple[int, ...],
        order: Order,
    ) -> None:
        size = len(head) + byte_count(shape, dtype)
        self._file = UnfinishedFile(path)
        self._layout: tuple[Any, ...] = (dtype, "r+", len(head), shape, order)
        self.slow_axis = 0 if order == "C" else 2
        try:
            with self._file.temporary.open("r+b") as stream:
                reserve(stream, size, path)
                stream.write(head)
        except BaseException:
            self.discard()
            raise

    def _array(self) -> np.ndarray:
        return np.memmap(self._file.temporary, *self._layout)

    def finish(self) -> None:
        self._file.finish()

    def discard(self) -> None:
        self._file.discard()


class Scratch:
    """Room for an array in Fortran order: in RAM, or if it is large in an unnamed file.

    Args:
        shape: of the array.
        dtype: of the array.
        folder: of the unnamed file.
        fix: what to do if the disk has too little space.

    Raises:
        UserError: if the disk has too little space.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype, folder: Path, fix: str) -> None:
        self.shape = shape
        self.dtype = dtype
        self.size = byte_count(shape, dtype)
        self._ram: np.ndarray | None = None
        self._file: IO[bytes] | None = None
        if ram_of_scratch(self.size):
            self._ram = np.empty(shape, dtype, order="F")
        else:
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
            reserve(self._file, self.size, folder, fix)

    def array(self) -> np.ndarray:
        """The array; if it lies in a file, a map of it, to be let go of soon."""
        if self._file is None:
            assert self._ram is not None
            return self._ram
        return np.memmap(self._file, self.dtype, "r+", 0, self.shape, "F")

    def fill(self, stream: BufferedIOBase) -> None:
        """Read the voxels from a stream.

        Raises:
            EOFError: if it ends too early.
        """
        for part in self._parts():
            left = part
            while left:
                count = stream.readinto(left)
                if not count:
                    raise EOFError(f"{self.size} bytes of voxels were expected")
                left = left[count:]

    def pour(self, stream: BufferedIOBase) -> None:
        """Write the voxels to a stream."""
        for part in self._parts():
            stream.write(part)

    def close(self) -> None:
        """Let the memory or the file go."""
        self._ram = None
        if self._file is not None:
            self._file.close()

    def _parts(self) -> Iterator[memoryview]:
        """The bytes of the array, piece by piece."""
        for start in range(0, self.size, STEP):
            yield self.array().reshape(-1, order="F").view(np.uint8).data[start : start + STEP]


def ram_of_scratch(size: int) -> int:
    """Bytes of RAM that a `Scratch` of so many bytes takes."""
    return size if size <= LARGEST_IN_RAM else 0


def byte_count(shape: tuple[int, ...], dtype: np.dtype) -> int:
    """Bytes of an array."""
    return math.prod(shape) * dtype.itemsize
