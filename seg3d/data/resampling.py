"""Linear interpolation between two grids, block by block."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from seg3d.geometry import Shape3
from seg3d.io.regions import Region

# Voxels. Axes that are said to be turned against each other by less than this over the whole
# volume are so by rounding in a header.
SLANT_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class Resampling:
    """How a volume on one grid is made from a volume on another, voxel by voxel.

    The voxel `i` of the result lies at ``matrix @ i + offset`` in the source, and is interpolated
    linearly between the voxels around; beyond the source's border its nearest voxel counts, as in
    MONAI's ``Spacing`` with ``padding_mode="border"``.

    Attributes:
        matrix: `(3, 3)`.
        offset: `(3,)`, voxels of the source.
        source_shape: of the source.
        shape: of the result.
    """

    matrix: np.ndarray
    offset: np.ndarray
    source_shape: Shape3
    shape: Shape3

    @classmethod
    def between(cls, affine: np.ndarray, source_shape: Shape3, shape: Shape3) -> Resampling:
        """From a `(4, 4)` affine, voxels of the result to voxels of the source.

        Slants, shifts and stretches that are too small to be meant are left out.
        """
        matrix, offset = affine[:3, :3].copy(), affine[:3, 3].copy()
        slant = np.abs(matrix - np.diag(np.diag(matrix))) * shape
        if slant.max() < SLANT_TOLERANCE:
            matrix = np.diag(np.diag(matrix))
        for exact in (matrix, offset):
            rounded = np.rint(exact)
            exact[...] = np.where(np.abs(exact - rounded) < 1e-9, rounded, exact)
        return cls(matrix, offset, source_shape, shape)

    @property
    def straight(self) -> bool:
        """Whether the axes of both grids run along each other."""
        return np.count_nonzero(self.matrix) == 3

    def needed(self, region: Region) -> Region:
        """The region of the source that a region of the result is made from."""
        first, last = (np.array([getattr(part, end) for part in region]) for end in ("start", "stop"))
        ends = self.matrix * first, self.matrix * (last - 1)
        low = np.minimum(*ends).sum(1) + self.offset
        high = np.maximum(*ends).sum(1) + self.offset
        largest = np.array(self.source_shape) - 1
        starts = np.floor(np.clip(low, 0, largest)).astype(int)
        stops = np.ceil(np.clip(high, 0, largest)).astype(int) + 1
        x, y, z = (slice(int(a), int(b)) for a, b in zip(starts, stops, strict=True))
        return x, y, z

    def apply(self, block: Tensor, region: Region) -> Tensor:
        """A region of the result.

        Args:
            block: `(C, d, h, w)` floating point, the region of the source that is `needed`.
            region: which.

        Returns:
            `(C, d', h', w')`; `block` itself, not a copy, if nothing changes.
        """
        start = [part.start for part in self.needed(region)]
        if not self.straight:
            return self._apply_slanted(block, region, start)
        for axis, part in enumerate(region):
            scale, offset = self.matrix[axis, axis], self.offset[axis] - start[axis]
            place = np.clip(scale * np.arange(part.start, part.stop) + offset, 0, None)
            block = _interpolate(block, axis + 1, place)
        return block

    def _apply_slanted(self, block: Tensor, region: Region, start: list[int]) -> Tensor:
        """The same where an axis of the result runs askew through the source."""
        index = torch.meshgrid(
            *[torch.arange(one.start, one.stop, dtype=torch.float64) for one in region], indexing="ij"
        )
        size = block.shape[1:]
        places = []
        for axis in reversed(range(3)):
            place = self.offset[axis] - start[axis] + sum(
                float(factor) * one for factor, one in zip(self.matrix[axis], index, strict=True)
            )
            # From -1 at the first voxel to 1 at the last, in which PyTorch counts.
            places.append(place.clamp_(0, size[axis] - 1) * (2 / max(size[axis] - 1, 1)) - 1)
        grid = torch.stack(places, -1)[None].to(block.device)
        sampled = functional.grid_sample(block[None].double(), grid, align_corners=True)
        return sampled[0].to(block.dtype)


def _interpolate(block: Tensor, axis: int, place: np.ndarray) -> Tensor:
    """Read a block along an axis at places counted in its voxels."""
    length = block.shape[axis]
    below = np.minimum(place.astype(np.int64), length - 1)
    share = place - below
    if len(place) == length and np.array_equal(below, np.arange(length)) and not share.any():
        return block
    above = np.minimum(below + 1, length - 1)
    low, high = (
        block.index_select(axis, torch.from_numpy(one).to(block.device)) for one in (below, above)
    )
    shape = [-1 if one == axis else 1 for one in range(block.ndim)]
    return low.lerp_(high, torch.from_numpy(share).to(block).view(shape))
