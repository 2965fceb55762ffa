"""From one grid to another, block by block: linearly, by cubic splines, or by the nearest voxel."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from seg3d.geometry import Shape3
from seg3d.io.regions import Region
from seg3d.io.splines import REACH, spline_weights

# Voxels. Axes that are said to be turned against each other by less than this over the whole
# volume are so by rounding in a header.
SLANT_TOLERANCE = 1e-3
# Added before rounding down. Half way between two voxels, rounding errors shall not choose.
BELOW_HALF = 0.5 - 1e-6
# Of a voxel; added to a place, it makes the later of two voxels the nearer one half way between.
HALF_WAY = 2e-6
# Voxels, by which a position can be off by rounding in its computation.
DUST = 1e-9


LINEAR, CUBIC = 1, 3


@dataclass(frozen=True, eq=False)
class Resampling:
    """How a volume on one grid is made from a volume on another, voxel by voxel.

    The voxel `i` of the result lies at ``matrix @ i + offset`` in the source, and is interpolated
    linearly between the voxels around, or takes the nearest; beyond the source's border its
    nearest voxel counts, as in MONAI's ``Spacing`` with ``padding_mode="border"``.

    Attributes:
        matrix: `(3, 3)`.
        offset: `(3,)`, voxels of the source.
        source_shape: of the source.
        shape: of the result.
        orders: of the splines along each axis, where both grids run along each other: 0 takes the
            nearest voxel, 1 is linear, 3 cubic.
        separate: an axis to be resampled after the others, whose result is kept `Within`; None if
            all are done together.
    """

    matrix: np.ndarray
    offset: np.ndarray
    source_shape: Shape3
    shape: Shape3
    orders: Shape3 = (LINEAR, LINEAR, LINEAR)
    separate: int | None = None

    @classmethod
    def between(
        cls,
        affine: np.ndarray,
        source_shape: Shape3,
        shape: Shape3,
        orders: Shape3 = (LINEAR, LINEAR, LINEAR),
        separate: int | None = None,
    ) -> Resampling:
        """From a `(4, 4)` affine, voxels of the result to voxels of the source.

        Slants, shifts and stretches that are too small to be meant are left out.
        """
        matrix, offset = affine[:3, :3].copy(), affine[:3, 3].copy()
        slant = np.abs(matrix - np.diag(np.diag(matrix))) * shape
        if slant.max() < SLANT_TOLERANCE:
            matrix = np.diag(np.diag(matrix))
        for exact in (matrix, offset):
            rounded = np.rint(exact)
            exact[...] = np.where(np.abs(exact - rounded) < DUST, rounded, exact)
        return cls(matrix, offset, source_shape, shape, orders, separate)

    @property
    def straight(self) -> bool:
        """Whether the axes of both grids run along each other."""
        return np.count_nonzero(self.matrix) == 3

    def needed(self, region: Region) -> Region:
        """The region of the source that a region of the result is made from."""
        first = np.array([part.start for part in region])
        last = np.array([part.stop - 1 for part in region])
        ends = self.matrix * first, self.matrix * last
        low = np.minimum(*ends).sum(1) + self.offset
        high = np.maximum(*ends).sum(1) + self.offset
        reach = np.where(np.array(self.orders) == CUBIC, REACH, 0)
        low, high = low - reach, high + reach
        largest = np.array(self.source_shape) - 1
        starts = np.floor(np.clip(low, 0, largest)).astype(int)
        stops = np.ceil(np.clip(high, 0, largest)).astype(int) + 1
        x, y, z = (slice(int(a), int(b)) for a, b in zip(starts, stops, strict=True))
        return x, y, z

    def inside(self, region: Region) -> np.ndarray:
        """Which voxels of a region of the result lie within a voxel of the source."""
        inside = np.ones([part.stop - part.start for part in region], bool)
        index = np.ogrid[region]
        for row, offset, length in zip(self.matrix, self.offset, self.source_shape, strict=True):
            place = offset + sum(
                factor * one for factor, one in zip(row, index, strict=True) if factor
            )
            # As places are rounded to the nearest voxel.
            inside &= (place >= -BELOW_HALF) & (place < length - BELOW_HALF)
        return inside

    def apply(
        self,
        block: Tensor,
        region: Region,
        *,
        nearest: bool = False,
        within: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """A region of the result.

        Args:
            block: `(C, d, h, w)`, the region of the source that is `needed`; floating point, if it
                is to be interpolated.
            region: which.
            nearest: take the nearest voxel, as class numbers want it, and do not interpolate; half
                way between two voxels, the one that comes first in the source.
            within: least and largest values that may come out, since splines overshoot; of shapes
                that `block` can be compared with, once all axes but `separate` are done.

        Returns:
            `(C, d', h', w')`; `block` itself, not a copy, if nothing changes.
        """
        start = [part.start for part in self.needed(region)]
        if not self.straight:
            places = self._slanted_places(block, region, start)
            return (_take_slanted if nearest else _interpolate_slanted)(block, places)
        for axis in sorted(range(3), key=lambda axis: axis == self.separate):
            if axis == self.separate and within is not None:
                block = block.clamp(*within)
            part, order = region[axis], 0 if nearest else self.orders[axis]
            scale, offset = self.matrix[axis, axis], self.offset[axis] - start[axis]
            place = scale * np.arange(part.start, part.stop) + offset
            block = _ALONG[order](block, axis + 1, place)
        return block if within is None or self.separate is not None else block.clamp(*within)

    def _slanted_places(self, block: Tensor, region: Region, start: list[int]) -> list[Tensor]:
        """Where the voxels of a region lie in a block, if axes of both run askew."""
        axes = [torch.arange(part.start, part.stop, dtype=torch.float64) for part in region]
        index = torch.meshgrid(*axes, indexing="ij")
        places = []
        for axis in range(3):
            place = (
                self.offset[axis]
                - start[axis]
                + sum(
                    float(factor) * one
                    for factor, one in zip(self.matrix[axis], index, strict=True)
                )
            )
            places.append(place.clamp_(0, block.shape[1 + axis] - 1))
        return places


def resample_slabs(
    resampling: Resampling,
    region: Region,
    slabs: Iterable[tuple[int, Tensor]],
    slices_at_once: int,
) -> Iterator[tuple[Region, Tensor]]:
    """Resample a volume that comes slab by slab, as soon as what is needed has come.

    Args:
        resampling: what to do.
        region: of the result.
        slabs: of the region of the source that is needed, `(K, d, h, w)`, one behind the other
            along the first axis, each with the index of its first slice.
        slices_at_once: of the result, at most, that are made in one go.

    Yields:
        Slabs of the region, one behind the other, and what they hold, `(K, d', h', w')`.
    """
    needs = [
        resampling.needed((slice(place, place + 1), *region[1:]))[0]
        for place in range(region[0].start, region[0].stop)
    ]
    source = resampling.needed(region)
    waiting: list[tuple[int, Tensor]] = []
    done = 0
    for start, slab in slabs:
        waiting.append((start, slab))
        stop = start + slab.shape[1]
        del slab
        while done < len(needs) and needs[done].stop <= stop:
            last = done + 1
            while last < min(len(needs), done + slices_at_once) and needs[last].stop <= stop:
                last += 1
            part = slice(region[0].start + done, region[0].start + last), *region[1:]
            yield part, resampling.apply(_cut_out(waiting, resampling.needed(part), source), part)
            done = last
        wanted = needs[done].start if done < len(needs) else stop
        # Copied, so that the rest of the slab need not be kept.
        waiting = [
            (max(first, wanted), one[:, max(wanted - first, 0) :].clone())
            for first, one in waiting
            if first + one.shape[1] > wanted
        ]


def _cut_out(slabs: list[tuple[int, Tensor]], wanted: Region, within: Region) -> Tensor:
    """A region from slabs of a larger one."""
    x, *_ = wanted
    y, z = (
        slice(part.start - larger.start, part.stop - larger.start)
        for part, larger in zip(wanted[1:], within[1:], strict=True)
    )
    pieces = [
        slab[:, max(x.start - start, 0) : x.stop - start, y, z]
        for start, slab in slabs
        if start < x.stop and start + slab.shape[1] > x.start
    ]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)


def _take(block: Tensor, axis: int, place: np.ndarray) -> Tensor:
    """Read a block along an axis at the voxels that are nearest to places."""
    length = block.shape[axis]
    index = (place + BELOW_HALF).clip(0, length - 1).astype(np.int64)
    if np.array_equal(index, np.arange(length)):
        return block
    return block.index_select(axis, torch.from_numpy(index).to(block.device))


def _take_slanted(block: Tensor, places: list[Tensor]) -> Tensor:
    x, y, z = ((place + BELOW_HALF).long().to(block.device) for place in places)
    return block[:, x, y, z]


def _interpolate_slanted(block: Tensor, places: list[Tensor]) -> Tensor:
    # From -1 at the first voxel to 1 at the last, in which PyTorch counts, last axis first.
    counted = [
        place * (2 / max(length - 1, 1)) - 1
        for place, length in zip(places, block.shape[1:], strict=True)
    ]
    grid = torch.stack(counted[::-1], -1)[None].to(block.device)
    sampled = functional.grid_sample(block[None].double(), grid, align_corners=True)
    return sampled[0].to(block.dtype)


def _interpolate(block: Tensor, axis: int, place: np.ndarray) -> Tensor:
    """Read a block along an axis at places counted in its voxels."""
    length = block.shape[axis]
    place = place.clip(0, None)
    below = np.minimum(place.astype(np.int64), length - 1)
    share = place - below
    # Where a voxel of the result lies on one of the source, it has its value and no dust.
    share = np.where(share < DUST, 0, np.where(share > 1 - DUST, 1, share))
    if len(place) == length and np.array_equal(below, np.arange(length)) and not share.any():
        return block
    above = np.minimum(below + 1, length - 1)
    low, high = (
        block.index_select(axis, torch.from_numpy(one).to(block.device)) for one in (below, above)
    )
    shape = [-1 if one == axis else 1 for one in range(block.ndim)]
    return low.lerp_(high, torch.from_numpy(share).to(block).view(shape))


def _splined(block: Tensor, axis: int, place: np.ndarray) -> Tensor:
    """Read a block along an axis at places counted in its voxels, on a cubic spline."""
    length = block.shape[axis]
    if len(place) == length and np.array_equal(place, np.arange(length)):
        return block
    weights = torch.from_numpy(spline_weights(place.tobytes(), length)).to(block)
    return torch.tensordot(block, weights, dims=([axis], [1])).movedim(-1, axis)


_ALONG = {0: _take, LINEAR: _interpolate, CUBIC: _splined}
