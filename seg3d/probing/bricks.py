"""Cutting a batch of volumes into bricks: short runs of voxels that lie one behind the other.

A cube of as many voxels would have more in common, but runs are read and written without being
taken apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil

import torch
import torch.nn.functional as F
from torch import Tensor

Where = tuple[slice, slice]


@dataclass(frozen=True)
class BrickGrid:
    """The bricks of every (sample, channel) of a tensor of shape ``(B, C, D, H, W)``.

    A brick is a run of voxels of one plane (of one depth), or several whole planes. Volumes that
    the bricks do not divide are continued by replicating their last voxels. Bricks are numbered
    in the order (sample, layer, channel, run), a layer being the planes that one brick spans.

    Attributes:
        batch: B.
        channels: C.
        depth: D in voxels.
        plane: H times W.
        planes: of one layer.
        runs: bricks of one layer and channel.
        voxels: of one brick.
    """

    batch: int
    channels: int
    depth: int
    plane: int
    planes: int
    runs: int
    voxels: int

    @classmethod
    def of(cls, shape: torch.Size, voxels: int) -> BrickGrid:
        """The grid of bricks of at most ``voxels`` voxels for a tensor of this shape."""
        batch, channels, depth, height, width = shape
        plane = height * width
        if plane <= voxels:
            planes = ceil(depth / max(1, ceil(depth * plane / voxels)))
            return cls(batch, channels, depth, plane, planes, 1, planes * plane)
        # Runs that divide the plane, if they need not be much shorter, or else equal ones.
        exact = (n for n in range(voxels, voxels // 2, -1) if plane % n == 0)
        length = next(exact, ceil(plane / ceil(plane / voxels)))
        return cls(batch, channels, depth, plane, 1, ceil(plane / length), length)

    @property
    def layers(self) -> int:
        """Layers of one volume."""
        return ceil(self.depth / self.planes)

    @property
    def row(self) -> int:
        """Bricks of one layer of one sample, with all channels."""
        return self.channels * self.runs

    @property
    def bricks(self) -> int:
        """All bricks of the tensor."""
        return self.batch * self.layers * self.row

    def part(self, samples: slice, layers: slice) -> BrickGrid:
        """The grid of these samples and layers alone, all of the layers or those of one sample."""
        stop = min(layers.stop * self.planes, self.depth)
        batch = samples.stop - samples.start
        return replace(self, batch=batch, depth=stop - layers.start * self.planes)

    def lots(
        self, elements: int, samples: slice | None = None, layers: slice | None = None
    ) -> Iterator[tuple[Where, slice]]:
        """Go through the grid in lots of about ``elements`` elements, at least a layer each.

        Args:
            elements: of x, in one lot.
            samples: which samples; all if None.
            layers: which layers; all if None. Part of them only of a single sample.

        Yields:
            The slices of samples and layers, and the bricks' numbers.
        """
        first_sample, last_sample = _range(samples, self.batch)
        first_layer, last_layer = _range(layers, self.layers)
        count = max(1, elements // max(1, self.row * self.voxels))
        samples_at_once = max(1, count // max(1, self.layers))
        for b in range(first_sample, last_sample, samples_at_once):
            b_stop = min(b + samples_at_once, last_sample)
            for layer in range(first_layer, last_layer, count):
                stop = min(layer + count, last_layer)
                start = (b * self.layers + layer) * self.row
                numbers = slice(start, start + (b_stop - b) * (stop - layer) * self.row)
                yield (slice(b, b_stop), slice(layer, stop)), numbers

    def read(self, x: Tensor, where: Where, dtype: torch.dtype) -> Tensor:
        """The bricks of a lot as rows, ``(bricks, voxels)``; may share memory with ``x``.

        Bricks that stick out are continued by their last voxels.
        """
        part = self._part(x, where).flatten(3)
        layers = where[1].stop - where[1].start
        missing = layers * self.planes - part.shape[2]
        excess = self.runs * self.voxels // self.planes - self.plane
        if missing or excess:
            part = F.pad(part.to(dtype), (0, excess, 0, missing), mode="replicate")
        rows = part.reshape(part.shape[0], self.channels, layers, self.runs, self.voxels)
        rows = rows.transpose(1, 2).to(dtype, memory_format=torch.contiguous_format)
        return rows.reshape(-1, self.voxels)

    def write(
        self, out: Tensor, where: Where, rows: Tensor, first: tuple[int, int] = (0, 0)
    ) -> None:
        """Put a lot's ``rows``, as :meth:`read` gave them, in their places in ``out``.

        ``first`` says which sample and which layer of the volume come first in ``out``.
        """
        samples, layers = where
        here = (
            slice(samples.start - first[0], samples.stop - first[0]),
            slice(layers.start - first[1], layers.stop - first[1]),
        )
        part = self._part(out, here)
        count = layers.stop - layers.start
        whole = rows.view(part.shape[0], count, self.channels, -1).transpose(1, 2)
        whole = whole.reshape(*part.shape[:2], count * self.planes, -1)
        whole = whole[:, :, : part.shape[2], : self.plane]
        part.copy_(whole.unflatten(3, part.shape[3:]))

    def spread(self, values: Tensor, where: Where) -> Tensor:
        """One number per sample and channel, ``(B, C)``, as a column for a lot's rows."""
        samples, layers = where
        part = values[samples, None, :, None]
        return part.expand(-1, layers.stop - layers.start, -1, self.runs).reshape(-1, 1)

    def total(self, rows: Tensor, where: Where) -> Tensor:
        """Sums over a lot's voxels per sample and channel; what sticks out does not count."""
        samples, layers = where
        shape = (samples.stop - samples.start, -1, self.channels, self.planes)
        planes = rows.view(*shape, self.runs * self.voxels // self.planes)[..., : self.plane].sum(4)
        in_order = planes.transpose(2, 3).flatten(1, 2)
        return in_order[:, : self.depth - layers.start * self.planes].sum(1)

    def _part(self, x: Tensor, where: Where) -> Tensor:
        samples, layers = where
        return x[samples, :, layers.start * self.planes : layers.stop * self.planes]


def _range(part: slice | None, count: int) -> tuple[int, int]:
    return (0, count) if part is None else (part.start, part.stop)
