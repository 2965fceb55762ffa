"""Where the voxels of a volume are that are not zero: nnU-Net crops volumes to them.

The volume is read once, slab by slab. Of each voxel one bit is kept, if anybody needs to know later
which of the zeros the others enclose.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from seg3d.geometry import Shape3
from seg3d.io.regions import Region, whole


class Nonzero:
    """The voxels of which not every channel is zero.

    Args:
        shape: of the volume.
        enclosed: whether it will be asked for what they enclose.

    Attributes:
        box: the smallest that holds them; all of the volume, if there are none.
        ram: bytes that are kept.
    """

    def __init__(self, shape: Shape3, enclosed: bool) -> None:
        self._shape = shape
        self._found = [np.zeros(length, bool) for length in shape]
        self._bits: list[np.ndarray] | None = [] if enclosed else None
        self.ram = math.prod(shape) // 8 if enclosed else 0

    @classmethod
    def of(cls, shape: Shape3, slabs: Iterable[np.ndarray], enclosed: bool) -> Nonzero:
        """Of a volume that comes in slabs `(C, d, h, w)` along its first axis."""
        self = cls(shape, enclosed)
        start = 0
        for slab in slabs:
            self._add(start, slab)
            start += slab.shape[1]
        if self._bits is not None:
            self._bits = _enclosed(self._bits, shape)
        return self

    def _add(self, start: int, slab: np.ndarray) -> None:
        there = (slab != 0).any(0)
        stop = start + len(there)
        self._found[0][start:stop] |= there.any((1, 2))
        self._found[1] |= there.any((0, 2))
        self._found[2] |= there.any((0, 1))
        if self._bits is not None:
            self._bits += [np.packbits(one) for one in ~there]

    @property
    def box(self) -> Region:
        if not self._found[0].any():
            return whole(self._shape)
        ends = (np.flatnonzero(found)[[0, -1]] for found in self._found)
        x, y, z = (slice(int(first), int(last) + 1) for first, last in ends)
        return x, y, z

    def enclosed(self, region: Region) -> np.ndarray:
        """Which voxels of a region are zeros that others enclose, `(d, h, w)` bool."""
        assert self._bits is not None
        cross = self._shape[1:]
        rows = [_unpacked(row, cross)[region[1:]] for row in self._bits[region[0]]]
        return np.stack(rows)


def _enclosed(zeros: list[np.ndarray], shape: Shape3) -> list[np.ndarray]:
    """Of the zeros of a volume, slice by slice, those from which no way of zeros leads outside.

    Ways go from voxel to voxel over faces. Two passes: first pieces of slices that touch are known
    to be one, then each voxel is looked up.
    """
    cross = shape[1:]
    firsts, pieces = [], 1  # of which 0 is what lies outside
    joined: list[np.ndarray] = []
    above: np.ndarray | None = None
    for number, packed in enumerate(zeros):
        firsts.append(pieces)
        here, count = _pieces(packed, cross, pieces)
        pieces += count
        rim = np.unique(here if number in (0, shape[0] - 1) else _rim(here))
        joined.append(np.stack([rim, np.zeros_like(rim)])[:, rim > 0])
        if above is not None:
            both = (here > 0) & (above > 0)
            touching = np.unique(here[both].astype(np.int64) * pieces + above[both])
            joined.append(np.stack(np.divmod(touching, pieces)))
        above = here
    pairs = np.concatenate(joined, axis=1)
    graph = coo_array((np.ones(pairs.shape[1], bool), tuple(pairs)), (pieces, pieces))
    _, wholes = connected_components(graph, directed=False)
    inside = wholes != wholes[0]
    return [
        np.packbits(inside[_pieces(packed, cross, first)[0]])
        for packed, first in zip(zeros, firsts, strict=True)
    ]


def _pieces(packed: np.ndarray, cross: tuple[int, int], first: int) -> tuple[np.ndarray, int]:
    """The connected pieces of a slice, numbered from ``first`` on, and how many they are."""
    pieces, count = ndimage.label(_unpacked(packed, cross))
    pieces[pieces > 0] += first - 1
    return pieces, count


def _rim(plane: np.ndarray) -> np.ndarray:
    return np.concatenate([plane[0], plane[-1], plane[:, 0], plane[:, -1]])


def _unpacked(packed: np.ndarray, cross: tuple[int, int]) -> np.ndarray:
    return np.unpackbits(packed, count=math.prod(cross)).view(bool).reshape(cross)
