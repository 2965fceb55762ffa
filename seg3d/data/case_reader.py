"""A case of any size as the network wants it, read block by block."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor

from seg3d.common.errors import UserError
from seg3d.data.grid_map import GridMap
from seg3d.data.images import Image, ImageReader, not_finite, require_finite
from seg3d.data.intensity import Moments, normalise
from seg3d.data.read_ahead import ReadAhead
from seg3d.geometry import Shape3
from seg3d.io.regions import SLAB, Region, VolumeReader, columns, portions
from seg3d.plan import Plan

# No machine is done with more.
MOST_VOXELS = 2**40


class CaseReader:
    """The images of a case, open, of which nothing has been read but the headers.

    What `read` gives lies on the network's grid, in streaming order (see `seg3d.data.grid_map`),
    and is normalised. The intensities of channels that are normalised by the volume's own mean and
    deviation need `measure` first.

    Args:
        images: one file or array per channel, or one with all channels.
        plan: what to make of them.
        read_ahead: keep a row of the file's chunks, if it has some (see `ReadAhead`).

    Attributes:
        header: of the first image, with the channels of all.
        stored_bytes: of a voxel with all its channels in the files.
        ram: bytes of RAM that files take while they are open, and that arrays have.
        grid_map: the way between the file's grid and the network's.
        chunk: voxels that can only be read together, in streaming order.
        moments: of the intensities, per channel.
        device: where voxels are put as they are read.
        slices_at_once: of the network's grid, that are read in one go; more are put together.

    Raises:
        UserError: if an image cannot be opened, if their grids differ, or if there are not as many
            channels as the plan has.
    """

    def __init__(self, images: Sequence[Image], plan: Plan, *, read_ahead: bool = False) -> None:
        self.images = images
        self.plan = plan
        stored = ImageReader(images)
        self.header = stored.header
        self.stored_bytes = stored.stored_bytes
        self.ram = stored.ram
        self._stored: VolumeReader = ReadAhead(stored) if read_ahead else stored
        self._require_channels()
        self._require_fewer_voxels()
        self.device = torch.device("cpu")
        self.grid_map = self._way()
        x, y, z = (stored.chunk[axis] for axis in self.grid_map.order)
        self.chunk: Shape3 = x, y, z
        self.moments = [Moments() for _ in plan.channels]
        self.slices_at_once = 1

    def _way(self) -> GridMap:
        return GridMap.of(self.header.grid, self._stored.slow_axis, self.plan)

    def _require_channels(self) -> None:
        names = [channel.name for channel in self.plan.channels]
        if self.header.channels != len(names):
            self.close()
            raise UserError(
                f"{self.images[0]}: the network needs {len(names)} channels ({', '.join(names)})",
                given=f"{self.header.channels} in {_short(self.images)}",
                legal="one file with all channels, or files NAME_0000, NAME_0001, ...",
            )

    def _require_fewer_voxels(self) -> None:
        """At the spacing of the network, of which a header may be millions of times."""
        grid, spacing = self.header.grid, self.plan.spacing
        if spacing is None:
            return
        lengths = np.multiply(grid.shape, grid.spacing) / spacing
        if not (voxels := float(np.prod(np.maximum(lengths, 1)))) <= MOST_VOXELS:
            self.close()
            raise UserError(
                f"{self.images[0]} would have {voxels:.2g} voxels at the spacing of the network",
                given=f"spacing {' x '.join(f'{step:g}' for step in grid.spacing)} mm",
                legal=f"spacing near {' x '.join(f'{step:g}' for step in spacing)} mm",
                fix="correct the spacing in its header",
            )

    def cut(self) -> list[Region]:
        """Cut the network's grid into slabs, and read in such slabs from now on."""
        shape, stored = self.grid_map.shape, self.grid_map.stored
        thinner = max(1.0, math.prod(stored) / math.prod(shape))
        regions = list(portions(shape, 0, int(SLAB / thinner)))
        self.slices_at_once = regions[0][0].stop
        return regions

    def measure(self, parts: tuple[int, int] = (1, 1)) -> None:
        """Find the moments of the intensities, where they are needed, by reading everything.

        Args:
            parts: in how many the second and the third axis are cut, so that less is held at once.
        """
        if not any(channel.kind == "zscore" for channel in self.plan.channels):
            return
        for region in columns(self.grid_map.shape, parts):
            for _, block in self._raw_blocks(region):
                for voxels, channel, moments in zip(
                    block, self.plan.channels, self.moments, strict=True
                ):
                    moments.add(voxels, channel)

    def read(self, region: Region) -> Tensor:
        """The preprocessed voxels `(C, d, h, w)` float32 of a region of the network's grid.

        Raises:
            UserError: if a file is damaged there, or holds values that are not finite.
        """
        lengths = [part.stop - part.start for part in region]
        result = torch.empty(len(self.plan.channels), *lengths, device=self.device)
        for part, block in self._blocks(region):
            result[:, part.start - region[0].start : part.stop - region[0].start] = block
        return result

    def _blocks(self, region: Region) -> Iterator[tuple[slice, Tensor]]:
        """A region on the network's grid, normalised, slab by slab."""
        for part, raw in self._raw_blocks(region):
            # It may be what a reader keeps.
            block = raw.clone()
            for voxels, channel, moments in zip(
                block, self.plan.channels, self.moments, strict=True
            ):
                normalise(voxels, channel, moments)
            yield part, block

    def _raw_blocks(self, region: Region) -> Iterator[tuple[slice, Tensor]]:
        """A region on the network's grid, not normalised, slab by slab."""
        for start in range(region[0].start, region[0].stop, self.slices_at_once):
            part = slice(start, min(start + self.slices_at_once, region[0].stop))
            wanted = part, *region[1:]
            stored = self._read_stored(self.grid_map.forward.needed(wanted))
            yield part, self.grid_map.forward.apply(stored, wanted)

    def _read_stored(self, region: Region) -> Tensor:
        """A region of the file's grid, float32, in streaming order."""
        there = self.grid_map.in_file(region)
        array = self._stored.read(there)
        require_finite(self.images, not_finite(array), _at(there))
        turned = array.transpose(0, *(1 + axis for axis in self.grid_map.order))
        return torch.from_numpy(turned).to(self.device)

    def close(self) -> None:
        """Give back what is open."""
        self._stored.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


def _short(images: Sequence[Image]) -> str:
    return ", ".join(str(getattr(image, "name", image)) for image in images)


def _at(region: Region) -> str:
    return f"in [{', '.join(f'{part.start}:{part.stop}' for part in region)}]"
