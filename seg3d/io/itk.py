"""NRRD and MetaImage through SimpleITK (the extra ``seg3d[itk]``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from seg3d.errors import UserError

# ITK's world is LPS, NIfTI's is RAS.
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def read_header(path: Path) -> tuple[tuple[int, ...], np.ndarray, Any]:
    reader = _open(path)
    return (*reader.GetSize(), reader.GetNumberOfComponents()), _affine(reader), None


def read(path: Path) -> tuple[np.ndarray, np.ndarray, Any]:
    reader = _open(path)
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise _damaged(path, error) from error
    array = _library(path).GetArrayFromImage(image)
    return array.transpose(2, 1, 0, *range(3, array.ndim)), _affine(image), None


def write(path: Path, array: np.ndarray, affine: np.ndarray, native: Any) -> None:
    sitk = _library(path)
    lps = LPS_TO_RAS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image = sitk.GetImageFromArray(
        np.ascontiguousarray(array.transpose(2, 1, 0, *range(3, array.ndim))),
        isVector=array.ndim == 4,
    )
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    sitk.WriteImage(image, str(path), useCompression=True)


def _open(path: Path) -> Any:
    """An ITK reader that has read the header of a 3D volume."""
    reader = _library(path).ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise _damaged(path, error) from error
    if reader.GetDimension() != 3:
        raise UserError(
            f"{path} is not a 3D volume",
            given=f"{reader.GetDimension()} axes of {reader.GetSize()} voxels",
            legal="three axes, with channels as components of the voxels",
        )
    return reader


def _affine(image: Any) -> np.ndarray:
    lps = np.eye(4)
    lps[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    lps[:3, 3] = image.GetOrigin()
    return LPS_TO_RAS @ lps


def _library(path: Path) -> Any:
    try:
        import SimpleITK
    except ImportError as error:
        raise UserError(
            f"{path} needs SimpleITK, which is not installed", fix="pip install 'seg3d[itk]'"
        ) from error
    return SimpleITK


def _damaged(path: Path, error: BaseException) -> UserError:
    lines = str(error).strip().splitlines()
    # ITK ends with the system's last errno, which need have nothing to do with it.
    said = [line.strip() for line in lines if "ERROR" in line] or lines
    return UserError(
        f"{path} is damaged or not in the format of its name",
        given=said[-1],
        fix="copy or convert it again",
    )
