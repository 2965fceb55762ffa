"""A folder of one file a slice; a region is read from its slices only."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from seg3d.common.errors import UserError
from seg3d.common.notes import Note
from seg3d.io import itk
from seg3d.io.dicom.files import PIXEL_SPACING, POSITION, notes_on, open_file, read_pixels, text
from seg3d.io.dicom.stack import Slice, stacked
from seg3d.io.header import checked_header, no_geometry, voxel_dtype
from seg3d.io.regions import Region, VolumeReader, lengths


class _Series(NamedTuple):
    """Identifier and description."""

    uid: str
    description: str


class SeriesReader(VolumeReader):
    """Slices, each in a file of its own.

    Args:
        path: of the folder, for messages.
        files: of the slices, in any order.

    Raises:
        UserError: if they are not all the slices of one volume.
    """

    slow_axis = 2

    def __init__(self, path: Path, files: list[Path]) -> None:
        slices, series, dtypes = [], [], []
        notes: set[Note] = set()
        for number, name in enumerate(files):
            file = open_file(name)
            slices.append(_slice(name, number, file))
            series.append(_Series(text(file, "0020|000e"), text(file, "0008|103e")))
            notes.update(notes_on(path, file))
            dtypes.append(voxel_dtype(name, itk.stored_dtype(file)))
        _require_one_series(path, series)
        order, affine = stacked(
            path, slices, "move every phase, echo or repetition to a folder of its own"
        )
        self._files = [files[number] for number in order]
        header = checked_header(path, (*slices[0].shape, len(slices)), affine)
        self.header = replace(header, notes=tuple(notes))
        self.dtype = np.result_type(*dtypes)

    def read(self, region: Region) -> np.ndarray:
        x, y, z = region
        voxels = np.empty((1, *lengths(region)), self.dtype, order="F")
        for number, file in enumerate(self._files[z]):
            voxels[0, :, :, number] = read_pixels(file, open_file(file))[x, y, 0]
        return voxels

    def close(self) -> None:
        pass


def _slice(path: Path, number: int, file: Any) -> Slice:
    columns, rows, frames = file.GetSize()
    if frames > 1 or file.GetNumberOfComponents() > 1 or not text(file, POSITION):
        raise UserError(
            f"{path} is not a slice of a volume",
            given=f"{columns} x {rows} pixels, {frames} frames, "
            f"{file.GetNumberOfComponents()} colours, "
            f"{'a' if text(file, POSITION) else 'no'} position",
            legal="one frame of one number per pixel, with Image Position (Patient)",
            fix="give a file of many frames by its own name"
            if frames > 1
            else "move files that are not slices elsewhere, or convert the series with dcm2niix",
        )
    _require_spacing(path, file)
    affine = itk.affine_of(file)
    # The only slice of a series has no neighbour that would tell the spacing.
    affine[:3, 2] *= float(text(file, "0018|0050") or 1) / file.GetSpacing()[2]
    return Slice(path.name, number, (columns, rows), affine)


def _require_spacing(path: Path, file: Any) -> None:
    """ITK takes 1 mm, or anything, for a spacing that is none."""
    spacing = text(file, PIXEL_SPACING)
    try:
        usable = all(0 < float(length) < math.inf for length in spacing.split("\\"))
    except ValueError:
        usable = False
    if file.HasMetaDataKey(PIXEL_SPACING) and not usable:
        raise no_geometry(path, f"pixel spacing {spacing}")


def _require_one_series(path: Path, series: list[_Series]) -> None:
    if len(set(series)) > 1:
        raise UserError(
            f"{path} holds {len(set(series))} series",
            given="; ".join(
                f"{one.description or 'without description'}: {series.count(one)} "
                f"slices, SeriesInstanceUID {one.uid}"
                for one in sorted(set(series))
            ),
            legal="the slices of one series",
            fix="move every series to a folder of its own",
        )
