"""Volumes on disk: what is written is what is read, and damage is said in words."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from seg3d.common.errors import UserError
from seg3d.geometry import Grid
from seg3d.io import (
    Header,
    ram_of,
    read_header,
    read_labels,
    read_volume,
    stem,
    suffix,
    write_volume,
)
from tests.volumes import affine_of, save_nifti, write_nifti

sitk = pytest.importorskip("SimpleITK")

SHAPE = (5, 6, 7)
SHEARED = np.array([[1, 0.25, 0, 3], [0, 2, 0.5, 4], [0, 0, 3, 5], [0, 0, 0, 1.0]])
AFFINES = {
    "unit": np.eye(4),
    "anisotropic": np.diag([0.75, 0.75, 5, 1]),
    "mirrored": np.diag([-1, 1, 2, 1.0]),
    "LPS": np.diag([-1, -1, 1, 1.0]),
    "permuted": np.array([[0, 0, -3, 9], [1, 0, 0, 8], [0, 2, 0, 7], [0, 0, 0, 1.0]]),
    "oblique": affine_of((0.5, 1, 3), (15, -20, 130), (-100, 50, 30)),
    "sheared": SHEARED,
}
# What a quaternion can say, and all that ITK reads from NIfTI files.
RIGID = {name: affine for name, affine in AFFINES.items() if name != "sheared"}
every_affine = pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
every_suffix = pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".mha"])


def whole_numbers(shape: tuple[int, ...] = SHAPE, dtype: str = "int16") -> np.ndarray:
    return np.random.default_rng(3).integers(0, 100, shape).astype(dtype)


def header(shape: tuple[int, int, int] = SHAPE, affine: np.ndarray | None = None) -> Header:
    return Header(Grid(shape, np.eye(4) if affine is None else affine), 1, None)


def with_header_field(path: Path, **fields: object) -> Path:
    """Change fields of an uncompressed NIfTI file behind nibabel's back."""
    content = path.read_bytes()
    head = nib.nifti1.Nifti1Header(content[:348], check=False)
    for name, value in fields.items():
        head[name] = value
    path.write_bytes(head.binaryblock + content[348:])
    return path


# Round trips


@every_suffix
@every_affine
@pytest.mark.parametrize("channels", [1, 3])
def test_voxels_and_position_survive(tmp_path, ending, affine, channels):
    path = tmp_path / f"volume{ending}"
    array = whole_numbers((channels, *SHAPE))
    write_volume(path, array, header(affine=affine))
    volume = read_volume(path)
    assert np.array_equal(volume.array, array)
    assert np.allclose(volume.grid.affine, affine, atol=1e-5)
    assert volume.header.channels == channels
    head = read_header(path)
    assert head.grid.shape == SHAPE
    assert head.channels == channels
    assert np.array_equal(head.grid.affine, volume.grid.affine)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@every_suffix
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32"])
def test_number_types_survive(tmp_path, ending, dtype):
    array = whole_numbers((1, *SHAPE), dtype)
    write_volume(tmp_path / f"volume{ending}", array, header())
    assert read_volume(tmp_path / f"volume{ending}").array.dtype == np.dtype(dtype)


@pytest.mark.parametrize("affine", RIGID.values(), ids=RIGID)
def test_nifti_and_itk_agree_on_the_world(tmp_path, affine):
    write_volume(tmp_path / "volume.nii", whole_numbers((1, *SHAPE)), header(affine=affine))
    sitk.WriteImage(sitk.ReadImage(str(tmp_path / "volume.nii")), str(tmp_path / "volume.nrrd"))
    nifti, nrrd = read_volume(tmp_path / "volume.nii"), read_volume(tmp_path / "volume.nrrd")
    assert nifti.grid.differences(nrrd.grid) == []
    assert np.array_equal(nifti.array, nrrd.array)


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd"])
def test_a_header_may_come_from_another_format(tmp_path, ending):
    source = tmp_path / "scan.mha"
    write_volume(source, whole_numbers((1, *SHAPE)), header(affine=AFFINES["oblique"]))
    write_volume(
        tmp_path / f"label{ending}", whole_numbers((1, *SHAPE), "uint8"), read_header(source)
    )
    label = read_volume(tmp_path / f"label{ending}")
    assert read_header(source).grid.differences(label.grid) == []


