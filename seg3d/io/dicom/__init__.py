"""DICOM through SimpleITK (the extra ``seg3d[dicom]``).

A volume is a series, which is a folder of one file a slice; or a file of many frames, or of one.

Slices are put in order by their position, and must be evenly spaced: a missing one is an error.
Slices that are not shifted along their normal (a tilted gantry) give a sheared affine, which says
exactly where every voxel lies. Rescale slope and intercept are applied, compressed files are
unpacked, by GDCM. DICOM is not written.

========  ======================================================================
`files`   what is a file of DICOM, and what its header says
`stack`   slices: in order, evenly spaced, one volume
`series`  a reader of one file a slice, which reads a region's slices only
`frames`  a reader of one file of many frames (enhanced CT and MR), which holds it
========  ======================================================================
"""

from __future__ import annotations

import math
from pathlib import Path

from seg3d.geometry import Shape3
from seg3d.io.dicom.files import dicom_files, has_frames, is_dicom, open_file
from seg3d.io.dicom.frames import FrameReader
from seg3d.io.dicom.series import SeriesReader
from seg3d.io.regions import VolumeReader

__all__ = ["has_frames", "is_dicom", "open_volume", "ram_of"]


def open_volume(path: Path) -> VolumeReader:
    files = dicom_files(path)
    if len(files) == 1:
        file = open_file(files[0])
        if file.GetSize()[2] > 1 or has_frames(files[0]):
            return FrameReader(files[0], file)
    return SeriesReader(path, files)


def ram_of(path: Path, shape: Shape3, voxel_bytes: int) -> int:
    # ITK's own and numpy's, of a file of frames; a slice is little.
    return 2 * math.prod(shape) * voxel_bytes if len(dicom_files(path)) == 1 else 0
