"""NIfTI through nibabel."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from seg3d.errors import UserError

DAMAGED = (
    EOFError, OSError, OverflowError, ValueError, zlib.error,
    ImageFileError, HeaderDataError, WrapStructError,
)  # fmt: skip


def read_header(path: Path) -> tuple[tuple[int, ...], np.ndarray, Any]:
    image = _open(path)
    return image.shape, image.affine, image.header


def read(path: Path) -> tuple[np.ndarray, np.ndarray, Any]:
    image = _open(path)
    try:
        if path.suffix.lower() == ".gz":
            with gzip.open(path) as stream:
                array = _voxels(type(image).from_stream(stream))
                # gzip compares its checksum at the end, where nibabel does not go.
                while stream.read(2**20):
                    pass
        else:
            array = _voxels(image)
    except DAMAGED as error:
        raise _damaged(path, error) from error
    return array, image.affine, image.header


def _voxels(image: Any) -> np.ndarray:
    """The voxels; integers stay what they are unless the header scales them, then float32."""
    stored = image.dataobj
    if (stored.slope, stored.inter) == (1, 0):
        return stored.get_unscaled()
    return np.asarray(stored, dtype=np.float32)


def write(path: Path, array: np.ndarray, affine: np.ndarray, native: Any) -> None:
    if not isinstance(native, nib.nifti1.Nifti1Header):
        image = nib.nifti1.Nifti1Image(array, affine)
        image.header.set_xyzt_units("mm")
    else:
        # nibabel keeps sform and qform with their codes as long as the affine is the header's.
        kind = (
            nib.nifti2.Nifti2Image
            if isinstance(native, nib.nifti2.Nifti2Header)
            else nib.nifti1.Nifti1Image
        )
        image = kind(array, affine, native)
    image.set_data_dtype(array.dtype)
    image.header.set_slope_inter(1, 0)
    image.header["cal_min"] = image.header["cal_max"] = 0
    nib.save(image, path)


def _open(path: Path) -> Any:
    try:
        image = nib.load(path)
    except DAMAGED as error:
        raise _damaged(path, error) from error
    if not isinstance(image, nib.nifti1.Nifti1Pair):
        raise UserError(f"{path} is not a NIfTI file", given=type(image).__name__)
    return image


def _damaged(path: Path, error: BaseException) -> UserError:
    return UserError(
        f"{path} is damaged or not a NIfTI file",
        given=f"{type(error).__name__}: {error}",
        fix="copy or convert it again",
    )