# NIfTI headers


@pytest.mark.parametrize(
    "affine, codes",
    [
        *[(affine, (0, 2)) for affine in AFFINES.values()],
        *[(affine, codes) for affine in RIGID.values() for codes in ((1, 1), (1, 0), (3, 4))],
        (np.eye(4), (0, 0)),
    ],
)
@pytest.mark.parametrize("kind", [nib.nifti1.Nifti1Image, nib.nifti2.Nifti2Image])
def test_outputs_have_the_forms_codes_and_units_of_their_input(tmp_path, affine, codes, kind):
    image = kind(whole_numbers(), None)
    image.header.set_qform(affine, codes[0])
    image.header.set_sform(affine, codes[1])
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, tmp_path / "scan.nii.gz")
    scan = nib.load(tmp_path / "scan.nii.gz")
    label = whole_numbers((1, *SHAPE), "uint8")
    write_volume(tmp_path / "label.nii.gz", label, read_header(tmp_path / "scan.nii.gz"))
    output = nib.load(tmp_path / "label.nii.gz")
    assert type(output) is type(scan)
    for field in ("qform_code", "sform_code", "xyzt_units", "pixdim", "srow_x", "srow_y", "srow_z"):
        assert np.array_equal(output.header[field], scan.header[field]), field
    assert np.array_equal(output.affine, scan.affine)
    assert output.get_data_dtype() == np.uint8
    assert np.array_equal(np.asanyarray(output.dataobj), label[0])


def test_a_sheared_sform_wins_over_the_qform(tmp_path):
    image = nib.nifti1.Nifti1Image(whole_numbers(), None)
    image.header.set_qform(AFFINES["anisotropic"], 1)
    image.header.set_sform(SHEARED, 2)
    nib.save(image, tmp_path / "scan.nii")
    assert np.allclose(read_header(tmp_path / "scan.nii").grid.affine, SHEARED)
    array = whole_numbers((1, *SHAPE))
    write_volume(tmp_path / "label.nii", array, read_header(tmp_path / "scan.nii"))
    output = nib.load(tmp_path / "label.nii").header
    assert np.array_equal(output.get_sform(), image.header.get_sform())
    assert np.array_equal(output.get_qform(), image.header.get_qform())


def test_without_any_form_nifti_places_the_volume_by_its_spacing(tmp_path):
    image = nib.nifti1.Nifti1Image(whole_numbers(), None)
    image.header.set_zooms((1, 2, 3))
    nib.save(image, tmp_path / "scan.nii")
    assert read_header(tmp_path / "scan.nii").grid.spacing == (1, 2, 3)


def test_a_label_does_not_inherit_the_scaling_of_the_scan(tmp_path):
    path = save_nifti(tmp_path / "scan.nii", whole_numbers())
    with_header_field(path, scl_slope=0.5, scl_inter=-3, cal_min=-3, cal_max=47)
    label = whole_numbers((1, *SHAPE), "uint8")
    write_volume(tmp_path / "label.nii", label, read_header(path))
    assert np.array_equal(read_labels(tmp_path / "label.nii").array, label)
    assert nib.load(tmp_path / "label.nii").header["cal_max"] == 0


def test_long_axes_take_nifti_2(tmp_path):
    array = whole_numbers((1, 40_000, 1, 2), "uint8")
    write_volume(tmp_path / "long.nii.gz", array, header((40_000, 1, 2)))
    assert isinstance(nib.load(tmp_path / "long.nii.gz"), nib.nifti2.Nifti2Image)
    assert np.array_equal(read_volume(tmp_path / "long.nii.gz").array, array)


def test_a_label_of_a_scan_with_channels_is_three_dimensional(tmp_path):
    save_nifti(tmp_path / "scan.nii", whole_numbers((*SHAPE, 4)))
    label = whole_numbers((1, *SHAPE), "uint8")
    write_volume(tmp_path / "label.nii", label, read_header(tmp_path / "scan.nii"))
    assert nib.load(tmp_path / "label.nii").shape == SHAPE


def test_scaled_integers_are_read_in_their_units(tmp_path):
    stored = whole_numbers()
    path = save_nifti(tmp_path / "scan.nii", stored)
    with_header_field(path, scl_slope=0.5, scl_inter=-3)
    volume = read_volume(path)
    assert volume.array.dtype == np.float32
    assert np.array_equal(volume.array[0], stored * 0.5 - 3)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", [">i2", ">f4", ">i4"])
