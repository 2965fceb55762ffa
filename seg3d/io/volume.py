"""One way to read and write every volume format."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from seg3d.errors import UserError
from seg3d.geometry import Grid
from seg3d.io.formats import FOLDERS, FORMATS, suffix
from seg3d.io.header import Header
from seg3d.io.regions import VolumeReader, VolumeWriter, whole

# Counting every value takes a table of this length; label files need no more.
LARGEST_LABEL = 65535
# Labels are computed with as 32-bit integers.
LABEL_RANGE = np.iinfo(np.int32)
# Labels stored as floating point pick up dust on the way; more than this is not a label.
LABEL_ROUNDING = 1e-3


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
        UserError: if the ending is not known, or the disk has too little space.
    """
    path, ending = Path(path), suffix(path)
    if path.exists() and path.is_dir() != (ending in FOLDERS):
        raise UserError(
            f"{path} is a {'folder' if path.is_dir() else 'file'}", fix="give another name"
        )
    return FORMATS[ending].create_volume(path, header, np.dtype(dtype), channels)


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


def read_labels(path: str | Path) -> Volume:
    """Read a label volume as integers `(1, X, Y, Z)`, whatever number type the file uses.

    Raises:
        UserError: if values are not whole numbers of 32 bits, or there is more than one channel.
    """
    volume = read_volume(path)
    if volume.header.channels != 1:
        raise UserError(
            f"{path} is used as a label but has {volume.header.channels} channels",
            legal="one integer per voxel",
            fix="merge the channels into one label volume",
        )
    array = volume.array
    if np.issubdtype(array.dtype, np.floating):
        rounded = np.rint(array)
        with np.errstate(invalid="ignore"):
            wrong = ~(np.abs(array - rounded) <= LABEL_ROUNDING)
        if wrong.any():
            examples = np.unique(array[wrong])[:5].tolist()
            raise UserError(
                f"{path} is used as a label but {int(wrong.sum())} voxels are not whole numbers",
                given=f"values such as {', '.join(f'{value:g}' for value in examples)}",
                legal="whole numbers",
                fix="check that this is the label file and not an image or a probability map",
            )
        array = rounded
    if not np.can_cast(array.dtype, np.int32):
        smallest, largest = int(array.min()), int(array.max())
        if smallest < LABEL_RANGE.min or largest > LABEL_RANGE.max:
            raise UserError(
                f"{path} is used as a label but holds values that are too large",
                given=f"values from {smallest} to {largest}",
                legal=f"{LABEL_RANGE.min} to {LABEL_RANGE.max}",
                fix="renumber the labels",
            )
        array = array.astype(np.int32)
    return Volume(array, volume.header)


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
    if path.is_dir() != (suffix(path) in FOLDERS):
        raise UserError(f"{path} is not a {'file' if path.is_dir() else 'folder'}")
    return path
