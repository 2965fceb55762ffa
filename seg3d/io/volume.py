"""One way to read and write every volume format."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seg3d.errors import UserError
from seg3d.files import atomic_write
from seg3d.geometry import Grid
from seg3d.io import itk, nifti

FORMATS = {".nii": nifti, ".nii.gz": nifti, ".nrrd": itk, ".mha": itk}
SUFFIXES = tuple(FORMATS)

# Counting every value takes a table of this length; label files need no more.
LARGEST_LABEL = 65535
# Labels are computed with as 32-bit integers.
LABEL_RANGE = np.iinfo(np.int32)
# Labels stored as floating point pick up dust on the way; more than this is not a label.
LABEL_ROUNDING = 1e-3


@dataclass(frozen=True, eq=False)
class Header:
    """What a file says about itself before its voxels are read.

    Attributes:
        grid: shape and position.
        channels: number of channels (1 for a 3D file).
        native: the format's own header, kept so that outputs can carry it.
    """

    grid: Grid
    channels: int
    native: Any


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


def suffix(path: str | Path) -> str:
    """The volume ending of a file name, or raise `UserError` if it is not one of `SUFFIXES`."""
    name = Path(path).name.lower()
    for known in sorted(SUFFIXES, key=len, reverse=True):
        if name.endswith(known):
            return known
    raise UserError(f"{path} is not a volume that seg3d reads", legal=", ".join(SUFFIXES))


def stem(path: str | Path) -> str:
    """The file name without its volume ending: ``liver_1.nii.gz`` gives ``liver_1``."""
    return Path(path).name[: -len(suffix(path))]


def read_header(path: str | Path) -> Header:
    """Read geometry and number of channels without the voxels.

    Raises:
        UserError: if the file is missing, damaged, or not a 3D volume.
    """
    path = _existing(path)
    return _header(path, *FORMATS[suffix(path)].read_header(path))


def read_volume(path: str | Path) -> Volume:
    """Read a whole volume as `(C, X, Y, Z)`.

    Raises:
        UserError: if the file is missing, damaged, not a 3D volume, or not of real numbers.
    """
    path = _existing(path)
    array, affine, native = FORMATS[suffix(path)].read(path)
    header = _header(path, array.shape, affine, native)
    if array.dtype.kind not in "biuf":
        raise UserError(
            f"{path} holds {array.dtype} voxels",
            legal="integer or floating-point numbers",
            fix="convert it to one number per voxel",
        )
    if array.dtype.kind == "f" and array.dtype.itemsize > 4:
        # float32 holds any scanner's numbers; what it does not hold becomes infinite.
        with np.errstate(over="ignore"):
            array = array.astype(np.float32)
    array = array.reshape(*header.grid.shape, header.channels)
    return Volume(np.moveaxis(array, -1, 0), header)


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
    ending = suffix(path)
    stored = array[0] if array.shape[0] == 1 else np.moveaxis(array, 0, -1)
    with atomic_write(path, suffix=ending) as temporary:
        FORMATS[ending].write(temporary, stored, header.grid.affine, header.native)


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist" if not path.exists() else f"{path} is not a file")
    return path


def _header(path: Path, shape: tuple[int, ...], affine: np.ndarray, native: Any) -> Header:
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    # NIfTI keeps the fourth axis for time and puts vectors on the fifth.
    if len(shape) == 5 and shape[3] == 1:
        shape = (*shape[:3], shape[4])
    if len(shape) not in (3, 4) or min(shape) < 1:
        raise UserError(
            f"{path} is not a 3D volume",
            given=f"shape {tuple(shape)}",
            legal="three axes, or four with the channels last",
        )
    affine = np.asarray(affine, dtype=np.float64)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise UserError(
            f"{path} has no usable geometry",
            given=f"affine {affine.tolist()}",
            legal="an invertible affine",
            fix="repair the header (for example by converting the volume anew from DICOM)",
        )
    x, y, z = (int(size) for size in shape[:3])
    channels = int(shape[3]) if len(shape) == 4 else 1
    return Header(Grid((x, y, z), affine), channels, native)