def test_big_endian_files(tmp_path, ending, dtype):
    stored = whole_numbers().astype(dtype)
    image = nib.nifti1.Nifti1Image(stored, SHEARED, nib.nifti1.Nifti1Header(endianness=">"))
    image.set_data_dtype(dtype)
    nib.save(image, tmp_path / f"scan{ending}")
    volume = read_volume(tmp_path / f"scan{ending}")
    assert volume.header.native.endianness == ">"
    assert np.array_equal(volume.array[0], stored)
    assert np.allclose(volume.grid.affine, SHEARED)
    label = whole_numbers((1, *SHAPE), "uint16")
    write_volume(tmp_path / f"label{ending}", label, volume.header)
    assert np.array_equal(read_labels(tmp_path / f"label{ending}").array, label)


# Shapes and channels


@pytest.mark.parametrize(
    "stored, channels",
    [
        (SHAPE, 1),
        ((*SHAPE, 1), 1),
        ((*SHAPE, 1, 1), 1),
        ((*SHAPE, 3), 3),
        ((*SHAPE, 3, 1), 3),
        ((*SHAPE, 1, 3), 3),
        ((5, 6, 1), 1),
        ((5, 1, 1), 1),
    ],
)
def test_channels_of_nifti_files(tmp_path, stored, channels):
    voxels = whole_numbers(stored)
    path = save_nifti(tmp_path / "scan.nii.gz", voxels)
    volume = read_volume(path)
    assert volume.array.shape == (channels, *stored[:3])
    assert np.array_equal(np.moveaxis(volume.array, 0, -1).ravel(), voxels.ravel())
    assert read_header(path).channels == channels
    assert read_header(path).grid.shape == stored[:3]


@pytest.mark.parametrize("stored", [(5, 6), (5,), (*SHAPE, 2, 3)])
def test_nifti_files_that_are_no_volumes(tmp_path, stored):
    path = save_nifti(tmp_path / "scan.nii.gz", whole_numbers(stored))
    for read in (read_header, read_volume):
        with pytest.raises(UserError, match=r"scan.nii.gz is not a 3D volume"):
            read(path)


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
@pytest.mark.parametrize("axes", [(4, 5), (2, 3, 4, 5)])
def test_itk_files_that_are_no_volumes(tmp_path, ending, axes):
    path = tmp_path / f"scan{ending}"
    sitk.WriteImage(sitk.GetImageFromArray(whole_numbers(axes), isVector=False), str(path))
    for read in (read_header, read_volume):
        with pytest.raises(UserError, match=f"is not a 3D volume\n  given: {len(axes)} axes"):
            read(path)


def test_nrrd_with_its_channels_first(tmp_path):
    stored = whole_numbers((5, 4, 3, 2))
    (tmp_path / "scan.nrrd").write_bytes(
        b"NRRD0004\ntype: short\ndimension: 4\nspace: right-anterior-superior\nsizes: 2 3 4 5\n"
        b"space directions: none (1,0,0) (0,1,0) (0,0,2)\nkinds: list domain domain domain\n"
        b"endian: little\nencoding: raw\nspace origin: (1,2,3)\n\n" + stored.tobytes()
    )
    volume = read_volume(tmp_path / "scan.nrrd")
    assert np.array_equal(volume.array, stored.transpose(3, 2, 1, 0))
    assert np.array_equal(
        volume.grid.affine, [[1, 0, 0, 1], [0, 1, 0, 2], [0, 0, 2, 3], [0] * 3 + [1]]
    )


# Number types


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int32", "uint32", "int64", "uint64"])
@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd"])
def test_integers_are_read_exactly(tmp_path, dtype, ending):
    limits = np.iinfo(dtype)
    stored = np.array([limits.min, 0, 1, limits.max], dtype).reshape(1, 2, 2)
    path = tmp_path / f"scan{ending}"
    if ending == ".nrrd":
        sitk.WriteImage(sitk.GetImageFromArray(stored.transpose(2, 1, 0)), str(path))
    else:
        save_nifti(path, stored)
    volume = read_volume(path)
    assert volume.array.dtype == dtype
    assert np.array_equal(volume.array[0], stored)


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd"])
def test_double_precision_becomes_single(tmp_path, ending):
    write_volume(tmp_path / f"scan{ending}", np.full((1, *SHAPE), 0.1), header())
    volume = read_volume(tmp_path / f"scan{ending}")
    assert volume.array.dtype == np.float32
    assert (volume.array == np.float32(0.1)).all()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("ending", [".nii", ".npy", ".zarr", ".nrrd"])
