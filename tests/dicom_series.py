"""Small DICOM series on disk for tests, one file a slice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid


def write_slice(
    path: Path,
    pixels: np.ndarray,
    position: Sequence[float],
    *,
    orientation: Sequence[float] = (1, 0, 0, 0, 1, 0),
    spacing: Sequence[float] = (0.8, 0.5),
    series: str = "1.2.3",
    **fields: Any,
) -> Path:
    """Write a slice of integers; make the folder.

    Args:
        path: of the file.
        pixels: `(rows, columns)`.
        position: of the first pixel, LPS mm.
        orientation: direction of the rows, then of the columns.
        spacing: between rows, then between columns, in mm.
        series: its unique identifier.
        fields: of the dataset, by keyword.
    """
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    slice_ = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    slice_.SOPClassUID = meta.MediaStorageSOPClassUID
    slice_.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    slice_.Modality = "CT"
    slice_.SeriesInstanceUID = series
    slice_.StudyInstanceUID = "1.2"
    slice_.FrameOfReferenceUID = "1.2.9"
    slice_.ImagePositionPatient = [f"{value:.10g}" for value in position]
    slice_.ImageOrientationPatient = [f"{value:.10g}" for value in orientation]
    slice_.PixelSpacing = list(spacing)
    slice_.Rows, slice_.Columns = pixels.shape
    slice_.SamplesPerPixel = 1
    slice_.PhotometricInterpretation = "MONOCHROME2"
    slice_.BitsAllocated = slice_.BitsStored = 8 * pixels.itemsize
    slice_.HighBit = slice_.BitsStored - 1
    slice_.PixelRepresentation = int(pixels.dtype.kind == "i")
    slice_.PixelData = pixels.tobytes()
    for name, value in fields.items():
        setattr(slice_, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    slice_.save_as(path, enforce_file_format=True)
    return path


def write_series(
    folder: Path,
    voxels: np.ndarray,
    *,
    orientation: Sequence[float] = (1, 0, 0, 0, 1, 0),
    origin: Sequence[float] = (-10, -20, 30),
    step: Sequence[float] = (0, 0, 2.5),
    seed: int = 0,
    **fields: Any,
) -> Path:
    """Write `(X, Y, Z)` voxels; the files' names say nothing of the slices' order."""
    names = np.random.default_rng(seed).permutation(voxels.shape[2])
    for number, name in enumerate(names):
        write_slice(
            folder / f"IM{name:04d}",
            np.ascontiguousarray(voxels[:, :, number].T),
            np.add(origin, np.multiply(number, step)),
            orientation=orientation,
            **fields,
        )
    return folder


def write_enhanced(
    path: Path,
    pixels: np.ndarray,
    positions: Sequence[Sequence[float]],
    *,
    spacing: Sequence[float] = (0.8, 0.5),
    **fields: Any,
) -> Path:
    """Write frames of integers as an enhanced CT; make the folder.

    Args:
        path: of the file.
        pixels: `(frames, rows, columns)`.
        positions: of the first pixel of each frame, LPS mm.
        spacing: between rows, then between columns, in mm.
        fields: of the dataset, by keyword; SliceThickness goes to its measures.
    """
    write_slice(path, pixels[0], (0, 0, 0), Modality="CT")
    file = pydicom.dcmread(path)
    file.file_meta.MediaStorageSOPClassUID = file.SOPClassUID = EnhancedCTImageStorage
    del file.ImagePositionPatient, file.ImageOrientationPatient, file.PixelSpacing
    measures, orientation, shared = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing = list(spacing)
    measures.SliceThickness = fields.pop("SliceThickness", 2)
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    shared.PixelMeasuresSequence = [measures]
    shared.PlaneOrientationSequence = [orientation]
    file.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for position in positions:
        plane, frame = Dataset(), Dataset()
        plane.ImagePositionPatient = list(position)
        frame.PlanePositionSequence = [plane]
        frames.append(frame)
    file.PerFrameFunctionalGroupsSequence = frames
    file.PixelData = pixels.tobytes()
    for name, value in fields.items():
        setattr(file, name, value)
    file.save_as(path)
    return path
