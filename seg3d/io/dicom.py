"""A DICOM series, a folder of one file a slice, through SimpleITK (the extra ``seg3d[dicom]``).

Slices are put in order by their position, and must be evenly spaced: a missing one is an error.
Slices that are not shifted along their normal (a tilted gantry) give a sheared affine, which says
exactly where every voxel lies. A region is read from its slices only. Rescale slope and intercept
are applied, compressed files are unpacked, by GDCM. Series are not written.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from seg3d.common.errors import UserError
from seg3d.geometry import Shape3
from seg3d.io import itk
from seg3d.io.header import Header, checked_header, voxel_dtype
from seg3d.io.regions import Region, VolumeReader, VolumeWriter, lengths

# Scanners round positions: to 0.1 mm where slices are 0.625 mm apart, for instance, and a slice is
# compared with the first and the last one.
STEP_TOLERANCE = 0.2
PIXEL_TOLERANCE_MM = 1e-3
SHOWN = 5


def is_dicom(path: Path) -> bool:
    """Whether a file is a DICOM file, other than the index of a folder."""
    if path.name == "DICOMDIR" or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def open_volume(path: Path) -> VolumeReader:
    return _Reader(path)


def create_volume(path: Path, header: Header, dtype: np.dtype, channels: int) -> VolumeWriter:
    raise UserError(
        f"{path}: DICOM is read, not written",
        legal="a name that ends like a volume, such as .nii.gz",
    )


@dataclass(frozen=True, eq=False)
class _Slice:
    """A slice's header.

    Attributes:
        affine: `(4, 4)`, index of column, row and slice to RAS+ mm.
        series: identifier and description.
    """

    path: Path
    shape: tuple[int, ...]
    affine: np.ndarray
    dtype: np.dtype
    series: tuple[str, str]

    @property
    def position(self) -> np.ndarray:
        return self.affine[:3, 3]

    @property
    def normal(self) -> np.ndarray:
        return np.cross(self.affine[:3, 0], self.affine[:3, 1])


def ram_of(path: Path, shape: Shape3, voxel_bytes: int) -> int:
    return 0


class _Reader(VolumeReader):
    slow_axis = 2

    def __init__(self, path: Path) -> None:
        slices = [_read_slice(file) for file in sorted(path.iterdir()) if is_dicom(file)]
        _require_one_series(path, slices)
        _require_one_stack(slices)
        first = slices[0]
        towards = first.normal / np.linalg.norm(first.normal)
        slices.sort(key=lambda one: float(one.position @ towards))
        self._files = [one.path for one in slices]
        affine = slices[0].affine.copy()
        if len(slices) > 1:
            affine[:3, 2] = _even_step(path, slices, towards)
        self.header = checked_header(path, (*first.shape, len(slices)), affine)
        self.dtype = np.result_type(*(voxel_dtype(one.path, one.dtype) for one in slices))

    def read(self, region: Region) -> np.ndarray:
        x, y, z = region
        voxels = np.empty((1, *lengths(region)), self.dtype, order="F")
        for number, file in enumerate(self._files[z]):
            voxels[0, :, :, number] = itk.read_voxels(file, _open(file))[x, y, 0]
        return voxels

    def close(self) -> None:
        pass


def _open(path: Path) -> Any:
    return itk.read_information(path, "GDCMImageIO")


def _read_slice(path: Path) -> _Slice:
    file = _open(path)
    columns, rows, frames = file.GetSize()
    if frames > 1 or file.GetNumberOfComponents() > 1 or not file.HasMetaDataKey("0020|0032"):
        raise UserError(
            f"{path} is not a slice of a volume",
            given=f"{columns} x {rows} pixels, {frames} frames, "
            f"{file.GetNumberOfComponents()} colours, "
            f"{'a' if file.HasMetaDataKey('0020|0032') else 'no'} position",
            legal="one frame of one number per pixel, with Image Position (Patient)",
            fix="move files that are not slices elsewhere, or convert the series with dcm2niix",
        )
    affine = itk.affine_of(file)
    # The only slice of a series has no neighbour that would tell the spacing.
    affine[:3, 2] *= float(_text(file, "0018|0050") or 1) / file.GetSpacing()[2]
    series = _text(file, "0020|000e"), _text(file, "0008|103e")
    return _Slice(path, (columns, rows), affine, itk.stored_dtype(file), series)


def _text(file: Any, key: str) -> str:
    """A field of the header; empty if it is not there."""
    return file.GetMetaData(key).strip(" \0") if file.HasMetaDataKey(key) else ""


def _require_one_series(path: Path, slices: list[_Slice]) -> None:
    series = [one.series for one in slices]
    if len(set(series)) > 1:
        raise UserError(
            f"{path} holds {len(set(series))} series",
            given="; ".join(
                f"{description or 'without description'}: {series.count((uid, description))} "
                f"slices, SeriesInstanceUID {uid}"
                for uid, description in sorted(set(series))
            ),
            legal="the slices of one series",
            fix="move every series to a folder of its own",
        )


def _require_one_stack(slices: list[_Slice]) -> None:
    """Require that all slices have the same size, spacing and orientation."""
    first = slices[0]
    for one in slices:
        turned = np.abs(one.affine[:3, :2] - first.affine[:3, :2]).max()
        if one.shape != first.shape or turned > PIXEL_TOLERANCE_MM:
            raise UserError(
                f"{one.path} and {first.path} are not slices of one volume",
                given=" and ".join(
                    f"{slice_.shape} pixels, steps {slice_.affine[:3, :2].T.round(4).tolist()} mm"
                    for slice_ in (one, first)
                ),
                legal="equal size, pixel spacing and orientation",
                fix="move localizers and slices of other stacks elsewhere",
            )


def _even_step(path: Path, slices: list[_Slice], towards: np.ndarray) -> np.ndarray:
    """From one slice to the next, in RAS+ mm.

    Args:
        path: of the series, for messages.
        slices: in order, at least two.
        towards: their normal, of length 1.

    Raises:
        UserError: if a slice is missing, there twice, or not where the others want it.
    """
    positions = np.array([one.position for one in slices])
    heights = positions @ towards
    steps = np.diff(heights)
    usual = float(np.median(steps))
    pairs = list(zip(pairwise(slices), steps, pairwise(heights), strict=True))
    doubled = [pair for pair, step, _ in pairs if step <= STEP_TOLERANCE * usual or step <= 0]
    if doubled:
        raise UserError(
            f"{path}: slices lie at the same position",
            given=_some([f"{one.path.name} and {other.path.name}" for one, other in doubled]),
            legal="one slice per position",
            fix="move every phase, echo or repetition to a folder of its own",
        )
    gaps = [
        f"{round(step / usual) - 1} between {low:g} and {high:g} mm "
        f"({one.path.name} and {other.path.name})"
        for (one, other), step, (low, high) in pairs
        if step > 1.5 * usual
    ]
    if gaps:
        raise UserError(
            f"{path}: slices are missing",
            given=_some(gaps),
            legal=f"a slice every {usual:g} mm",
            fix="complete the series",
        )
    step: np.ndarray = (positions[-1] - positions[0]) / (len(slices) - 1)
    even = positions[0] + np.arange(len(slices))[:, None] * step
    if np.linalg.norm(positions - even, axis=1).max() > STEP_TOLERANCE * np.linalg.norm(step):
        raise UserError(
            f"{path}: slices are not evenly spaced along a line",
            given=f"steps from {steps.min():g} to {steps.max():g} mm",
            legal=f"positions within {STEP_TOLERANCE:.0%} of a step",
            fix="resample the series, for example with dcm2niix",
        )
    return step


def _some(found: list[str]) -> str:
    return "; ".join([*found[:SHOWN], *([f"and {len(found) - SHOWN} more"] * (len(found) > SHOWN))])