def test_what_single_precision_cannot_hold(tmp_path, ending):
    array = np.ones(SHAPE)
    array[0, 0, :4] = [np.nan, np.inf, -np.inf, 3.4e38]
    path = tmp_path / f"scan{ending}"
    write_volume(path, array[None], Header(Grid(SHAPE, np.eye(4)), 1, None))
    assert read_volume(path).array[0, 0, 0, 1:3].tolist() == [np.inf, -np.inf]
    array[1, 1, 1] = -1e300
    write_volume(path, array[None], Header(Grid(SHAPE, np.eye(4)), 1, None))
    with pytest.raises(
        UserError, match=rf"scan{ending} holds numbers that are too large"
    ) as caught:
        read_volume(path)
    assert "given: -1e+300 to 3.4e+38" in str(caught.value)


@pytest.mark.parametrize(
    "dtype", [np.complex64, [("R", "u1"), ("G", "u1"), ("B", "u1")]], ids=["complex", "RGB"]
)
def test_voxels_that_are_no_numbers(tmp_path, dtype):
    image = nib.nifti1.Nifti1Image(np.zeros(SHAPE, dtype), np.eye(4))
    nib.save(image, tmp_path / "scan.nii")
    with pytest.raises(UserError, match=r"scan.nii holds .* voxels\n  legal: integer or floating"):
        read_volume(tmp_path / "scan.nii")


def test_complex_voxels_of_nrrd_files(tmp_path):
    image = sitk.GetImageFromArray(np.zeros(SHAPE, np.complex64))
    sitk.WriteImage(image, str(tmp_path / "scan.nrrd"))
    with pytest.raises(UserError, match=r"scan.nrrd holds complex64 voxels"):
        read_volume(tmp_path / "scan.nrrd")


# Labels


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int64", "uint64", "float32", "float64"])
def test_labels_are_whole_numbers_whatever_stores_them(tmp_path, dtype):
    stored = whole_numbers(dtype=dtype)
    labels = read_labels(save_nifti(tmp_path / "label.nii.gz", stored)).array
    assert np.issubdtype(labels.dtype, np.integer)
    assert np.can_cast(labels.dtype, np.int32)
    assert np.array_equal(labels[0], stored)


def test_dust_on_floating_point_labels_is_wiped_off(tmp_path):
    stored = whole_numbers(dtype="float32")
    path = save_nifti(tmp_path / "label.nii", stored + np.float32(5e-4))
    assert np.array_equal(read_labels(path).array[0], stored)


@pytest.mark.parametrize("wrong", [0.5, 1.002, np.nan, np.inf, -np.inf])
def test_labels_that_are_not_whole(tmp_path, wrong):
    stored = whole_numbers(dtype="float32")
    stored[0, 0, :2] = wrong
    path = save_nifti(tmp_path / "label.nii.gz", stored)
    with pytest.raises(UserError, match=f"2 voxels are not whole numbers\n.* {wrong:g}\n"):
        read_labels(path)


@pytest.mark.parametrize("value", [2**31, 2**32 + 1, -(2**32)])
@pytest.mark.parametrize("dtype", ["int64", "float64"])
def test_labels_of_more_than_32_bits(tmp_path, value, dtype):
    path = save_nifti(tmp_path / "label.nii.gz", np.full(SHAPE, value, dtype))
    with pytest.raises(UserError, match=r"label.nii.gz .* values that are too large"):
        read_labels(path)


def test_labels_of_several_channels(tmp_path):
    path = write_nifti(tmp_path / "label.nii.gz", (*SHAPE, 2))
    with pytest.raises(UserError, match="used as a label but has 2 channels"):
        read_labels(path)


# Geometry that cannot be


