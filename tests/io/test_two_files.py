"""Volumes of which header and voxels are two files: read alike, and only from their own folder."""

from __future__ import annotations

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from seg3d.common.errors import UserError
from seg3d.io import (
    create_volume,
    header_of,
    images_in,
    labels_in,
    ram_of,
    read_header,
    read_volume,
    stem,
    volumes_in,
    write_volume,
    written_suffix,
)
from tests.volumes import affine_of, write_nifti

sitk = pytest.importorskip("SimpleITK")

SHAPE = (6, 5, 4)
AFFINE = affine_of((0.8, 0.5, 2.5), (0, 0, 90), (-10, 20, 30))
PAIRS = {"NIfTI-1": nib.nifti1.Nifti1Pair, "NIfTI-2": nib.nifti2.Nifti2Pair}
every_text_header = pytest.mark.parametrize("ending", [".mhd", ".nhdr"])


def voxels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 1000, SHAPE).astype("int16")


def write_itk(path: Path, compressed: bool = False) -> np.ndarray:
    """Write volume and header; give the RAS affine."""
    image = sitk.GetImageFromArray(voxels().T)
    image.SetSpacing((0.8, 0.5, 2.5))
    image.SetOrigin((1, 2, 3))
    sitk.WriteImage(image, str(path), compressed)
    return np.array([[-0.8, 0, 0, -1], [0, -0.5, 0, -2], [0, 0, 2.5, 3], [0, 0, 0, 1]])


def with_line(path: Path, beginning: str, line: str) -> Path:
    """Replace the line of a header that begins so."""
    lines = path.read_text().splitlines()
    changed = [line if one.startswith(beginning) else one for one in lines]
    assert changed != lines
    path.write_text("\n".join(changed) + "\n")
    return path


def naming(path: Path, name: str) -> Path:
    """Let a header name another file for its voxels."""
    if path.suffix == ".mhd":
        return with_line(path, "ElementDataFile", f"ElementDataFile = {name}")
    return with_line(path, "data file:", f"data file: {name}")


def as_one_file(source: Path, target: Path) -> tuple[np.ndarray, np.ndarray]:
    """Voxels and affine after a way through another format."""
    volume = read_volume(source)
    write_volume(target, volume.array, volume.header)
    again = read_volume(target)
    return again.array[0], again.grid.affine


@pytest.mark.parametrize("kind", PAIRS.values(), ids=PAIRS)
@pytest.mark.parametrize("ending", [".img", ".hdr", ".IMG", ".HDR"])
def test_pairs_of_nifti(tmp_path, kind, ending):
    image = kind(voxels(), AFFINE)
    image.set_sform(AFFINE, 2)
    nib.save(image, tmp_path / ("Größe 1.IMG" if ending.isupper() else "Größe 1.img"))
    path = tmp_path / f"Größe 1{ending}"
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array[0], voxels())
    np.testing.assert_allclose(volume.grid.affine, image.affine, atol=1e-6)
    assert stem(path) == "Größe 1"
    array, affine = as_one_file(path, tmp_path / "out.nii.gz")
    np.testing.assert_array_equal(array, voxels())
    np.testing.assert_allclose(affine, image.affine, atol=1e-6)
    assert nib.load(tmp_path / "out.nii.gz").header["sform_code"] == 2


def test_analyze_says_what_it_does_not_know(tmp_path):
    nib.save(nib.analyze.AnalyzeImage(voxels(), np.diag([-0.8, 0.5, 2.5, 1])), tmp_path / "a.img")
    (tmp_path / "a.mat").write_bytes(b"never read")
    volume = read_volume(tmp_path / "a.hdr")
    np.testing.assert_array_equal(volume.array[0], voxels())
    np.testing.assert_allclose(volume.grid.spacing, (0.8, 0.5, 2.5), rtol=1e-6)
    said = " ".join(note.what for note in volume.header.notes)
    assert "does not say which side is left" in said
    assert "SPM" in said


