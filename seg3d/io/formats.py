"""Which format a path is in.

A name's ending tells, but for DICOM: any file of DICOM, and any folder of such files (a series),
is a volume; without one of the known endings, its ending is "". Some formats keep header and voxels
in two files, of which the header is the volume. A path into a Zarr store, such as
``scan.ome.zarr/2``, belongs to the store.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np

from seg3d.common.errors import UserError
from seg3d.geometry import Shape3
from seg3d.io import dicom, itk, nifti, npy, ome_zarr, segy
from seg3d.io.header import Header
from seg3d.io.regions import VolumeReader, VolumeWriter


class Format(Protocol):
    """What the module of a format offers; `seg3d.io.volume` has the functions of these names."""

    def open_volume(self, path: Path) -> VolumeReader:
        """Open a file (or folder) that exists."""

    def ram_of(self, path: Path, shape: Shape3, voxel_bytes: int) -> int:
        """Bytes of RAM that it takes while it is open."""


class WrittenFormat(Format, Protocol):
    """The same of a format that is written too."""

    def create_volume(
        self, path: Path, header: Header, dtype: np.dtype, channels: int
    ) -> VolumeWriter:
        """Begin a file (or folder)."""


DICOM = ""
# An ending that is part of another stands behind it.
WRITTEN: dict[str, WrittenFormat] = {
    ".nii": nifti,
    ".nii.gz": nifti,
    ".seg.nrrd": itk,
    ".nrrd": itk,
    ".mha": itk,
    ".npy": npy,
    ".sgy": segy,
    ".segy": segy,
    ".ome.zarr": ome_zarr,
    ".zarr": ome_zarr,
}
FORMATS: dict[str, Format] = {
    **WRITTEN,
    ".img": nifti,
    ".hdr": nifti,
    ".nhdr": itk,
    ".mhd": itk,
    ".dcm": dicom,
    DICOM: dicom,
}
# Two files cannot appear at the same moment, and DICOM holds more than seg3d knows.
WRITTEN_INSTEAD = {
    ".img": ".nii.gz",
    ".hdr": ".nii.gz",
    ".nhdr": ".nrrd",
    ".mhd": ".mha",
    ".dcm": ".nii.gz",
    DICOM: ".nii.gz",
}
SUFFIXES = tuple(ending for ending in FORMATS if ending != DICOM)
SEGY = tuple(ending for ending, module in FORMATS.items() if module is segy)
STORES = (".ome.zarr", ".zarr")
# As 3D Slicer calls a segmentation of the volume of that name beside it.
SEGMENTATION = ".seg.nrrd"
# Where header and voxels lie in two files.
ENDINGS_OF_HEADERS = (".hdr", ".nhdr", ".mhd")
ENDINGS_OF_VOXELS = (".img", ".raw", ".raw.gz", ".zraw")


def suffix(path: str | Path) -> str:
    """The volume ending of a path, or raise `UserError` if it is none that seg3d reads."""
    path = Path(path)
    name = store_of(path).name.lower()
    for known in SUFFIXES:
        if name.endswith(known):
            return known
    if dicom.is_dicom(path) or _is_series(path):
        return DICOM
    raise UserError(
        f"{path} is not a volume that seg3d reads",
        legal=f"{', '.join(SUFFIXES)}, or a folder of DICOM files",
    )


def target_suffix(path: Path) -> str:
    """The ending of a volume that is to be written.

    Raises:
        UserError: if no format has it, or one that is only read.
    """
    legal = f"a name that ends in {', '.join(WRITTEN)}"
    try:
        ending = suffix(path)
    except UserError as error:
        raise UserError(f"{path} is not a volume that seg3d writes", legal=legal) from error
    if ending not in WRITTEN:
        raise UserError(
            f"{path}: {ending or 'DICOM'} is read, not written",
            legal=legal,
            fix=f"give a name that ends in {WRITTEN_INSTEAD[ending]}",
        )
    return ending


def written_suffix(path: str | Path) -> str:
    """The ending of volumes that are made of a volume: its own, unless that is only read."""
    ending = suffix(path)
    return WRITTEN_INSTEAD.get(ending, ending)


def stem(path: str | Path) -> str:
    """The name of a volume without its ending: ``liver_1.nii.gz`` gives ``liver_1``."""
    path, ending = Path(path), suffix(path)
    # The folder "." has a name too.
    name = path.resolve().name if path.is_dir() and not ending else store_of(path).name
    return name[: len(name) - len(ending)]


def is_volume(path: Path) -> bool:
    """Whether a path is a volume that seg3d reads, or would be one if it were there.

    Files are judged by their ending, and without a known one looked at; a folder is a volume if it
    is called as a Zarr store or holds DICOM files.
    """
    if path.is_dir():
        return store_of(path).name.lower().endswith(STORES) or _is_series(path)
    return path.name.lower().endswith(SUFFIXES) or dicom.is_dicom(path)


def is_plain_folder(path: Path) -> bool:
    """Whether a path is a folder, and not one that is itself a volume."""
    return path.is_dir() and not is_volume(path)


def is_segmentation(path: Path) -> bool:
    """Whether a volume's name says that it is no image."""
    return path.name.lower().endswith(SEGMENTATION)


def header_of(path: Path) -> Path:
    """The volume that a file is part of: the header beside it if it holds voxels, or itself."""
    for ending in ENDINGS_OF_VOXELS:
        if path.name.lower().endswith(ending):
            name = path.name[: len(path.name) - len(ending)]
            for header in ENDINGS_OF_HEADERS:
                for other in (path.with_name(name + header), path.with_name(name + header.upper())):
                    if other.exists():
                        return other
    return path


def volumes_in(folder: Path) -> list[Path]:
    """The volumes that a folder holds, sorted, without hidden files (macOS strews ``._x.nii``)."""
    return sorted(
        path
        for path in folder.iterdir()
        if not path.name.startswith(".")
        and is_volume(path)
        and path.exists()
        and header_of(path) == path
    )


def images_in(folder: Path) -> list[Path]:
    """Those of the volumes in a folder that are not segmentations by their name."""
    return [path for path in volumes_in(folder) if not is_segmentation(path)]


def labels_in(folder: Path) -> list[Path]:
    """The volumes in a folder, without images that lie beside their segmentation."""
    volumes = volumes_in(folder)
    segmented = {stem(path) for path in volumes if is_segmentation(path)}
    return [path for path in volumes if is_segmentation(path) or stem(path) not in segmented]


def store_of(path: Path) -> Path:
    """The Zarr store that a path leads into, or the path itself."""
    for folder in (path, *path.parents):
        if folder.name.lower().endswith(".zarr"):
            return folder
    return path


def _is_series(path: Path) -> bool:
    """Whether a folder is one volume: slices, or one file of frames and no other volume."""
    if not path.is_dir():
        return False
    others = (*WRITTEN, *ENDINGS_OF_HEADERS)
    with_frames, alone = 0, True
    for file in path.iterdir():
        if file.name.lower().endswith(others):
            alone = False
        elif dicom.is_dicom(file):
            if not dicom.has_frames(file):
                return True
            with_frames += 1
    return with_frames == 1 and alone
