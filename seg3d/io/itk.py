"""NRRD and MetaImage through SimpleITK (the extra ``seg3d[itk]``).

These files are compressed as a rule, so a volume is read, and written, whole: it is held in RAM.
Voxels in a file of their own (``.nhdr``, ``.mhd``) are read, not written.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from seg3d.common.errors import UserError
from seg3d.common.files import atomic_write, require_space
from seg3d.common.free_ram import free_ram
from seg3d.common.plain_text import is_text
from seg3d.common.sizes import readable
from seg3d.common.standard_streams import libraries_unheard
from seg3d.geometry import Shape3
from seg3d.io.arrays import ArrayReader, ArrayWriter, byte_count
from seg3d.io.header import Header, checked_header, voxel_dtype
from seg3d.io.itk_header import require_sound_header
from seg3d.io.nrrd_spacings import require_spacings
from seg3d.io.regions import VolumeReader, VolumeWriter

# ITK's world is LPS, NIfTI's is RAS.
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
# ITK would look at the content too, and read formats that nobody asked for.
FILE_TYPES = {
    ".nrrd": "NrrdImageIO",
    ".nhdr": "NrrdImageIO",
    ".mha": "MetaImageIO",
    ".mhd": "MetaImageIO",
}
NUMBER_TYPES = (
    "Int8", "UInt8", "Int16", "UInt16", "Int32", "UInt32", "Int64", "UInt64", "Float32", "Float64"
)  # fmt: skip


def open_volume(path: Path) -> VolumeReader:
    return _Reader(path)


def create_volume(path: Path, header: Header, dtype: np.dtype, channels: int) -> VolumeWriter:
    return _Writer(path, header, dtype, channels)


def ram_of(path: Path, shape: Shape3, voxel_bytes: int) -> int:
    # ITK's own and numpy's.
    return 2 * math.prod(shape) * voxel_bytes


class _Reader(ArrayReader):
    slow_axis = 2

    def __init__(self, path: Path) -> None:
        self.path = path
        library(path)
        require_sound_header(path)
        file_type = FILE_TYPES[path.suffix.lower()]
        self._file = read_information(path, file_type)
        if self._file.GetDimension() != 3:
            raise UserError(
                f"{path} is not a 3D volume",
                given=f"{self._file.GetDimension()} axes of {self._file.GetSize()} voxels",
                legal="three axes, with channels as components of the voxels",
            )
        if file_type == "NrrdImageIO":
            require_spacings(path)
        shape = (*self._file.GetSize(), self._file.GetNumberOfComponents())
        self.header = checked_header(path, shape, affine_of(self._file))
        self.dtype = voxel_dtype(path, stored_dtype(self._file))
        self._held: np.ndarray | None = None

    def _array(self) -> np.ndarray:
        if self._held is None:
            self._held = read_voxels(self.path, self._file)
        return self._held

    def close(self) -> None:
        self._held = None


class _Writer(ArrayWriter):
    def __init__(self, path: Path, header: Header, dtype: np.dtype, channels: int) -> None:
        self._itk = library(path)
        self.path = path
        self.header = header
        last = () if channels == 1 else (channels,)
        self._held = np.empty((*header.grid.shape[::-1], *last), dtype)

    def _array(self) -> np.ndarray:
        return _other_order(self._held)

    def finish(self) -> None:
        lps = LPS_TO_RAS @ self.header.grid.affine
        spacing = np.linalg.norm(lps[:3, :3], axis=0)
        image = self._itk.GetImageFromArray(self._held, isVector=self._held.ndim == 4)
        image.SetSpacing(spacing.tolist())
        image.SetOrigin(lps[:3, 3].tolist())
        image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
        with atomic_write(self.path, suffix=self.path.suffix.lower()) as temporary:
            try:
                with libraries_unheard():
                    self._itk.WriteImage(image, str(temporary), useCompression=True)
            except RuntimeError as error:
                # ITK does not say why.
                require_space(self.path, self._held.nbytes)
                raise UserError(
                    f"{self.path}: it could not be written",
                    given=_said(error),
                    fix="check the space on the disk",
                ) from error

    def discard(self) -> None:
        del self._held


def read_information(path: Path, file_type: str) -> Any:
    """An ITK reader that has read a file's header.

    Args:
        path: of the file.
        file_type: ITK's name of its format.

    Raises:
        UserError: if the file is damaged.
    """
    reader = library(path).ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO(file_type)
    try:
        with libraries_unheard():
            reader.ReadImageInformation()
    except RuntimeError as error:
        raise _damaged(path, error) from error
    return reader


def read_voxels(path: Path, reader: Any) -> np.ndarray:
    """The voxels of a file, `(X, Y, Z)` or `(X, Y, Z, C)`.

    Raises:
        UserError: if the file is damaged, or there is too little RAM.
    """
    size = byte_count((*reader.GetSize(), reader.GetNumberOfComponents()), stored_dtype(reader))
    if size > (free := free_ram()):
        raise UserError(
            f"{path} is read whole, which takes more RAM than is free",
            given=f"{readable(size)} of voxels, {readable(free)} free",
            fix="convert it on another machine to .nii or .ome.zarr, which are read by regions",
        )
    try:
        with libraries_unheard():
            image = reader.Execute()
    except RuntimeError as error:
        raise _damaged(path, error) from error
    return _other_order(library(path).GetArrayFromImage(image))


def stored_dtype(reader: Any) -> np.dtype:
    """The number type of the voxels that an ITK reader will give."""
    itk, kind = library(Path()), reader.GetPixelID()
    for name in NUMBER_TYPES:
        if kind in (getattr(itk, f"sitk{name}"), getattr(itk, f"sitkVector{name}")):
            return np.dtype(name.lower())
    return np.dtype("complex64")


def affine_of(image: Any) -> np.ndarray:
    """`(4, 4)`, voxel index to world millimetres (RAS+), of an ITK image or reader."""
    lps = np.eye(4)
    lps[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    lps[:3, 3] = image.GetOrigin()
    return LPS_TO_RAS @ lps


def library(path: Path) -> Any:
    """SimpleITK.

    Raises:
        UserError: saying that ``path`` needs it, if it is not installed; or that the path's name is
            none that can be given to it, which would end the process.
    """
    if not is_text(str(path)):
        raise UserError(f"{path}: this name is not in UTF-8", fix="rename it")
    try:
        import SimpleITK
    except ImportError as error:
        raise UserError(
            f"{path} needs SimpleITK, which is not installed", fix="pip install 'seg3d[itk]'"
        ) from error
    # It writes to the terminal what is raised as an error anyway.
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    return SimpleITK


def _other_order(array: np.ndarray) -> np.ndarray:
    """Between `(X, Y, Z)` and `(Z, Y, X)`, channels staying last."""
    return array.transpose(2, 1, 0, *range(3, array.ndim))


def _damaged(path: Path, error: BaseException) -> UserError:
    return UserError(
        f"{path} is damaged or not in the format of its name",
        given=_said(error),
        fix="copy or convert it again",
    )


def _said(error: BaseException) -> str:
    """The line of an ITK error that says something."""
    lines = str(error).strip().splitlines()
    # ITK ends with the system's last errno, which need have nothing to do with it.
    line = ([line.strip() for line in lines if "ERROR" in line] or lines)[-1]
    return re.sub(r"\(0x[0-9a-f]+\)", "", line)
