"""DICOM series: every voxel where the scanner saw it, and series that are not one volume."""

from __future__ import annotations

import locale
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import MPEG2MPML, RLELossless

from seg3d.common.errors import UserError
from seg3d.data.layouts.volume_files import images_by_stem
from seg3d.geometry import Grid
from seg3d.io import (
    Header,
    create_volume,
    is_plain_folder,
    is_volume,
    open_volume,
    ram_of,
    read_header,
    read_volume,
    stem,
    suffix,
    volumes_in,
    whole,
)
from tests.dicom_series import write_enhanced, write_series, write_slice
from tests.volumes import affine_of

sitk = pytest.importorskip("SimpleITK")

SHAPE = (7, 6, 5)
TURNED = affine_of((1, 1, 1), (20, -30, 40))[:3, :3]
ORIENTATIONS = {
    "axial": (1, 0, 0, 0, 1, 0),
    "feet first": (-1, 0, 0, 0, 1, 0),
    "coronal": (1, 0, 0, 0, 0, -1),
    "sagittal": (0, 1, 0, 0, 0, -1),
    "oblique": (*TURNED[:, 0], *TURNED[:, 1]),
}


def voxels(shape: tuple[int, ...] = SHAPE, dtype: str = "int16") -> np.ndarray:
    return np.random.default_rng(0).integers(0, 2000, shape).astype(dtype)


