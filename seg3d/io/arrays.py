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

from seg3d.files import UnfinishedFile, require_space, reserve
from seg3d.io.regions import Region, VolumeReader, VolumeWriter

# Up to so many bytes are unpacked in RAM, more in a temporary file.
LARGEST_IN_RAM = 2**30
STEP = 2**24


class ArrayReader(VolumeReader):
    """Reads from an array `(X, Y, Z)`, or with channels on further axes.

    A map of a file is asked for anew by every `read` and let go of before it returns, so that
    pages that have been read do not count as the process's memory.
    """

    def read(self, region: Region) -> np.ndarray:
        array = self._array()
        part = self._in_units(array[region])
        with np.errstate(over="ignore"):
            # float32 holds any scanner's numbers; what it does not hold becomes infinite.
            part = np.array(part, self.dtype, copy=True if isinstance(array, np.memmap) else None)
        return np.moveaxis(part.reshape(*part.shape[:3], self.header.channels), -1, 0)

    def close(self) -> None:
        pass

    @abstractmethod
    def _array(self) -> np.ndarray:
        """All voxels as they are stored."""

    def _in_units(self, stored: np.ndarray) -> np.ndarray:
        """Apply the scaling that the file asks for."""
        return stored


class ArrayWriter(VolumeWriter):
    """Writes into an array `(X, Y, Z)`, or `(X, Y, Z, C)` of several channels."""

    def write(self, region: Region, array: np.ndarray) -> None:
        self._array()[region] = array[0] if len(array) == 1 else np.moveaxis(array, 0, -1)

    @abstractmethod
    def _array(self) -> np.ndarray:
        """Where the voxels go."""


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
        order: Literal["C", "F"],
    ) -> None:
        size = len(head) + byte_count(shape, dtype)
        require_space(path, size)
        self._file = UnfinishedFile(path)
        self._layout: tuple[Any, ...] = (dtype, "r+", len(head), shape, order)
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
        if self.size <= LARGEST_IN_RAM:
            self._ram = np.empty(shape, dtype, order="F")
        else:
            require_space(folder, self.size, fix)
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


def byte_count(shape: tuple[int, ...], dtype: np.dtype) -> int:
    """Bytes of an array."""
    return math.prod(shape) * dtype.itemsize
