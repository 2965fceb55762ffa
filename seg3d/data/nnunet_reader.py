"""A case as a network of nnU-Net's wants it: cropped, normalised, then resampled.

Isensee et al., "nnU-Net", Nature Methods 18, 2021; what counts is what version 2 of the
program does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from seg3d.data.case_reader import CaseReader
from seg3d.data.grid_map import GridMap
from seg3d.data.images import Image
from seg3d.data.intensity import normalise
from seg3d.data.nonzero import Nonzero
from seg3d.io.regions import Region, columns, portions, slabs
from seg3d.io.resampling import CUBIC
from seg3d.plan import Plan


class NnunetReader(CaseReader):
    """As `CaseReader`, by the rules of nnU-Net.

    Args:
        images: as for `CaseReader`.
        plan: whose `nnunet` is not None.
        read_ahead: as for `CaseReader`.
        cropped: as nnU-Net crops it, for which the images are read once; or, if only the size
            matters, not.
    """

    def __init__(
        self,
        images: Sequence[Image],
        plan: Plan,
        *,
        read_ahead: bool = False,
        cropped: bool = True,
    ) -> None:
        self._cropped = cropped
        super().__init__(images, plan, read_ahead=read_ahead)

    def _way(self) -> GridMap:
        grid, slow_axis = self.header.grid, self._stored.slow_axis
        self.grid_map = GridMap.of(grid, slow_axis, self.plan)
        if not self._cropped:
            return self.grid_map
        shape = self.grid_map.stored
        read = (self._read_stored(region).numpy() for region in portions(shape, 0))
        masked = any(channel.nonzero for channel in self.plan.channels)
        self._nonzero = Nonzero.of(shape, read, masked)
        self.ram += self._nonzero.ram
        return GridMap.of(grid, slow_axis, self.plan, self._nonzero.box)

    def measure(self, parts: tuple[int, int] = (1, 1)) -> None:
        """Find the moments and the range of the intensities, by reading everything.

        Args:
            parts: as for `CaseReader`.
        """
        if not self._overshoots and not any(
            channel.kind in ("zscore", "unit") for channel in self.plan.channels
        ):
            return
        separate = self.grid_map.forward.separate
        others = tuple(axis for axis in range(3) if axis != separate)
        count = 1 if separate is None else self.grid_map.stored[separate]
        low, high = (torch.full((len(self.moments), count), sign * math.inf) for sign in (1, -1))
        for column in columns(self.grid_map.stored, parts):
            for region in slabs(column, 0, self.slices_at_once):
                here = slice(None) if separate is None else region[separate]
                block = self._read_stored(region)
                mask = self._mask(block, region)
                for number, channel in enumerate(self.plan.channels):
                    voxels = block[number]
                    least, largest = voxels, voxels
                    if channel.nonzero and mask is not None:
                        self.moments[number].count_in(voxels[mask])
                        least = voxels.masked_fill(~mask, math.inf)
                        largest = voxels.masked_fill(~mask, -math.inf)
                    else:
                        self.moments[number].count_in(voxels)
                    part = low[number, here]
                    part.copy_(torch.minimum(part, least.amin(others).cpu()))
                    part = high[number, here]
                    part.copy_(torch.maximum(part, largest.amax(others).cpu()))
        for number, moments in enumerate(self.moments):
            moments.low, moments.high = low[number].tolist(), high[number].tolist()

    def _blocks(self, region: Region) -> Iterator[tuple[slice, Tensor]]:
        """A region on the network's grid, normalised, slab by slab."""
        forward = self.grid_map.forward
        for wanted in slabs(region, 0, self.slices_at_once):
            needed = forward.needed(wanted)
            # It may be what a reader keeps.
            block = self._read_stored(needed).clone()
            mask = self._mask(block, needed)
            for voxels, channel, moments in zip(
                block, self.plan.channels, self.moments, strict=True
            ):
                normalise(voxels, channel, moments, mask)
            yield wanted[0], forward.apply(block, wanted, within=self._within(needed))

    def _mask(self, block: Tensor, region: Region) -> Tensor | None:
        """What channels are normalised over that are not normalised over all voxels, if any are."""
        if not any(channel.nonzero for channel in self.plan.channels):
            return None
        x, y, z = (
            slice(first + part.start, first + part.stop)
            for first, part in zip(self.grid_map.origin, region, strict=True)
        )
        enclosed = torch.from_numpy(self._nonzero.enclosed((x, y, z)))
        return (block != 0).any(0) | enclosed.to(block.device)

    @property
    def _overshoots(self) -> bool:
        """Whether resampling may give values that the image does not have."""
        forward = self.grid_map.forward
        return CUBIC in forward.orders and forward.source_shape != forward.shape

    def _within(self, needed: Region) -> tuple[Tensor, Tensor] | None:
        """What splines shall not overshoot: the range of all voxels, or of those of each slice."""
        if not self._overshoots:
            return None
        forward = self.grid_map.forward
        shape, here = [1, 1, 1], slice(None)
        if forward.separate is not None:
            shape[forward.separate], here = -1, needed[forward.separate]
        channels = range(len(self.moments))
        low, high = (
            torch.stack([self._end(number, name, here).view(shape) for number in channels])
            for name in ("low", "high")
        )
        return low, high

    def _end(self, number: int, name: str, here: slice) -> Tensor:
        """An end of the range of a channel, normalised."""
        channel, moments = self.plan.channels[number], self.moments[number]
        values = torch.tensor(getattr(moments, name)[here], device=self.device)
        normalise(values, channel, moments, torch.ones_like(values, dtype=torch.bool))
        # Outside of the mask voxels stay zero.
        bound = {"max": 0} if name == "low" else {"min": 0}
        return values.clamp(**bound) if channel.nonzero else values
