"""One file of many frames: enhanced CT and MR; all of it is held while it is open.

ITK reads the pixels. Where the frames lie it tells only if they come in order and at even steps, so
that is read from the header by pydicom.
"""

from __future__ import annotations

import struct
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from seg3d.common.errors import UserError
from seg3d.io import itk
from seg3d.io.arrays import ArrayReader
from seg3d.io.dicom.elements import DEFLATED
from seg3d.io.dicom.files import notes_on, read_pixels, transfer_syntax
from seg3d.io.dicom.stack import Slice, stacked
from seg3d.io.header import checked_header, voxel_dtype

WITH_ANOTHER_PROGRAM = "for example with dcm2niix"
SHOWN = 5
# What pydicom raises on files that are damaged, and what a field of another kind leads to.
DAMAGED = (
    ArithmeticError, AttributeError, EOFError, LookupError, NotImplementedError, OSError,
    RecursionError, TypeError, ValueError, struct.error,
)  # fmt: skip


class FrameReader(ArrayReader):
    """Frames of one file.

    Args:
        path: of the file.
        file: as ITK has opened it.

    Raises:
        UserError: if the frames are not all the slices of one volume.
    """

    slow_axis = 2

    def __init__(self, path: Path, file: Any) -> None:
        self.path = path
        self._file = file
        if file.GetNumberOfComponents() > 1:
            raise UserError(
                f"{path} is not a volume",
                given=f"{file.GetNumberOfComponents()} colours",
                legal="frames of one number per pixel",
            )
        slices = _slices(path, file.GetSize())
        self._order, affine = stacked(path, slices, f"split the file, {WITH_ANOTHER_PROGRAM}")
        header = checked_header(path, file.GetSize(), affine)
        self.header = replace(header, notes=notes_on(path, file))
        self.dtype = voxel_dtype(path, itk.stored_dtype(file))
        self._held: np.ndarray | None = None

    def _array(self) -> np.ndarray:
        if self._held is None:
            voxels = read_pixels(self.path, self._file)
            in_order = self._order == sorted(self._order)
            self._held = voxels if in_order else voxels[:, :, self._order]
        return self._held

    def close(self) -> None:
        self._held = None


def _slices(path: Path, size: tuple[int, int, int]) -> list[Slice]:
    """Where the frames lie.

    Args:
        path: of the file.
        size: columns, rows and frames.
    """
    try:
        # pydicom remarks on values that are not as the standard has them.
        with warnings.catch_warnings(action="ignore"):
            header = _read_header(path)
            shared = header.get("SharedFunctionalGroupsSequence") or [{}]
            frames = [_Frame(one, shared[0]) for one in header.PerFrameFunctionalGroupsSequence]
            slices = [
                Slice(f"frame {number + 1}", number, size[:2], frame.affine)
                for number, frame in enumerate(frames)
            ]
            scales = {frame.scale for frame in frames}
    except DAMAGED as error:
        raise _not_told(path, f"{type(error).__name__}: {error}") from error
    if len(slices) != size[2]:
        raise _not_told(path, f"{len(slices)} positions for {size[2]} frames")
    if len(scales) > 1:
        raise UserError(
            f"{path}: its frames are scaled differently",
            given=f"slope and intercept {', '.join(map(str, sorted(scales)[:SHOWN]))}",
            legal="the same for all frames",
            fix=f"convert it, {WITH_ANOTHER_PROGRAM}",
        )
    return slices


def _read_header(path: Path) -> Any:
    try:
        import pydicom
    except ImportError as error:
        raise UserError(
            f"{path} needs pydicom, which is not installed", fix="pip install 'seg3d[dicom]'"
        ) from error
    if transfer_syntax(path) == DEFLATED:
        raise UserError(
            f"{path} is packed as a whole, which is not read for files of many frames",
            fix="unpack it, for example with dcmconv",
        )
    header = pydicom.dcmread(path, stop_before_pixels=True)
    if header.get("Modality") == "SEG":
        raise UserError(
            f"{path} is a segmentation in DICOM, which is not read",
            fix="convert it to .nii.gz or .nrrd, for example with 3D Slicer or dcmqi",
        )
    return header


class _Frame:
    """What is said of one frame, or of all.

    Args:
        own: functional groups of the frame, as pydicom has read them.
        shared: those of all frames.
    """

    def __init__(self, own: Any, shared: Any) -> None:
        self._groups = (own, shared)

    @property
    def affine(self) -> np.ndarray:
        """`(4, 4)`, index of column, row and slice to RAS+ mm."""
        measures = self._group("PixelMeasuresSequence")
        orientation = self._group("PlaneOrientationSequence").ImageOrientationPatient
        along_row, along_column = np.reshape(np.array(orientation, float), (2, 3))
        between_rows, between_columns = map(float, measures.PixelSpacing)
        thickness = float(measures.get("SliceThickness") or 1)
        lps = np.eye(4)
        lps[:3, 0] = along_row * between_columns
        lps[:3, 1] = along_column * between_rows
        lps[:3, 2] = np.cross(along_row, along_column) * thickness
        lps[:3, 3] = self._group("PlanePositionSequence").ImagePositionPatient
        return itk.LPS_TO_RAS @ lps

    @property
    def scale(self) -> tuple[float, float]:
        """Slope and intercept that ITK applies to the frame."""
        try:
            group = self._group("PixelValueTransformationSequence")
        except LookupError:
            return 1.0, 0.0
        return float(group.RescaleSlope), float(group.RescaleIntercept)

    def _group(self, name: str) -> Any:
        for groups in self._groups:
            if found := groups.get(name):
                return found[0]
        raise LookupError(f"no {name}")


def _not_told(path: Path, given: str) -> UserError:
    return UserError(
        f"{path}: its header does not tell where every frame lies",
        given=given,
        legal="enhanced CT or MR, with position, orientation and spacing of the frames",
        fix=f"convert it, {WITH_ANOTHER_PROGRAM}",
    )
