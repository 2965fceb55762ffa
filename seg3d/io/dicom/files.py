"""What is a file of DICOM, and how ITK opens it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from seg3d.common.errors import UserError
from seg3d.common.notes import Note
from seg3d.io import itk
from seg3d.io.dicom.elements import require_whole_elements

# Elements of a file's head: how its pixels are packed, if they are, and its class.
TRANSFER_SYNTAX = b"\x02\x00\x10\x00UI"
SOP_CLASS = b"\x02\x00\x02\x00UI"
ENHANCED = tuple(
    f"1.2.840.10008.5.1.4.1.1.{number}" for number in ("2.1", "2.2", "4.1", "4.4", "128.1", "130")
)
# Of the slice that is a file; enhanced files have positions of frames.
POSITION = "0020|0032"
PIXEL_SPACING = "0028|0030"
LONGEST_HEAD = 2048
UNPACKED = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")


def is_dicom(path: Path) -> bool:
    """Whether a file is a DICOM file, other than the index of a folder."""
    if path.name == "DICOMDIR" or not path.is_file():
        return False
    with suppress(OSError), path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"
    return False


def dicom_files(path: Path) -> list[Path]:
    """The files of a folder, or the file that is given."""
    return sorted(filter(is_dicom, path.iterdir())) if path.is_dir() else [path]


def open_file(path: Path) -> Any:
    """An ITK reader that has read a file's header.

    Raises:
        UserError: if the file is damaged.
    """
    if is_dicom(path):
        require_whole_elements(path, transfer_syntax(path))
    return itk.read_information(path, "GDCMImageIO")


def read_pixels(path: Path, file: Any) -> np.ndarray:
    """The pixels of a file, `(X, Y, frames)`.

    Args:
        path: of the file.
        file: of `open_file`.

    Raises:
        UserError: if the file is damaged, or packed in a way that GDCM does not know.
    """
    try:
        return itk.read_voxels(path, file)
    except UserError as error:
        syntax = transfer_syntax(path)
        if syntax in UNPACKED:
            raise
        raise UserError(
            f"{path} is damaged, or its compression is not known here",
            given=f"transfer syntax {syntax}",
            legal="pixels as they are, or packed with RLE, JPEG lossless or JPEG 2000",
            fix="unpack it, for example with gdcmconv --raw",
        ) from error


def transfer_syntax(path: Path) -> str:
    """The identifier of how a file's pixels are stored; empty if the file does not tell."""
    return _identifier(path, TRANSFER_SYNTAX)


def has_frames(path: Path) -> bool:
    """Whether a file of DICOM is of a class whose frames have positions (enhanced CT, MR, PET)."""
    return _identifier(path, SOP_CLASS) in ENHANCED


def _identifier(path: Path, element: bytes) -> str:
    with path.open("rb") as file:
        _, _, rest = file.read(LONGEST_HEAD).partition(element)
    return rest[2 : 2 + int.from_bytes(rest[:2], "little")].decode("ascii", "replace").strip(" \0")


def notes_on(path: Path, file: Any) -> tuple[Note, ...]:
    """What is odd about the pixels of a file.

    Args:
        path: of the volume.
        file: of `open_file`.
    """
    if text(file, "0028|0004") != "MONOCHROME1":
        return ()
    what = "MONOCHROME1, where low numbers are bright: they are turned round, as ITK does"
    return (Note(what, str(path)),)


def text(file: Any, key: str) -> str:
    """A field of a header that ITK has read; empty if it is not there."""
    return file.GetMetaData(key).strip(" \0") if file.HasMetaDataKey(key) else ""
