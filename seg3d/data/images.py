"""The images of a case, which may lie in a file for each channel, as one volume."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from seg3d.common.errors import UserError
from seg3d.io import Header, Region, Volume, VolumeReader, open_volume, ram_of
from seg3d.io.in_ram import RamReader
from seg3d.io.reoriented import on_grid_of

# A file, or an array in memory with its geometry.
Image = Path | Volume


class ImageReader(VolumeReader):
    """The images of a case, open; what it reads is float32 with the channels of all.

    They lie along the axes of the first. What `read` gives is a copy, which may be changed.

    Args:
        images: one file or array per channel, or one that holds all channels.

    Attributes:
        images: as given.
        stored_bytes: of a voxel with all its channels in the files.
        ram: bytes of RAM that files take while they are open, and that arrays have.

    Raises:
        UserError: if a file cannot be opened, or channels lie on different grids.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, images: Sequence[Image]) -> None:
        self.images = images
        with ExitStack() as opened:
            stored = [opened.enter_context(_open(image)) for image in images]
            first = stored[0].header
            self._readers = [
                on_grid_of(images[0], first.grid, image, reader)
                for image, reader in zip(images, stored, strict=True)
            ]
            self._opened = opened.pop_all()
        channels = sum(reader.header.channels for reader in self._readers)
        notes = tuple(note for reader in self._readers for note in reader.header.notes)
        self.header = Header(first.grid, channels, first.native, notes)
        self.slow_axis = self._readers[0].slow_axis
        x, y, z = (max(sizes) for sizes in zip(*(one.chunk for one in self._readers), strict=True))
        self.chunk = x, y, z
        voxel_bytes = [one.dtype.itemsize * one.header.channels for one in self._readers]
        self.stored_bytes = sum(voxel_bytes)
        self.ram = sum(
            image.array.nbytes
            if isinstance(image, Volume)
            else ram_of(image, first.grid.shape, size)
            for image, size in zip(images, voxel_bytes, strict=True)
        )

    def read(self, region: Region) -> np.ndarray:
        parts = [reader.read(region) for reader in self._readers]
        return np.concatenate(parts, dtype=np.float32, casting="unsafe")

    def close(self) -> None:
        self._opened.close()


def _open(image: Image) -> VolumeReader:
    return RamReader(image) if isinstance(image, Volume) else open_volume(image)


def require_finite(images: Sequence[Image], count: int, where: str | None = None) -> None:
    """Require that no voxel of the images of a case is NaN or infinite.

    Args:
        images: of the case.
        count: of such voxels.
        where: they were looked for, unless everywhere.

    Raises:
        UserError: if there is one.
    """
    if count:
        raise UserError(
            f"{', '.join(map(str, images))} holds {count} voxels that are NaN or infinite",
            given=where,
            legal="finite numbers, as float32 holds them",
            fix="replace them (for example by the smallest value of the volume)",
        )


def not_finite(array: np.ndarray) -> int:
    """How many values are NaN or infinite."""
    return int(array.size - np.count_nonzero(np.isfinite(array)))