@pytest.mark.parametrize("half", [".img", ".hdr"])
def test_half_of_a_pair(tmp_path, half):
    nib.save(nib.nifti1.Nifti1Pair(voxels(), AFFINE), tmp_path / "a.img")
    other = {".img": ".hdr", ".hdr": ".img"}[half]
    (tmp_path / f"a{other}").unlink()
    with pytest.raises(UserError, match=f"a{half} is half of a volume\n.*no a{other} beside it"):
        read_volume(tmp_path / f"a{half}")


def test_voxels_of_a_pair_are_mapped_not_held(tmp_path):
    nib.save(nib.nifti1.Nifti1Pair(voxels(), AFFINE), tmp_path / "a.img")
    assert ram_of(tmp_path / "a.hdr", SHAPE, 2) == 0
    assert ram_of(tmp_path / "a.mhd", SHAPE, 2) == 2 * 2 * 6 * 5 * 4


@every_text_header
@pytest.mark.parametrize("compressed", [False, True])
def test_text_headers(tmp_path, ending, compressed, monkeypatch):
    path = tmp_path / f"Leber ü{ending}"
    affine = write_itk(path, compressed)
    monkeypatch.chdir("/")
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array[0], voxels())
    np.testing.assert_allclose(volume.grid.affine, affine)
    array, again = as_one_file(path, tmp_path / f"out{written_suffix(path)}")
    np.testing.assert_array_equal(array, voxels())
    np.testing.assert_allclose(again, affine)


@every_text_header
def test_a_header_in_upper_case_and_voxels_in_a_folder(tmp_path, ending):
    write_itk(tmp_path / f"a{ending}")
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.raw").rename(tmp_path / "sub" / "x.bin")
    path = naming(tmp_path / f"a{ending}", "sub/x.bin").rename(tmp_path / f"A{ending.upper()}")
    np.testing.assert_array_equal(read_volume(path).array[0], voxels())


def write_slices(folder: Path) -> list[str]:
    names = [f"s{number}.raw" for number in range(SHAPE[2])]
    for number, name in enumerate(names):
        (folder / name).write_bytes(np.ascontiguousarray(voxels()[:, :, number].T).tobytes())
    return names


def test_a_list_of_slices(tmp_path):
    names = write_slices(tmp_path)
    write_itk(tmp_path / "a.mhd")
    naming(tmp_path / "a.mhd", "LIST\n" + "\n".join(names))
    np.testing.assert_array_equal(read_volume(tmp_path / "a.mhd").array[0], voxels())


OUTSIDE = ("/etc/passwd", "../a.raw", "sub/../../a.raw", "C:\\a.raw", "..\\a.raw", "\\\\host\\a",
           "-", "s%d.raw 0 3 1", "%n%n%s", "LISTED\n/etc/passwd")  # fmt: skip


@every_text_header
@pytest.mark.parametrize("name", OUTSIDE)
def test_files_outside_the_folder_are_not_read(tmp_path, ending, name):
    inner = tmp_path / "inner"
    inner.mkdir()
    write_itk(inner / f"a{ending}")
    (inner / "a.raw").rename(tmp_path / "a.raw")
    with pytest.raises(UserError, match=f"a{ending}: its header names files that are not read"):
        read_header(naming(inner / f"a{ending}", name))


@every_text_header
def test_one_name_of_a_list_outside(tmp_path, ending):
    names = write_slices(tmp_path)
    write_itk(tmp_path / f"a{ending}")
    naming(tmp_path / f"a{ending}", "LIST\n" + "\n".join([*names[:-1], "/etc/passwd"]))
    with pytest.raises(UserError, match="its header names files that are not read"):
        read_header(tmp_path / f"a{ending}")


