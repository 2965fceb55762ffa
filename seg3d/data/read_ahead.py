"""Volumes stored in chunks, read by thin slabs without decoding every chunk for each of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np

from seg3d.io.regions import Region, VolumeReader, lengths


class ReadAhead(VolumeReader):
    """Reads as many slices as lie in a row of chunks at once, and keeps them.

    Each chunk is decoded once if the regions that are asked for follow each other along the slow
    axis and have the same cross-section. Chunks are read one by one, since what a decoder has in
    hand counts too. Of a volume without chunks nothing is kept.

    Args:
        reader: of the volume; it is closed with this one.
    """

    def __init__(self, reader: VolumeReader) -> None:
        self._reader = reader
        self.header = reader.header
        self.dtype = reader.dtype
        self.slow_axis = reader.slow_axis
        self.chunk = reader.chunk
        self._held: tuple[Region, np.ndarray] | None = None

    def read(self, region: Region) -> np.ndarray:
        if max(self.chunk) == 1:
            return self._reader.read(region)
        if self._held is None or not _inside(region, self._held[0]):
            beginning = self._give_up(region)
            self._held = self._read_rows(region, beginning)
        held, voxels = self._held
        return voxels[:, *_counted_from(held, region)]

    def close(self) -> None:
        self._reader.close()

    def _give_up(self, region: Region) -> np.ndarray | None:
        """Forget what is held before more is read, but for the slices that a region begins with."""
        if self._held is None:
            return None
        (held, voxels), self._held = self._held, None
        start, stop = region[self.slow_axis].start, held[self.slow_axis].stop
        known = self._between(start, stop, region)
        return (
            voxels[:, *_counted_from(held, known)].copy()
            if start < stop and _inside(known, held)
            else None
        )

    def _read_rows(self, region: Region, beginning: np.ndarray | None) -> tuple[Region, np.ndarray]:
        """A region and the rest of its last row of chunks, of which the beginning may be known."""
        axis, shape = self.slow_axis, self.header.grid.shape
        start, stop = region[axis].start, region[axis].stop
        end = math.ceil(stop / self.chunk[axis]) * self.chunk[axis]
        wanted = self._between(start, min(end, shape[axis]), region)
        voxels = np.empty((self.header.channels, *lengths(wanted)), self.dtype)
        if beginning is not None:
            start += beginning.shape[1 + axis]
            known = self._between(region[axis].start, start, region)
            voxels[:, *_counted_from(wanted, known)] = beginning
        x, y, z = map(_cut, self._between(start, wanted[axis].stop, region), self.chunk)
        for piece in itertools.product(x, y, z):
            voxels[:, *_counted_from(wanted, piece)] = self._reader.read(piece)
        return wanted, voxels

    def _between(self, start: int, stop: int, region: Region) -> Region:
        """A region with another start and stop along the slow axis."""
        parts = list(region)
        parts[self.slow_axis] = slice(start, stop)
        x, y, z = parts
        return x, y, z


def _cut(part: slice, length: int) -> Iterator[slice]:
    """A part of an axis in pieces, each within one chunk of a length."""
    for start in range(part.start // length * length, part.stop, length):
        yield slice(max(start, part.start), min(start + length, part.stop))


def _inside(region: Region, larger: Region) -> bool:
    return all(
        other.start <= one.start and one.stop <= other.stop
        for one, other in zip(region, larger, strict=True)
    )


def _counted_from(larger: Region, region: Region) -> Region:
    x, y, z = (
        slice(one.start - other.start, one.stop - other.start)
        for one, other in zip(region, larger, strict=True)
    )
    return x, y, z
