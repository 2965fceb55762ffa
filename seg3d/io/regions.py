"""Volumes that need not fit into RAM: read by regions, written by regions.

Every format implements these two classes; `open_volume` and `create_volume` in
`seg3d.io.volume` choose it by the file name's ending.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from types import TracebackType
from typing import Self

import numpy as np

from seg3d.geometry import Shape3
from seg3d.io.header import Header

Region = tuple[slice, slice, slice]

# For each slowest axis of a file, the order of all axes, slowest first, in which it is streamed.
STREAMING_ORDERS = ((0, 1, 2), (1, 0, 2), (2, 1, 0))
# Voxels of a slab: enough for the disk and for NumPy to be fast.
SLAB = 2**22


def whole(shape: Shape3) -> Region:
    """The region that is all of a volume."""
    x, y, z = (slice(0, length) for length in shape)
    return x, y, z


def lengths(region: Region) -> Shape3:
    """Voxels of a region along each axis."""
    x, y, z = (part.stop - part.start for part in region)
    return x, y, z


def slabs(region: Region, axis: int, thickness: int) -> Iterator[Region]:
    """A region in pieces of at most ``thickness`` slices along an axis."""
    for start in range(region[axis].start, region[axis].stop, thickness):
        piece = list(region)
        piece[axis] = slice(start, min(start + thickness, region[axis].stop))
        x, y, z = piece
        yield x, y, z


def portions(shape: Shape3, axis: int, voxels: int = SLAB) -> Iterator[Region]:
    """A volume in slabs of at most ``voxels`` voxels, unless a single slice has more."""
    return slabs(whole(shape), axis, max(1, voxels * shape[axis] // math.prod(shape)))


def columns(shape: Shape3, parts: tuple[int, int]) -> Iterator[Region]:
    """A volume in columns along its first axis, the other two being cut in so many parts."""
    length, *cross = shape
    for y, z in itertools.product(*map(_evenly, cross, parts)):
        yield slice(0, length), y, z


def _evenly(length: int, parts: int) -> Iterator[slice]:
    edges = [length * number // parts for number in range(parts + 1)]
    return itertools.starmap(slice, itertools.pairwise(edges))


class VolumeReader(ABC):
    """An open volume of which nothing has been read but the header.

    Attributes:
        header: geometry, channels, and the format's own header.
        dtype: of the voxels that `read` gives (after any scaling that the file asks for).
        slow_axis: 0, 1 or 2, along which neighbouring slices lie farthest apart in the file: a
            slab of few slices along it is what reads fastest.
        chunk: voxels along each axis that can only be read together.
    """

    header: Header
    dtype: np.dtype
    slow_axis: int
    chunk: Shape3 = (1, 1, 1)

    @abstractmethod
    def read(self, region: Region) -> np.ndarray:
        """The voxels of a region, `(C, x, y, z)`, in the order of the file's axes.

        The array may share its memory with the reader: copy it before changing it.

        Args:
            region: slices with start and stop within the volume and no step.

        Raises:
            UserError: if the file is damaged there.
        """

    @abstractmethod
    def close(self) -> None:
        """Give back what is open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


class VolumeWriter(ABC):
    """A volume that is written by regions and appears under its name when it is finished.

    As a context it finishes at the end, or, after an exception, leaves nothing behind.

    Attributes:
        slow_axis: as that of `VolumeReader`; None if slabs along any axis are written equally fast.
    """

    slow_axis: int | None = None

    @abstractmethod
    def write(self, region: Region, array: np.ndarray) -> None:
        """Store the voxels of a region, `(C, x, y, z)`; regions may come in any order."""

    @abstractmethod
    def finish(self) -> None:
        """Put the file under its name; every voxel must have been written."""

    @abstractmethod
    def discard(self) -> None:
        """Remove what has been written; after `finish` there is nothing left to remove."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self.finish()
        finally:
            self.discard()
