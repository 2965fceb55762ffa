"""Which files have to be copied for a volume."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from seg3d.io import read_volume, write_volume
from seg3d.io.parts import parts_of
from tests.volumes import write_nifti


def names(path: Path) -> list[str]:
    return sorted(part.name for part in parts_of(path))


def test_single_files_and_pairs(tmp_path: Path) -> None:
    for name in ("x.nii.gz", "x1.nii"):
        assert names(write_nifti(tmp_path / name)) == [name]
    nib.save(nib.Nifti1Pair(np.zeros((3, 4, 5), "int16"), np.eye(4)), tmp_path / "x[1].img")
    assert names(tmp_path / "x[1].hdr") == names(tmp_path / "x[1].img") == ["x[1].hdr", "x[1].img"]


def test_headers_that_name_files(tmp_path: Path) -> None:
    itk = pytest.importorskip("SimpleITK")
    image = itk.GetImageFromArray(np.zeros((3, 4, 5), "int16"))
    for name, voxels in (("a.mhd", "a.raw"), ("b.nhdr", "b.raw")):
        itk.WriteImage(image, str(tmp_path / name))
        assert names(tmp_path / name) == sorted([name, voxels])
        copy = tmp_path / f"copy_of_{name}"
        copy.mkdir()
        for part in parts_of(tmp_path / name):
            shutil.copy(part, copy)
        assert read_volume(copy / name).grid.shape == (5, 4, 3)
    (tmp_path / "a.raw").unlink()
    assert names(tmp_path / "a.mhd") == ["a.mhd"]


def test_a_level_of_a_store_is_part_of_the_store(tmp_path: Path) -> None:
    volume = read_volume(write_nifti(tmp_path / "x.nii.gz"))
    write_volume(tmp_path / "x.ome.zarr", volume.array, volume.header)
    assert names(tmp_path / "x.ome.zarr") == names(tmp_path / "x.ome.zarr" / "0") == ["x.ome.zarr"]