@pytest.mark.parametrize("ending, other", [(".mha", ".mhd"), (".nrrd", ".nhdr")])
def test_endings_for_one_file_may_not_name_others_either(tmp_path, ending, other):
    write_itk(tmp_path / f"a{other}")
    path = naming(tmp_path / f"a{other}", "/etc/passwd").rename(tmp_path / f"a{ending}")
    with pytest.raises(UserError, match="its header names files that are not read"):
        read_header(path)


@every_text_header
@pytest.mark.parametrize("name", ["gone.raw", ".", "x" * 3000])
def test_voxels_that_are_not_there(tmp_path, ending, name):
    write_itk(tmp_path / f"a{ending}")
    with pytest.raises(UserError, match="the file of its voxels is not there"):
        read_header(naming(tmp_path / f"a{ending}", name))


@every_text_header
def test_voxels_that_were_cut_short(tmp_path, ending):
    write_itk(tmp_path / f"a{ending}")
    (tmp_path / "a.raw").write_bytes(b"0" * 20)
    with pytest.raises(UserError, match=f"a{ending} is (cut short or )?damaged"):
        read_volume(tmp_path / f"a{ending}")


@pytest.mark.parametrize("spacing", ["0 1 1", "nan 1 1", "inf 1 1"])
def test_spacings_that_are_none(tmp_path, spacing):
    write_itk(tmp_path / "a.mhd")
    with pytest.raises(UserError, match=r"a.mhd has no usable geometry"):
        read_header(with_line(tmp_path / "a.mhd", "ElementSpacing", f"ElementSpacing = {spacing}"))
    step = spacing.split()[0]
    for line in (f"space directions: ({step},{step},{step}) (0,0.5,0) (0,0,2.5)",
                 "space directions: none (0,0.5,0) (0,0,2.5)", f"spacings: {spacing}"):  # fmt: skip
        write_itk(tmp_path / "b.nhdr")
        with pytest.raises(UserError, match=r"b.nhdr (has no usable geometry|is damaged)"):
            read_header(with_line(tmp_path / "b.nhdr", "space directions", line))


@pytest.mark.parametrize("ending", [".img", ".hdr", ".mhd", ".nhdr", ".dcm"])
def test_they_are_not_written(tmp_path, ending):
    header = read_header(write_nifti(tmp_path / "a.nii"))
    instead = written_suffix(tmp_path / f"b{ending}")
    with pytest.raises(UserError, match=f"(?s)b{ending}: {ending} is read, not.*in {instead}"):
        create_volume(tmp_path / f"b{ending}", header, "int16")
    assert [path.name for path in tmp_path.iterdir()] == ["a.nii"]


def test_a_folder_lists_each_volume_once(tmp_path):
    nib.save(nib.nifti1.Nifti1Pair(voxels(), AFFINE), tmp_path / "a.img")
    write_itk(tmp_path / "b.mhd", compressed=True)
    write_itk(tmp_path / "c.nhdr")
    write_itk(tmp_path / "d.nrrd")
    write_itk(tmp_path / "d.seg.nrrd")
    write_nifti(tmp_path / "._a.nii")
    os.symlink(tmp_path / "nowhere", tmp_path / "e.nii")
    assert [path.name for path in volumes_in(tmp_path)] == [
        "a.hdr", "b.mhd", "c.nhdr", "d.nrrd", "d.seg.nrrd",
    ]  # fmt: skip
    assert [path.name for path in images_in(tmp_path)] == ["a.hdr", "b.mhd", "c.nhdr", "d.nrrd"]
    assert [path.name for path in labels_in(tmp_path)][-1] == "d.seg.nrrd"
    assert len(labels_in(tmp_path)) == 4
    assert header_of(tmp_path / "a.img") == tmp_path / "a.hdr"
    assert header_of(tmp_path / "b.zraw") == tmp_path / "b.mhd"
    assert header_of(tmp_path / "d.nrrd") == tmp_path / "d.nrrd"
    assert stem(tmp_path / "d.seg.nrrd") == "d"