@pytest.mark.parametrize(
    "rows", [np.zeros((3, 4)), np.full((3, 4), np.nan), np.diag([1, 1, 0, 1.0])[:3]]
)
def test_affines_that_place_nothing(tmp_path, rows):
    path = write_nifti(tmp_path / "scan.nii")
    with_header_field(path, sform_code=2, srow_x=rows[0], srow_y=rows[1], srow_z=rows[2])
    for read in (read_header, read_volume):
        with pytest.raises(UserError, match=r"scan.nii has no usable geometry\n  given: affine"):
            read(path)


def test_a_quaternion_that_is_not_a_number(tmp_path):
    path = write_nifti(tmp_path / "scan.nii")
    with_header_field(path, sform_code=0, qform_code=1, quatern_b=np.nan)
    with pytest.raises(UserError, match="no usable geometry"):
        read_header(path)


# Damage


@pytest.fixture(scope="module")
def compressed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A NIfTI file that hardly compresses, so that cuts fall into the voxels too."""
    folder = tmp_path_factory.mktemp("compressed")
    voxels = np.random.default_rng(1).integers(0, 30_000, (20, 20, 20)).astype("int16")
    return save_nifti(folder / "scan.nii.gz", voxels).read_bytes()


@pytest.mark.parametrize("kept", [0, 1, 5, 12, 100, 0.3, 0.5, 0.999, -9, -8, -4, -1])
def test_a_compressed_file_that_was_cut_short(tmp_path, compressed, kept):
    end = int(kept * len(compressed)) if isinstance(kept, float) else kept
    (tmp_path / "scan.nii.gz").write_bytes(compressed[:end])
    with pytest.raises(UserError, match=r"scan.nii.gz is damaged or not a NIfTI file"):
        read_volume(tmp_path / "scan.nii.gz")


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_a_compressed_file_with_a_wrong_byte(tmp_path, compressed, place):
    content = bytearray(compressed)
    content[int(place * len(content))] ^= 0x55
    (tmp_path / "scan.nii.gz").write_bytes(content)
    with pytest.raises(UserError, match=r"scan.nii.gz is damaged"):
        read_volume(tmp_path / "scan.nii.gz")


@pytest.mark.parametrize("kept", [0, 200, 348, 352, 1000, -1])
def test_an_uncompressed_file_that_was_cut_short(tmp_path, compressed, kept):
    (tmp_path / "scan.nii").write_bytes(gzip.decompress(compressed)[:kept])
    with pytest.raises(UserError, match=r"scan.nii is damaged"):
        read_volume(tmp_path / "scan.nii")


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
@pytest.mark.parametrize("kept", [0, 5, 100, 0.5, 0.9])
def test_an_itk_file_that_was_cut_short(tmp_path, ending, kept):
    path = tmp_path / f"scan{ending}"
    write_volume(path, whole_numbers((1, 20, 20, 20)), header((20, 20, 20)))
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if kept < 1 else kept])
    with pytest.raises(UserError, match=f"scan{ending} is damaged"):
        read_volume(path)


@every_suffix
def test_text_under_the_name_of_a_volume(tmp_path, ending):
    (tmp_path / f"scan{ending}").write_text("this is not a volume\n" * 50)
    for read in (read_header, read_volume):
        with pytest.raises(UserError, match=f"scan{ending} is damaged"):
            read(tmp_path / f"scan{ending}")


def test_compression_that_the_name_does_not_tell(tmp_path, compressed):
    (tmp_path / "scan.nii.gz").write_bytes(compressed)
    expected = read_volume(tmp_path / "scan.nii.gz").array
    (tmp_path / "scan.nii").write_bytes(compressed)
    (tmp_path / "plain.nii.gz").write_bytes(gzip.decompress(compressed))
    for name in ("scan.nii", "plain.nii.gz"):
        np.testing.assert_array_equal(read_volume(tmp_path / name).array, expected)
    assert ram_of(tmp_path / "scan.nii", (20, 20, 20), 2) == 16_000


@pytest.mark.parametrize(
    "fields",
    [{"datatype": 999}, {"vox_offset": 1e6}, {"dim": [3, -5, 6, 7, 1, 1, 1, 1]}, {"quatern_b": 3}],
    ids=lambda fields: next(iter(fields)),
)
def test_headers_that_cannot_be(tmp_path, fields):
    path = write_nifti(tmp_path / "scan.nii", SHAPE)
    with_header_field(path, sform_code=0, qform_code=1, **fields)
    with pytest.raises(UserError, match=r"scan.nii is"):
        read_volume(path)


# Names


@pytest.mark.parametrize(
    "name, ending, rest",
    [
        ("liver_1.nii.gz", ".nii.gz", "liver_1"),
        ("liver.1.nii", ".nii", "liver.1"),
        ("a.b/LIVER.NII.GZ", ".nii.gz", "LIVER"),
        ("x.nrrd", ".nrrd", "x"),
        ("x.mha", ".mha", "x"),
    ],
)
def test_endings_and_stems(name, ending, rest):
    assert suffix(name) == ending
    assert stem(name) == rest


@pytest.mark.parametrize("name", ["scan.png", "scan.gz", "scan", "scan.nii.zip"])
def test_other_endings(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError, match=r"not a volume that seg3d reads\n  legal: .nii, .nii.gz"):
        read_volume(tmp_path / name)


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(UserError, match=r"missing.nii.gz does not exist"):
        read_volume(tmp_path / "missing.nii.gz")
    (tmp_path / "folder.nii").mkdir()
    with pytest.raises(UserError, match=r"folder.nii is not a file"):
        read_header(tmp_path / "folder.nii")


# Writing


@every_suffix
def test_a_failed_write_leaves_what_was_there(tmp_path, ending):
    path = tmp_path / f"label{ending}"
    write_volume(path, whole_numbers((1, *SHAPE), "uint8"), header())
    before = path.read_bytes()
    with pytest.raises(Exception, match="."):
        write_volume(path, np.full((1, *SHAPE), "x", dtype=object), header())
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_nothing_is_written_under_an_ending_that_is_not_known(tmp_path):
    with pytest.raises(UserError, match="not a volume"):
        write_volume(tmp_path / "out" / "label.png", whole_numbers((1, *SHAPE)), header())
    assert list(tmp_path.iterdir()) == []


# Units


@pytest.mark.parametrize(
    "unit, factor", [("meter", 1e3), ("mm", 1), ("unknown", 1), ("micron", 1e-3)]
)
def test_lengths_are_in_the_units_of_the_header(tmp_path, unit, factor):
    stored = affine_of((0.5, 2, 4), origin=(7, 8, 9))
    image = nib.nifti1.Nifti1Image(whole_numbers(), stored)
    image.header.set_xyzt_units(unit)
    nib.save(image, tmp_path / "scan.nii")
    volume = read_volume(tmp_path / "scan.nii")
    np.testing.assert_allclose(volume.grid.spacing, np.array([0.5, 2, 4]) * factor)
    np.testing.assert_allclose(volume.grid.voxel_volume_ml, 4e-3 * factor**3)
    assert len(volume.header.notes) == (factor != 1)
    # What is made of it has the same header, for programs that look at numbers only.
    write_volume(tmp_path / "label.nii.gz", volume.array, volume.header)
    label = nib.load(tmp_path / "label.nii.gz")
    assert label.header.get_xyzt_units()[0] == unit
    np.testing.assert_allclose(label.affine, stored)
    # Other formats have mm only.
    write_volume(tmp_path / "label.nrrd", volume.array, volume.header)
    np.testing.assert_allclose(
        read_header(tmp_path / "label.nrrd").grid.affine, volume.grid.affine, rtol=1e-6
    )


def test_tiny_voxels_are_voxels(tmp_path):
    path = save_nifti(tmp_path / "scan.nii", whole_numbers(), np.diag([2e-5, 2e-5, 2e-5, 1]))
    np.testing.assert_allclose(read_header(path).grid.spacing, 2e-5, rtol=1e-6)


@pytest.mark.parametrize("spacing", [0, np.nan, np.inf])
@pytest.mark.parametrize("qform_code", [0, 1])
def test_spacings_that_are_none(tmp_path, spacing, qform_code):
    path = write_nifti(tmp_path / "scan.nii", SHAPE)
    with_header_field(
        path, sform_code=0, qform_code=qform_code, pixdim=[1, 1, spacing, 1, 1, 1, 1, 1]
    )
    with pytest.raises(UserError, match=r"scan.nii has no usable geometry"):
        read_header(path)