def by_itk(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Voxels `(X, Y, Z)` and RAS affine as ITK reads a series."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image).T, np.diag([-1, -1, 1, 1]) @ affine


# Voxels and positions


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("orientation", ORIENTATIONS.values(), ids=ORIENTATIONS)
def test_a_series_is_read_as_itk_reads_it(tmp_path, orientation, descending):
    normal = np.cross(orientation[:3], orientation[3:]) * (-1 if descending else 1)
    write_series(tmp_path / "scan", voxels(), orientation=orientation, step=2.5 * normal)
    volume = read_volume(tmp_path / "scan")
    array, affine = by_itk(tmp_path / "scan")
    np.testing.assert_array_equal(volume.array[0], array)
    np.testing.assert_allclose(volume.grid.affine, affine, atol=1e-6)
    assert volume.array.dtype == np.int16


def test_every_voxel_lies_where_its_slice_says(tmp_path):
    step = (0.1, 0.2, -2.5)
    write_series(tmp_path / "scan", voxels(), origin=(1, 2, 3), step=step)
    volume = read_volume(tmp_path / "scan")
    for index in np.ndindex(*SHAPE):
        lps = (
            np.array([1, 2, 3]) + (0.5 * index[0], 0.8 * index[1], 0) + np.multiply(index[2], step)
        )
        there = np.linalg.solve(volume.grid.affine, [-lps[0], -lps[1], lps[2], 1])[:3]
        np.testing.assert_allclose(there, np.rint(there), atol=1e-6)
        assert volume.array[(0, *np.rint(there).astype(int))] == voxels()[index]


def test_a_tilted_gantry_shears_the_affine(tmp_path):
    tilt = np.radians(12)
    step = 3 * np.array([0, np.sin(tilt), np.cos(tilt)])
    grid = read_volume(write_series(tmp_path / "scan", voxels(), step=step)).grid
    assert grid.shear_degrees == pytest.approx(12)
    np.testing.assert_allclose(grid.affine[:3, 2], step * (-1, -1, 1), atol=1e-9)


def test_rounded_positions_are_even(tmp_path):
    for number in range(20):
        write_slice(tmp_path / f"{number}.dcm", voxels((6, 7)), (0, 0, round(0.625 * number, 1)))
    assert open_volume(tmp_path).header.grid.spacing[2] == pytest.approx(0.625, rel=0.01)


def test_a_single_slice_is_as_thick_as_it_says(tmp_path):
    write_slice(tmp_path / "a.dcm", voxels((6, 7)), (0, 0, 0), SliceThickness=5)
    volume = read_volume(tmp_path)
    assert volume.grid.shape == (7, 6, 1)
    assert volume.grid.spacing == (0.5, 0.8, 5)


@pytest.mark.parametrize(
    "stored, slope, intercept, bits, dtype",
    [
        ("uint16", 1, -1024, 12, "int16"),
        ("uint16", 1, -1024, 16, "int32"),
        ("int16", 1, 0, 16, "int16"),
        ("uint8", 1, 0, 8, "uint8"),
        ("uint16", 0.25, 3, 16, "float32"),
    ],
)
def test_values_are_rescaled(tmp_path, stored, slope, intercept, bits, dtype):
    pixels = voxels(dtype=stored)
    write_series(
        tmp_path / "scan",
        pixels,
        RescaleSlope=slope,
        RescaleIntercept=intercept,
        BitsStored=bits,
        HighBit=bits - 1,
    )
    volume = read_volume(tmp_path / "scan")
    assert volume.array.dtype == dtype
    np.testing.assert_array_equal(volume.array[0], pixels.astype("float64") * slope + intercept)


def test_every_slice_has_its_own_scale(tmp_path):
    pixels = voxels((6, 7), "uint16")
    for number, slope in enumerate((1, 0.5, 2.25)):
        write_slice(tmp_path / f"{number}", pixels, (0, 0, number), RescaleSlope=slope,
                    RescaleIntercept=0)  # fmt: skip
    volume = read_volume(tmp_path)
    assert volume.array.dtype == np.float32
    for number, slope in enumerate((1, 0.5, 2.25)):
        np.testing.assert_array_equal(volume.array[0, :, :, number], pixels.T * slope)


def test_compressed_slices(tmp_path):
    stored = voxels((32, 24, 3), "uint16")
    write_series(tmp_path / "scan", stored)
    for file in (tmp_path / "scan").iterdir():
        dataset = pydicom.dcmread(file)
        dataset.compress(RLELossless)
        dataset.save_as(file)
    np.testing.assert_array_equal(read_volume(tmp_path / "scan").array[0], stored)


def test_a_region_is_read_from_its_slices_only(tmp_path):
    write_series(tmp_path / "scan", voxels())
    with open_volume(tmp_path / "scan") as reader:
        for file in (tmp_path / "scan").iterdir():
            if pydicom.dcmread(file).ImagePositionPatient[2] not in (32.5, 35):
                file.unlink()
        region = (slice(1, 4), slice(2, 6), slice(1, 3))
        np.testing.assert_array_equal(reader.read(region)[0], voxels()[region])
        with pytest.raises(UserError, match="is damaged"):
            reader.read(whole(SHAPE))


# Series that are not one volume


def test_missing_slices_are_said_where(tmp_path):
    for number in (0, 1, 2, 5, 6, 8):
        write_slice(tmp_path / f"IM{number}", voxels((6, 7)), (0, 0, 100 + 2.5 * number))
    with pytest.raises(UserError) as raised:
        open_volume(tmp_path)
    assert "slices are missing" in str(raised.value)
    assert "2 between 105 and 112.5 mm (IM2 and IM5)" in str(raised.value)
    assert "1 between 115 and 120 mm (IM6 and IM8)" in str(raised.value)
    assert "legal: a slice every 2.5 mm" in str(raised.value)


def test_slices_at_the_same_position(tmp_path):
    for phase in range(2):
        for number in range(3):
            write_slice(tmp_path / f"{phase}{number}", voxels((6, 7)), (0, 0, number))
    with pytest.raises(UserError, match=r"(?s)slices lie at the same position.*00 and 10"):
        open_volume(tmp_path)


@pytest.mark.parametrize(
    "positions",
    [[(0, 0, z) for z in (0, 1, 2.3, 3, 4)], [(x, 0, z) for z, x in enumerate((0, 0, 0.5, 0, 0))]],
)
def test_uneven_slices(tmp_path, positions):
    for number, position in enumerate(positions):
        write_slice(tmp_path / f"{number}", voxels((6, 7)), position)
    with pytest.raises(UserError, match="slices are not evenly spaced along a line"):
        open_volume(tmp_path)


def test_several_series_are_listed(tmp_path):
    write_series(tmp_path, voxels(), SeriesDescription="Thorax 2.5")
    for number in range(2):
        write_slice(tmp_path / f"b{number}", voxels((6, 7)), (0, 0, number), series="1.2.4")
    with pytest.raises(UserError) as raised:
        open_volume(tmp_path)
    assert "holds 2 series" in str(raised.value)
    assert "Thorax 2.5: 5 slices, SeriesInstanceUID 1.2.3;" in str(raised.value)
    assert "without description: 2 slices, SeriesInstanceUID 1.2.4" in str(raised.value)


@pytest.mark.parametrize(
    "changed",
    [
        {"orientation": (0, 1, 0, 0, 0, -1)},
        {"spacing": (1, 1)},
        {"pixels": voxels((5, 7))},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_slices_of_different_stacks(tmp_path, changed):
    write_series(tmp_path, voxels())
    write_slice(tmp_path / "other", **{"pixels": voxels((6, 7)), "position": (0, 0, 9)} | changed)
    with pytest.raises(UserError, match=r"other and .* are not slices of one volume"):
        open_volume(tmp_path)


@pytest.mark.parametrize("what", ["colours", "position"])
def test_files_that_are_no_slices(tmp_path, what):
    if what == "colours":
        rgb = np.zeros((6, 21), "uint8")
        write_slice(tmp_path / "a", rgb, (0, 0, 0), Columns=7, SamplesPerPixel=3,
                    PhotometricInterpretation="RGB", PlanarConfiguration=0)  # fmt: skip
    else:
        write_slice(tmp_path / "a", voxels((6, 7)), (0, 0, 0))
        dataset = pydicom.dcmread(tmp_path / "a")
        del dataset.ImagePositionPatient
        dataset.save_as(tmp_path / "a")
    with pytest.raises(UserError, match="is not a slice of a volume"):
        open_volume(tmp_path)


@pytest.mark.parametrize("kept", [140, 0.5])
def test_a_slice_that_was_cut_short(tmp_path, kept):
    write_series(tmp_path, voxels((70, 60, 5)))
    file = tmp_path / "IM0002"
    content = file.read_bytes()
    file.write_bytes(content[: int(kept * len(content)) if kept < 1 else kept])
    with pytest.raises(UserError, match=r"IM0002 is (damaged|not a slice)"):
        read_volume(tmp_path)


# Folders that are volumes


def test_names_of_a_series(tmp_path, monkeypatch):
    folder = write_series(tmp_path / "case.7", voxels())
    (folder / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    (folder / "notes.txt").write_text("read me")
    assert is_volume(folder)
    assert not is_plain_folder(folder)
    assert (stem(folder), suffix(folder)) == ("case.7", "")
    assert read_volume(folder).grid.shape == SHAPE
    monkeypatch.chdir(folder)
    assert stem(".") == "case.7"


def test_a_folder_of_volumes_is_no_series(tmp_path):
    nib.save(nib.nifti1.Nifti1Image(voxels(), np.eye(4)), tmp_path / "a.nii")
    (tmp_path / "b").mkdir()
    assert is_plain_folder(tmp_path)
    with pytest.raises(UserError, match="or a folder of DICOM files"):
        open_volume(tmp_path / "b")


def test_series_in_a_folder_of_images(tmp_path):
    write_series(tmp_path / "one", voxels())
    nib.save(nib.nifti1.Nifti1Image(voxels(), np.eye(4)), tmp_path / "two.nii")
    (tmp_path / "empty").mkdir()
    assert images_by_stem(tmp_path) == {"one": tmp_path / "one", "two": tmp_path / "two.nii"}


def test_series_are_not_written(tmp_path):
    write_series(tmp_path, voxels())
    with pytest.raises(UserError, match="DICOM is read, not written"):
        create_volume(tmp_path, Header(Grid(SHAPE, np.eye(4)), 1, None), "int16")


def test_without_simpleitk_the_extra_is_named(tmp_path):
    write_series(tmp_path / "scan", voxels())
    program = (
        "import sys; sys.modules['SimpleITK'] = None\n"
        "from seg3d.cli import main; main(['convert', sys.argv[1], sys.argv[2]])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "scan", tmp_path / "scan.nii"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "needs SimpleITK, which is not installed\n  to do: pip install 'seg3d[" in done.stderr


# Single files


def write_frames(path: Path, order: list[int] | None = None, **changed: Any) -> Path:
    """Write `SHAPE` voxels as an enhanced CT whose frames come in an order.

    Args:
        path: of the file.
        order: numbers of slices.
        changed: ``positions``, ``spacing``, or fields of the dataset.
    """
    order = list(range(SHAPE[2])) if order is None else order
    positions = changed.pop("positions", [(-10, -20, 30 + 2.5 * number) for number in order])
    stored = np.ascontiguousarray(voxels()[:, :, order].T)
    fields = {"Rows": SHAPE[1], "Columns": SHAPE[0], "NumberOfFrames": len(order)} | changed
    return write_enhanced(path, stored, positions, **fields)


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [0, 3, 1, 4, 2]])
@pytest.mark.parametrize("name", ["scan.dcm", "SCAN.DCM", "IM0001", "größe 1.dcm"])
def test_frames_of_one_file_are_put_in_order(tmp_path, order, name):
    path = write_frames(tmp_path / name, order)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array[0], voxels())
    expected = read_volume(write_series(tmp_path / "series", voxels())).grid
    assert not volume.grid.differences(expected)
    with open_volume(path) as reader:
        np.testing.assert_array_equal(
            reader.read((slice(1, 3), slice(2, 6), slice(3, 5)))[0], voxels()[1:3, 2:6, 3:5]
        )
    assert ram_of(path, SHAPE, 2) == 2 * 2 * 7 * 6 * 5
    assert is_volume(path)
    assert stem(path) == name.removesuffix(".dcm").removesuffix(".DCM")


def test_frames_that_are_shifted_give_a_sheared_affine(tmp_path):
    shifted = [(-10, -20 + 0.5 * number, 30 + 2.5 * number) for number in range(5)]
    grid = read_header(write_frames(tmp_path / "a.dcm", positions=shifted)).grid
    np.testing.assert_allclose(grid.affine[:3, 2], (0, -0.5, 2.5), atol=1e-9)


def test_a_folder_with_one_file_of_frames_is_a_volume_and_one_with_two_is_not(tmp_path):
    write_frames(tmp_path / "a" / "scan")
    assert is_volume(tmp_path / "a")
    np.testing.assert_array_equal(read_volume(tmp_path / "a").array[0], voxels())
    write_frames(tmp_path / "a" / "other")
    assert [path.name for path in volumes_in(tmp_path / "a")] == ["other", "scan"]
    write_frames(tmp_path / "b" / "scan.dcm")
    nib.save(nib.nifti1.Nifti1Image(voxels(), np.eye(4)), tmp_path / "b" / "a.nii")
    assert [path.name for path in volumes_in(tmp_path / "b")] == ["a.nii", "scan.dcm"]


def test_a_file_of_one_slice(tmp_path):
    one = voxels((6, 7))
    write_slice(tmp_path / "a.dcm", one, (-10, -20, 30), SliceThickness=3)
    volume = read_volume(tmp_path / "a.dcm")
    np.testing.assert_array_equal(volume.array[0, :, :, 0], one.T)
    np.testing.assert_allclose(volume.grid.spacing, (0.5, 0.8, 3))
    single = write_frames(tmp_path / "b.dcm", [2], SliceThickness=4)
    assert read_header(single).grid.shape == (*SHAPE[:2], 1)


@pytest.mark.parametrize(
    "positions, message",
    [
        ([(0, 0, z) for z in (0, 1, 2, 0, 1)], "slices lie at the same position"),
        ([(0, 0, z) for z in (0, 1, 2, 4, 5)], "slices are missing"),
        ([(0, 0, z) for z in (0, 1, 2, 3)], "4 positions for 5 frames"),
        ([], "does not tell where every frame lies"),
    ],
)
def test_frames_that_are_no_volume(tmp_path, positions, message):
    path = write_frames(tmp_path / "a.dcm", positions=positions)
    with pytest.raises(UserError, match=message):
        read_header(path)


def test_frames_that_are_scaled_differently(tmp_path):
    path = write_frames(tmp_path / "a.dcm")
    dataset = pydicom.dcmread(path)
    for slope, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence, 1):
        scale = Dataset()
        scale.RescaleSlope, scale.RescaleIntercept = min(slope, 2), 0
        frame.PixelValueTransformationSequence = [scale]
    dataset.save_as(path)
    with pytest.raises(UserError, match="its frames are scaled differently"):
        read_header(path)
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        frame.PixelValueTransformationSequence[0].RescaleSlope = 2
        frame.PixelValueTransformationSequence[0].RescaleIntercept = -1000
    dataset.save_as(path)
    np.testing.assert_array_equal(read_volume(path).array[0], 2 * voxels().astype(int) - 1000)


def test_segmentations_in_dicom_are_named(tmp_path):
    path = write_frames(tmp_path / "a.dcm", Modality="SEG")
    with pytest.raises(UserError, match="is a segmentation in DICOM"):
        read_header(path)


@pytest.mark.parametrize("spacing", [(0, 0.5), (-1, 0.5), ("nan", 0.5)])
def test_pixel_spacings_that_are_none(tmp_path, spacing):
    for number in range(3):
        write_slice(tmp_path / "s" / str(number), voxels((6, 7)), (0, 0, number), spacing=(1, 1))
        one = pydicom.dcmread(tmp_path / "s" / str(number))
        with warnings.catch_warnings(action="ignore"):
            one.PixelSpacing = [str(length) for length in spacing]
            one.save_as(tmp_path / "s" / str(number))
    with pytest.raises(UserError, match="has no usable geometry"):
        read_header(tmp_path / "s")
    if 0 in spacing:
        with pytest.raises(UserError, match="has no usable geometry"):
            read_header(write_frames(tmp_path / "a.dcm", spacing=spacing))


@pytest.fixture
def same_locale() -> Iterator[None]:
    """GDCM leaves another behind when it writes."""
    before = locale.setlocale(locale.LC_ALL)
    yield
    locale.setlocale(locale.LC_ALL, before)


@pytest.mark.parametrize("compressor", ["JPEG", "JPEG2000"])
@pytest.mark.usefixtures("same_locale")
def test_compressed_by_itk(tmp_path, compressor):
    # JPEG 2000 halves a picture five times.
    large = voxels((64, 48, 3))
    series = write_series(tmp_path / "plain", large)
    (tmp_path / "packed").mkdir()
    for path in series.iterdir():
        writer = sitk.ImageFileWriter()
        writer.SetImageIO("GDCMImageIO")
        writer.KeepOriginalImageUIDOn()
        writer.UseCompressionOn()
        writer.SetCompressor(compressor)
        writer.SetFileName(str(tmp_path / "packed" / f"{path.name}.dcm"))
        writer.Execute(sitk.ReadImage(str(path), imageIO="GDCMImageIO"))
        syntax = pydicom.dcmread(tmp_path / "packed" / f"{path.name}.dcm").file_meta
        assert syntax.TransferSyntaxUID.is_compressed
    np.testing.assert_array_equal(read_volume(tmp_path / "packed").array[0], large)


def test_compression_that_is_not_known(tmp_path):
    write_series(tmp_path, voxels())
    for path in tmp_path.iterdir():
        one = pydicom.dcmread(path)
        one.PixelData = encapsulate([b"no picture at all" * 10])
        one.file_meta.TransferSyntaxUID = MPEG2MPML
        one["PixelData"].is_undefined_length = True
        one.save_as(path)
    with pytest.raises(UserError, match=r"(?s)compression is not known here.*4\.100.*gdcmconv"):
        read_volume(tmp_path)


def test_monochrome1_is_said(tmp_path):
    plain = read_volume(write_series(tmp_path / "a", voxels(dtype="uint16")))
    write_series(tmp_path / "b", voxels(dtype="uint16"), PhotometricInterpretation="MONOCHROME1")
    volume = read_volume(tmp_path / "b")
    np.testing.assert_array_equal(volume.array, 65535 - plain.array)
    (note,) = volume.header.notes
    assert "MONOCHROME1" in note.what
    assert not plain.header.notes
