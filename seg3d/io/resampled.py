"""A volume on the grid of another, resampled where it is read."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch

from seg3d.geometry import POSITION_TOLERANCE_VOXELS, Grid
from seg3d.io.header import Header
from seg3d.io.regions import Region, VolumeReader, lengths, slabs, whole
from seg3d.io.reoriented import Reoriented, nearest_turn
from seg3d.io.resampling import Resampling

# Voxels, of the source or of the result, that are worked on at once. Each takes some 100 bytes
# where axes run askew.
PIECE = 2**20


class Resampled(VolumeReader):
    """A volume read on another grid: 0 where a voxel's centre lies in no voxel of the source.

    Voxels that coincide with some of the source have their values, to the last bit.

    Args:
        stored: the volume, open; it is closed with this.
        grid: the other one.
        nearest: take the nearest voxel, as label values want it, and do not interpolate linearly.
            Half way between two, it may be either.

    Attributes:
        exact: whether all voxels of the grid coincide with voxels of the source, or lie beyond it.
    """

    def __init__(self, stored: VolumeReader, grid: Grid, *, nearest: bool) -> None:
        header = stored.header
        self.header = Header(grid, header.channels, None, header.notes)
        self.dtype = stored.dtype
        self._stored = Reoriented(stored, nearest_turn(header.grid, grid))
        self.slow_axis = self._stored.slow_axis
        self._resampling, self.exact = _between(self._stored.header.grid, grid)
        self._nearest = nearest

    @property
    def overlaps(self) -> bool:
        """Whether any voxel of the grid lies within the source."""
        pieces = self._pieces(whole(self.header.grid.shape))
        return any(self._resampling.inside(piece).any() for piece in pieces)

    def read(self, region: Region) -> np.ndarray:
        result = np.zeros((self.header.channels, *lengths(region)), self.dtype)
        for piece in self._pieces(region):
            inside = self._resampling.inside(piece)
            if inside.any():
                x, y, z = (
                    slice(part.start - outer.start, part.stop - outer.start)
                    for part, outer in zip(piece, region, strict=True)
                )
                result[:, x, y, z] = np.where(inside, self._read_piece(piece), 0)
        return result

    def close(self) -> None:
        self._stored.close()

    def _pieces(self, region: Region) -> Iterator[Region]:
        """A region in parts that take little memory to make."""
        most = max(math.prod(lengths(one)) for one in (region, self._resampling.needed(region)))
        sides = lengths(region)
        longest = max(sides)
        if most * self.header.channels <= PIECE or longest == 1:
            yield region
            return
        for half in slabs(region, sides.index(longest), math.ceil(longest / 2)):
            yield from self._pieces(half)

    def _read_piece(self, region: Region) -> np.ndarray:
        block = self._stored.read(self._resampling.needed(region))
        if self._nearest:
            # PyTorch cannot pick among every kind of unsigned numbers.
            kind = np.dtype(f"i{self.dtype.itemsize}") if self.dtype.kind == "u" else self.dtype
            bits = torch.from_numpy(np.array(block, order="C").view(kind))
            return self._resampling.apply(bits, region, nearest=True).numpy().view(self.dtype)
        exact = np.array(block, np.float64)
        made = self._resampling.apply(torch.from_numpy(exact), region).numpy()
        return np.rint(made).astype(self.dtype) if self.dtype.kind in "iu" else made


def _between(stored: Grid, grid: Grid) -> tuple[Resampling, bool]:
    affine = np.linalg.solve(stored.affine, grid.affine)
    # A box that was cut out of the same voxels is not interpolated for a rounding in its header.
    coinciding = np.rint(affine)
    moved = grid.distance(stored.affine @ coinciding)
    exact = moved <= POSITION_TOLERANCE_VOXELS * min(grid.spacing)
    affine = coinciding if exact else affine
    return Resampling.between(affine, stored.shape, grid.shape), exact
