"""One way to read and write every volume format."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from seg3d.common.errors import UserError
from seg3d.geometry import Grid, Shape3
from seg3d.io import ome_zarr
from seg3d.io.formats import DICOM, FORMATS, STORES, WRITTEN, suffix, target_suffix
from seg3d.io.header import Header
from seg3d.io.regions import VolumeReader, VolumeWriter, whole


@dataclass(frozen=True, eq=False)
class Volume:
    """A volume in memory.

    Attributes:
        array: `(C, X, Y, Z)`, in the order of the file's axes.
        header: geometry and the format's own header.
    """

    array: np.ndarray
    header: Header

    @property
    def grid(self) -> Grid:
        return self.header.grid

    def __str__(self) -> str:
        return "array"


def open_volume(path: str | Path) -> VolumeReader:
    """Open a volume to be read by regions; only its header is read now.

    Raises:
        UserError: if the file is missing, damaged, not a 3D volume, or not of real numbers.
    """
    path = _existing(path)
    return FORMATS[suffix(path)].open_volume(path)


def create_volume(
    path: str | Path, header: Header, dtype: DTypeLike, channels: int = 1
) -> VolumeWriter:
    """Begin a volume to be written by regions; it appears under its name when it is finished.

    Args:
        path: where to; the ending gives the format.
        header: of the volume whose geometry and units the output shall carry.
        dtype: the number type to be stored.
        channels: C of the regions to come, whatever ``header`` says; one channel is written as a
            3D file.

    Raises:
        UserError: if the ending is not known or of a format that is only read, or the disk has too
            little space.
    """
    path = Path(path)
    require_replaceable(path)
    return WRITTEN[target_suffix(path)].create_volume(path, header, np.dtype(dtype), channels)


def require_replaceable(path: Path) -> None:
    """Require that nothing has a volume's name, or something that may be replaced by the volume.

    Raises:
        UserError: if it is a folder where a file is to be, or the other way round, or a folder that
            is no Zarr store where one is to be; or if the ending is not that of a format that is
            written.
    """
    ending = target_suffix(path)
    if path.exists() and path.is_dir() != (ending in STORES):
        raise UserError(
            f"{path} is a {'folder' if path.is_dir() else 'file'}", fix="give another name"
        )
    if path.exists() and ending in STORES and not ome_zarr.is_node(path):
        raise UserError(
            f"{path} exists and is not a Zarr store",
            legal="a new name, or a store to be replaced",
        )


def ram_of(path: str | Path, shape: Shape3, voxel_bytes: int) -> int:
    """Bytes of RAM that a volume takes while it is open to be read or written.

    Args:
        path: of the volume; its ending gives the format.
        shape: `(X, Y, Z)`.
        voxel_bytes: bytes of a voxel with all its channels.
    """
    return FORMATS[suffix(path)].ram_of(Path(path), shape, voxel_bytes)


def read_header(path: str | Path) -> Header:
    """Read geometry and number of channels without the voxels.

    Raises:
        UserError: if the file is missing, damaged, not a 3D volume, or not of real numbers.
    """
    with open_volume(path) as volume:
        return volume.header


def read_volume(path: str | Path) -> Volume:
    """Read a whole volume as `(C, X, Y, Z)`.

    Raises:
        UserError: if the file is missing, damaged, not a 3D volume, or not of real numbers.
    """
    with open_volume(path) as volume:
        return Volume(volume.read(whole(volume.header.grid.shape)), volume.header)


def write_volume(path: str | Path, array: np.ndarray, header: Header) -> None:
    """Write `(C, X, Y, Z)` with the geometry of ``header``; C = 1 is written as a 3D file.

    The file appears under its final name only when it is whole.

    Args:
        path: where to; the ending gives the format.
        array: voxels in the order of ``header``'s axes, in the number type to be stored.
        header: of the volume whose geometry and units the output shall carry.
    """
    with create_volume(path, header, array.dtype, channels=len(array)) as volume:
        volume.write(whole(header.grid.shape), array)


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path} does not exist")
    ending = suffix(path)
    if ending != DICOM and path.is_dir() != (ending in STORES):
        raise UserError(f"{path} is not a {'file' if path.is_dir() else 'folder'}")
    if not path.is_dir() and not path.is_file():
        raise UserError(f"{path} is not a regular file")
    return path
