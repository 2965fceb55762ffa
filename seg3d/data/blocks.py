"""A case of any size as the network wants it, read block by block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import torch
from torch import Tensor

from seg3d.data.grid_map import GridMap
from seg3d.data.intensity import Moments, normalise
from seg3d.data.survey import require_same_grid
from seg3d.errors import UserError
from seg3d.io import Header, open_volume
from seg3d.io.regions import Region, whole
from seg3d.plan import Plan


class CaseReader:
    """The images of a case, open, of which nothing has been read but the headers.

    What `read` gives is what `seg3d.data.transforms.preprocessing` makes of the whole volume, in
    streaming order (see `seg3d.data.grid_map`). The intensities of channels that are normalised
    by the volume's own mean and deviation need `measure` first.

    Args:
        images: one file per channel, or one with all channels.
        plan: what to make of them.

    Attributes:
        header: of the first image.
        grid_map: the way between the file's grid and the network's.
        moments: of the intensities, per channel.
        device: where voxels are put as they are read.
        slices_at_once: of the network's grid, that are read in one go; more are put together.

    Raises:
        UserError: if an image cannot be opened, if their grids differ, or if there are not as many
            channels as the plan has.
    """

    def __init__(self, images: Sequence[Path], plan: Plan) -> None:
        self.images = images
        self.plan = plan
        self._open = ExitStack()
        with ExitStack() as opened:
            self._readers = [opened.enter_context(open_volume(path)) for path in images]
            self._require_fit()
            self._open = opened.pop_all()
        self.header: Header = self._readers[0].header
        self.grid_map = GridMap.of(self.header.grid, self._readers[0].slow_axis, plan)
        self.moments = [Moments() for _ in plan.channels]
        self.device = torch.device("cpu")
        self.slices_at_once = 1

    def _require_fit(self) -> None:
        first = self._readers[0].header.grid
        for path, reader in zip(self.images[1:], self._readers[1:], strict=True):
            require_same_grid(self.images[0], first, path, reader.header.grid)
        channels = sum(reader.header.channels for reader in self._readers)
        names = [channel.name for channel in self.plan.channels]
        if channels != len(names):
            raise UserError(
                f"{self.images[0]}: the network needs {len(names)} channels ({', '.join(names)})",
                given=f"{channels} in {', '.join(path.name for path in self.images)}",
                legal="one file with all channels, or files NAME_0000, NAME_0001, ...",
            )

    @property
    def stored_bytes(self) -> int:
        """Of a voxel with all its channels in the files."""
        return sum(reader.dtype.itemsize * reader.header.channels for reader in self._readers)

    def measure(self) -> None:
        """Find the moments of the intensities, where they are needed, by reading everything."""
        if not any(channel.kind == "zscore" for channel in self.plan.channels):
            return
        for _, block in self._blocks(whole(self.grid_map.shape)):
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
            place = result[:, part.start - region[0].start : part.stop - region[0].start]
            place.copy_(block)
            for voxels, channel, moments in zip(
                place, self.plan.channels, self.moments, strict=True
            ):
                normalise(voxels, channel, moments)
        return result

    def _blocks(self, region: Region) -> Iterator[tuple[slice, Tensor]]:
        """A region on the network's grid, not normalised, slab by slab."""
        for start in range(region[0].start, region[0].stop, self.slices_at_once):
            part = slice(start, min(start + self.slices_at_once, region[0].stop))
            wanted = part, *region[1:]
            stored = self._stored(self.grid_map.forward.needed(wanted))
            yield part, self.grid_map.forward.apply(stored, wanted)

    def _stored(self, region: Region) -> Tensor:
        """A region of the file's grid, float32, in streaming order."""
        there = self.grid_map.in_file(region)
        parts = []
        for path, reader in zip(self.images, self._readers, strict=True):
            part = reader.read(there).astype(np.float32, copy=False)
            if not np.isfinite(part).all():
                raise UserError(
                    f"{path} holds voxels that are NaN or infinite",
                    given=f"{part.size - np.count_nonzero(np.isfinite(part))} of them {_at(there)}",
                    legal="finite numbers",
                    fix="replace them (for example by the smallest value of the volume)",
                )
            parts.append(part)
        array = parts[0] if len(parts) == 1 else np.concatenate(parts)
        turned = array.transpose(0, *(1 + axis for axis in self.grid_map.order))
        return torch.from_numpy(turned).to(self.device)

    def close(self) -> None:
        """Give back what is open."""
        self._open.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _at(region: Region) -> str:
    return f"in [{', '.join(f'{part.start}:{part.stop}' for part in region)}]"
