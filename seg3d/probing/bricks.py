"""Cutting a batch of volumes into small bricks of voxels, a few at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import ceil, prod

import torch
import torch.nn.functional as F
from torch import Tensor

Slices = tuple[slice, slice, slice]


@dataclass(frozen=True)
class BrickGrid:
    """The bricks of every (sample, channel) of a tensor of shape ``(B, C, D, H, W)``.

    Volumes that the bricks do not divide are continued by replicating their last voxels.
    Bricks are numbered in the order (sample, depth, height, channel, width), so that those of
    one chunk, whole rows of bricks with all channels, are consecutive.

    Attributes:
        batch: B.
        channels: C.
        size: D, H, W in voxels.
        edges: edges of a brick in voxels.
    """

    batch: int
    channels: int
    size: tuple[int, int, int]
    edges: tuple[int, int, int]

    @classmethod
    def of(cls, shape: torch.Size, voxels: int) -> BrickGrid:
        """The grid of bricks of at most ``voxels`` voxels for a tensor of this shape."""
        batch, channels, *size = shape
        return cls(batch, channels, (size[0], size[1], size[2]), brick_edges(tuple(size), voxels))

    @property
    def counts(self) -> tuple[int, ...]:
        """Bricks along depth, height and width."""
        return tuple(ceil(s / e) for s, e in zip(self.size, self.edges, strict=True))

    @property
    def voxels(self) -> int:
        """Voxels of one brick."""
        return prod(self.edges)

    @property
    def bricks(self) -> int:
        """All bricks of the tensor."""
        return self.batch * self.channels * prod(self.counts)

    @property
    def row(self) -> int:
        """Bricks of one row: all channels, the whole width."""
        return self.channels * self.counts[2]

    def chunks(
        self, elements: int, samples: slice | None = None, depths: slice | None = None
    ) -> Iterator[tuple[Slices, slice]]:
        """Go through the grid in chunks of about ``elements`` elements, at least a row each.

        Args:
            elements: of x, in one chunk.
            samples: which samples; all if None.
            depths: which bricks along depth; all if None. Part of them only of a single sample.

        Yields:
            The slices of samples, depth bricks and height bricks, and the bricks' numbers.
        """
        depth, height, _ = self.counts
        first_sample, last_sample = _range(samples, self.batch)
        first_depth, last_depth = _range(depths, depth)
        rows = max(1, elements // (self.row * self.voxels))
        step_height = min(height, rows)
        step_depth = max(1, rows // height)
        step_batch = max(1, rows // (height * depth))
        for b, d, h in product(
            range(first_sample, last_sample, step_batch),
            range(first_depth, last_depth, step_depth),
            range(0, height, step_height),
        ):
            b_stop = min(b + step_batch, last_sample)
            d_stop = min(d + step_depth, last_depth)
            h_stop = min(h + step_height, height)
            start = ((b * depth + d) * height + h) * self.row
            count = (b_stop - b) * (d_stop - d) * (h_stop - h) * self.row
            where = (slice(b, b_stop), slice(d, d_stop), slice(h, h_stop))
            yield where, slice(start, start + count)

    def read(self, x: Tensor, where: Slices, dtype: torch.dtype, mode: str = "replicate") -> Tensor:
        """The bricks of a chunk as rows, ``(bricks, voxels)``; may share memory with ``x``.

        Bricks that stick out are continued by their last voxels, or in mode ``constant`` by 0.
        """
        part = self._part(x, where).to(dtype)
        counts = self._counts_in(where)
        missing = [
            count * edge - size
            for count, edge, size in zip(counts, self.edges, part.shape[2:], strict=True)
        ]
        if any(missing):
            depth, height, width = missing
            part = F.pad(part, (0, width, 0, height, 0, depth), mode=mode)
        split = [n for pair in zip(counts, self.edges, strict=True) for n in pair]
        part = part.reshape(part.shape[0], self.channels, *split)
        return part.permute(0, 2, 4, 1, 6, 3, 5, 7).reshape(-1, self.voxels)

    def write(
        self, out: Tensor, where: Slices, rows: Tensor, first: tuple[int, int] = (0, 0)
    ) -> None:
        """Put a chunk's ``rows``, as :meth:`read` gave them, in their places in ``out``.

        ``first`` says which sample and which depth brick of the volume come first in ``out``.
        """
        samples, depths, heights = where
        here = (
            slice(samples.start - first[0], samples.stop - first[0]),
            slice(depths.start - first[1], depths.stop - first[1]),
            heights,
        )
        part = self._part(out, here)
        depth, height, width = self._counts_in(where)
        whole = rows.view(-1, depth, height, self.channels, width, *self.edges)
        whole = whole.permute(0, 3, 1, 5, 2, 6, 4, 7)
        whole = whole.flatten(6, 7).flatten(4, 5).flatten(2, 3)
        part.copy_(whole[:, :, : part.shape[2], : part.shape[3], : part.shape[4]])

    def spread(self, values: Tensor, where: Slices) -> Tensor:
        """One number per sample and channel, ``(B, C)``, as a column for a chunk's rows."""
        depth, height, width = self._counts_in(where)
        part = values[where[0], None, :, None]
        return part.expand(-1, depth * height, -1, width).reshape(-1, 1)

    def gather(self, column: Tensor, where: Slices) -> Tensor:
        """The sums over a chunk's rows per sample and channel: undoes :meth:`spread`."""
        depth, height, width = self._counts_in(where)
        return column.view(-1, depth * height, self.channels, width).sum((1, 3))

    def _part(self, x: Tensor, where: Slices) -> Tensor:
        samples, depths, heights = where
        depth, height, _ = self.edges
        return x[
            samples,
            :,
            depths.start * depth : depths.stop * depth,
            heights.start * height : heights.stop * height,
        ]

    def _counts_in(self, where: Slices) -> tuple[int, int, int]:
        _, depths, heights = where
        return depths.stop - depths.start, heights.stop - heights.start, self.counts[2]


def _range(part: slice | None, count: int) -> tuple[int, int]:
    return (0, count) if part is None else (part.start, part.stop)


@lru_cache(maxsize=1024)
def brick_edges(size: tuple[int, ...], voxels: int) -> tuple[int, int, int]:
    """Choose the edges of bricks of at most ``voxels`` voxels for a volume of ``size``.

    Every axis is divided as evenly as can be. Of the bricks with no edge longer than twice the
    cube's (a long brick has less in common with itself), those that store least are taken:
    one bit for every voxel, the padding's too, and 48 for every brick's mean and scale. Of
    these, the one nearest to a cube.
    """
    longest = 2 * round(voxels ** (1 / 3))
    per_axis = [
        sorted({ceil(s / parts) for parts in range(1, s + 1) if ceil(s / parts) <= longest})
        for s in size
    ]

    def cost(edges: tuple[int, ...]) -> tuple[int, int]:
        bricks = prod(ceil(s / e) for s, e in zip(size, edges, strict=True))
        return bricks * (prod(edges) + 48), sum(edges)

    depth, height, width = min((e for e in product(*per_axis) if prod(e) <= voxels), key=cost)
    return depth, height, width
