"""``seg3d convert --like``: labels and images on the grid of another volume."""

from __future__ import annotations

import itertools
import math
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from nibabel.processing import resample_from_to
from rich.console import Console

from seg3d.common.errors import UserError
from seg3d.geometry import Grid
from seg3d.io import Header, open_volume, read_volume, whole, write_volume
from seg3d.io.convert import convert_volume
from seg3d.io.regions import Region, lengths
from seg3d.io.resampled import Resampled
from seg3d.io.resampling import Resampling
from tests.conftest import Cli
from tests.dicom_series import write_series
from tests.io.test_reoriented import Held
from tests.ram import peak_growth, sparse_nifti
from tests.volumes import ORIENTATIONS, affine_of, save_nifti

OBLIQUE = affine_of((0.7, 0.9, 2.1), (15, -20, 130), (-100, 50, 30))
SHAPE = (9, 10, 11)


def convert(source: Path, target: Path, like: Path | None, labels: bool | None = None) -> list[str]:
    return convert_volume(source, target, Console(quiet=True), like, labels)


def numbers(shape: tuple[int, ...] = SHAPE, dtype: str = "int16") -> np.ndarray:
    return np.random.default_rng(0).integers(1, 30_000, shape).astype(dtype)


def smooth(shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    x, y, z = np.ogrid[[slice(0, length) for length in shape]]
    return (100 + 3 * x - 2 * y + 5 * z).astype(np.float32)


# The same voxels


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    change=st.sampled_from(ORIENTATIONS),
    dtype=st.sampled_from(["uint8", "int16", "uint16", "uint32", "int64", "uint64", "float32"]),
    nearest=st.booleans(),
)
def test_a_box_has_its_voxels_to_the_last_bit(data, change, dtype, nearest):
    """Cut out of the image, or larger than it, in any order of the axes, with noise in its header.

    Whole numbers are interpolated in double precision.
    """
    voxels = numbers(dtype=dtype)
    everything = nib.nifti1.Nifti1Image(voxels, OBLIQUE, dtype=voxels.dtype)
    cuts = []
    for length in SHAPE:
        start = data.draw(st.integers(0, length - 2))
        cuts.append(slice(start, data.draw(st.integers(start + 1, length))))
    box = everything.slicer[tuple(cuts)]
    expected = np.zeros(SHAPE, dtype)
    expected[tuple(cuts)] = voxels[tuple(cuts)]
    turned = box.as_reoriented(change)
    affine = turned.affine.copy()
    affine[:3, 3] += data.draw(st.floats(-1e-4, 1e-4))
    x, y, z = turned.shape
    small = Held(np.asarray(turned.dataobj), Grid((x, y, z), affine))
    read = Resampled(small, Grid(SHAPE, OBLIQUE), nearest=nearest)
    assert read.exact and read.overlaps
    made = read.read(whole(SHAPE))
    assert made.dtype == dtype
    assert np.array_equal(made[0], expected)

    large = Held(voxels, Grid(SHAPE, OBLIQUE))
    x, y, z = box.shape
    read = Resampled(large, Grid((x, y, z), box.affine), nearest=nearest)
    assert np.array_equal(read.read(whole((x, y, z)))[0], voxels[tuple(cuts)])


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".ome.zarr"])
def test_another_order_loses_nothing(tmp_path, ending):
    pytest.importorskip("SimpleITK")
    image = save_nifti(tmp_path / "image.nii.gz", numbers(), OBLIQUE)
    for number, change in enumerate(ORIENTATIONS[::7]):
        other = nib.load(image).as_reoriented(change)
        label = save_nifti(tmp_path / f"{number}.nii", np.asarray(other.dataobj), other.affine)
        assert convert(label, tmp_path / f"{number}{ending}", image) == []
        made = read_volume(tmp_path / f"{number}{ending}")
        assert np.array_equal(made.array[0], numbers()) and made.array.dtype == np.int16
        np.testing.assert_allclose(made.grid.affine, OBLIQUE, atol=1e-4)


def test_a_segmentation_that_was_cropped(tmp_path, cli: Cli):
    """As 3D Slicer writes it: a box around what is marked, with an origin of its own, in LPS."""
    itk = pytest.importorskip("SimpleITK")
    image = save_nifti(tmp_path / "scan.nii.gz", numbers(), OBLIQUE)
    marked = np.zeros(SHAPE, np.uint8)
    marked[3:6, 2:9, 4:5] = numbers((3, 7, 1), "uint8")
    whole_label = save_nifti(tmp_path / "label.nii.gz", marked, OBLIQUE)
    box = itk.ReadImage(str(whole_label))[3:6, 2:9, 4:5]
    itk.WriteImage(itk.Flip(box, (True, True, False)), str(tmp_path / "Scan label.seg.nrrd"))
    target = tmp_path / "done" / "scan.nii.gz"
    done = cli("convert", tmp_path / "Scan label.seg.nrrd", target, "--like", image, "--labels")
    assert (done.stdout.split(), done.stderr) == ([str(target)], "")
    made = nib.load(target)
    assert np.array_equal(np.asarray(made.dataobj), marked) and made.get_data_dtype() == np.uint8
    assert np.array_equal(made.affine, nib.load(image).affine)


def test_the_header_is_that_of_the_image_and_the_channels_are_the_own(tmp_path):
    image = nib.nifti2.Nifti2Image(numbers((*SHAPE, 2)), OBLIQUE)
    image.header.set_sform(OBLIQUE, 4)
    nib.save(image, tmp_path / "image.nii")
    channels = numbers((*SHAPE, 3), "uint8")[::-1]
    affine = OBLIQUE @ np.diag([-1.0, 1, 1, 1])
    affine[:3, 3] += 8 * OBLIQUE[:3, 0]
    save_nifti(tmp_path / "label.nii", channels, affine)
    assert convert(tmp_path / "label.nii", tmp_path / "b.nii", tmp_path / "image.nii") == []
    made = nib.load(tmp_path / "b.nii")
    assert isinstance(made, nib.nifti2.Nifti2Image) and made.header["sform_code"] == 4
    assert np.array_equal(np.asarray(made.dataobj), channels[::-1])


# Others


@pytest.mark.parametrize("name", ["straight", "permuted", "oblique"])
@pytest.mark.parametrize("nearest", [True, False])
def test_values_lie_where_the_affine_says(monkeypatch, name, nearest):
    """Against nibabel, in one piece and in many."""
    affine, origin = {
        "straight": (np.diag([-0.63, 1.7, 1.31, 1]), (7.1, -1.25, -2.2)),
        "permuted": (np.diag([0.63, 1.7, -1.31, 1])[:, [1, 2, 0, 3]], (2.1, 1.3, 7.7)),
        "oblique": (affine_of((0.63, 1.7, 1.31), (31, -12, 77)), (6.1, -1.3, 1.7)),
    }[name]
    affine[:3, 3] = origin
    shape = (12, 7, 10)
    voxels = numbers() if nearest else smooth()
    source = Held(voxels, Grid(SHAPE, np.eye(4)))
    order = 0 if nearest else 1
    expected = resample_from_to(
        nib.nifti1.Nifti1Image(voxels, np.eye(4)), (shape, affine), order, mode="nearest"
    ).get_fdata()
    places = np.stack(np.indices(shape), -1) @ affine[:3, :3].T + affine[:3, 3]
    outside = ((places < -0.5) | (places >= np.array(SHAPE) - 0.5)).any(-1)
    assert 0.2 < outside.mean() < 0.9
    expected[outside] = 0
    read = Resampled(source, Grid(shape, affine), nearest=nearest)
    made = read.read(whole(shape))[0]
    assert not read.exact
    np.testing.assert_allclose(made, expected, atol=0 if nearest else 1e-4)
    monkeypatch.setattr("seg3d.io.resampled.PIECE", 30)
    source.asked.clear()
    np.testing.assert_allclose(read.read(whole(shape))[0], made, atol=1e-5)
    asked = [np.prod([part.stop - part.start for part in region]) for region in source.asked]
    assert len(asked) > 10 and max(asked) <= 30
    part = slice(3, 9), slice(1, 6), slice(2, 10)
    np.testing.assert_allclose(read.read(part)[0], made[part], atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    sides=st.tuples(*[st.integers(1, 8)] * 3),
    spacing=st.tuples(*[st.floats(0.2, 6)] * 3),
    degrees=st.tuples(*[st.floats(-180, 180)] * 3),
    shift=st.tuples(*[st.floats(-9, 9)] * 3),
)
def test_labels_are_never_invented(sides, spacing, degrees, shift):
    """No value that the source has not, and 0 exactly where no voxel of it is."""
    values = np.array([7, 1000, 65535], np.uint16)
    voxels = np.random.default_rng(0).choice(values, SHAPE)
    grid = Grid(sides, OBLIQUE @ affine_of(spacing, degrees, shift))
    read = Resampled(Held(voxels, Grid(SHAPE, OBLIQUE)), grid, nearest=True)
    made = read.read(whole(sides))
    places = (
        np.linalg.solve(OBLIQUE, grid.affine)
        @ np.array([[*index, 1] for index in itertools.product(*map(range, sides))]).T
    )
    # Half way between two voxels either is as near.
    assume((np.abs(places[:3] % 1 - 0.5) > 1e-5).all())
    index = np.rint(places[:3])
    inside = ((index >= 0) & (index < np.array(SHAPE)[:, None])).all(0)
    assert np.array_equal(made.ravel() != 0, inside)
    assert read.overlaps == inside.any()
    x, y, z = index[:, inside].astype(int)
    assert np.array_equal(made.ravel()[inside], voxels[x, y, z])


def test_the_number_type_decides_unless_a_person_does(tmp_path):
    image = save_nifti(tmp_path / "image.nii", numbers((9, 10, 21)), np.diag([1, 1, 0.5, 1]))
    whole_numbers = save_nifti(tmp_path / "ct.nii", np.rint(smooth()).astype(np.int16))
    fractions = save_nifti(tmp_path / "mr.nii", smooth())
    half_way = 100 + 2.5 * np.arange(21)
    nearest = 100 + 5 * (np.arange(21) // 2)

    def column(source: Path, labels: bool | None, note: str) -> np.ndarray:
        notes = convert(source, tmp_path / "b.nii", image, labels)
        assert notes == [f"{source} lies on another grid than {image}: {note}"]
        made = read_volume(tmp_path / "b.nii").array
        assert made.dtype == read_volume(source).array.dtype
        return made[0, 0, 0]

    taken, interpolated = "its nearest voxels are taken", "it is interpolated linearly"
    said = f"{taken} (--image interpolates)"
    assert np.array_equal(column(whole_numbers, None, said), nearest)
    assert np.array_equal(column(whole_numbers, False, interpolated), np.rint(half_way))
    said = f"{interpolated} (--labels takes the nearest voxels)"
    assert np.array_equal(column(fractions, None, said), half_way)
    assert np.array_equal(column(fractions, True, taken), nearest)


def test_a_survey_gets_its_labels_back(tmp_path):
    """Drawn in a program for medical images, which took metres for mm and turned the axes."""
    grid = Grid((3, 4, 5), np.diag([25.0, 12.5, 4, 1]), ("inline", "crossline", "time"))
    survey = tmp_path / "east.sgy"
    write_volume(survey, numbers((1, 3, 4, 5), "float32"), Header(grid, 1, None))
    convert(survey, tmp_path / "east.nii", None)
    drawn = nib.load(tmp_path / "east.nii").as_reoriented(ORIENTATIONS[13])
    save_nifti(tmp_path / "drawn.nii", np.asarray(drawn.dataobj), drawn.affine)
    assert convert(tmp_path / "drawn.nii", tmp_path / "labels.sgy", survey) == []
    first, second = read_volume(survey), read_volume(tmp_path / "labels.sgy")
    assert np.array_equal(first.array, second.array)
    assert second.grid.axes == first.grid.axes and not first.grid.differences(second.grid)


def test_like_a_series(tmp_path):
    pytest.importorskip("SimpleITK")
    write_series(tmp_path / "series", numbers())
    with open_volume(tmp_path / "series") as series:
        affine = series.header.grid.affine
    turned = nib.nifti1.Nifti1Image(numbers(), affine).as_reoriented(ORIENTATIONS[20])
    save_nifti(tmp_path / "a.nii", np.asarray(turned.dataobj), turned.affine)
    convert(tmp_path / "a.nii", tmp_path / "b.nii.gz", tmp_path / "series")
    assert np.array_equal(read_volume(tmp_path / "b.nii.gz").array[0], numbers())


def test_arrays_without_geometry(tmp_path):
    image = save_nifti(tmp_path / "image.nii", numbers(), OBLIQUE)
    np.save(tmp_path / "label.npy", numbers(dtype="uint8"))
    (note,) = convert(tmp_path / "label.npy", tmp_path / "label.nii", image)
    assert "label.npy keeps no geometry: voxels are taken to stand in the same order" in note
    made = read_volume(tmp_path / "label.nii")
    assert np.array_equal(made.array[0], numbers(dtype="uint8"))
    np.testing.assert_allclose(made.grid.affine, OBLIQUE, atol=1e-5)
    np.save(tmp_path / "label.npy", numbers((9, 10, 10), "uint8"))
    with pytest.raises(UserError, match=r"label\.npy keeps no geometry\n.*\(9, 10, 10\) and"):
        convert(tmp_path / "label.npy", tmp_path / "c.nii", image)
    assert not (tmp_path / "c.nii").exists()


def test_what_makes_no_sense_changes_nothing(tmp_path, cli: Cli):
    image = save_nifti(tmp_path / "image.nii", numbers(), OBLIQUE)
    label = save_nifti(tmp_path / "label.nii", numbers(), affine_of(origin=(500, 0, 0)))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    for target, like, labels, message in (
        ("b.nii", image, None, r"have no voxel in common\n  given: from \(500, 0, 0\) to \(508"),
        ("image.nii", image, None, "would overwrite its input .*image.nii"),
        ("b.nii", tmp_path / "none.nii", None, "none.nii does not exist"),
        ("b.nii", None, True, "--labels and --image say how --like resamples"),
    ):
        with pytest.raises(UserError, match=message):
            convert(label, tmp_path / target, like, labels)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    done = cli("convert", label, tmp_path / "b.nii", "--image", status=2)
    assert done.stderr.startswith("error: --labels and --image say how --like resamples\n")


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_resampling_takes_the_memory_of_pieces(tmp_path):
    """Both volumes have 32 MiB, and the places of all voxels 384 MiB."""
    path = sparse_nifti(tmp_path / "a.nii", (256, 256, 256))
    like = tmp_path / "like.nii"
    grid = Grid((256, 256, 256), affine_of(degrees=(5, 4, 3)))
    write_volume(like, np.broadcast_to(np.uint8(0), (1, *grid.shape)), Header(grid, 1, None))
    program = (
        "from pathlib import Path\nfrom rich.console import Console\nimport torch\n"
        "from seg3d.io import convert as module, resampled\n"
        "module.BLOCK_BYTES = 2**21\nresampled.PIECE = 2**17\nbegin()\n"
        "module.convert_volume(\n"
        "    Path(sys.argv[1]), Path(sys.argv[2]), Console(), Path(sys.argv[3]))"
    )
    assert peak_growth(program, path, tmp_path / "b.npy", like) < 48


def test_a_grid_of_long_rows_is_compared_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A grid may have more voxels in a slice than there is memory."""
    monkeypatch.setattr(
        Resampling, "inside", lambda self, region: sizes.append(region) or np.zeros(1)
    )
    held = Held(np.zeros((4, 4, 4), np.int16), Grid((4, 4, 4), np.eye(4)))
    held.slow_axis = 0
    grid = Grid((7, 10**7, 9), np.diag([0.9, 0.9, 0.9, 1.0]))
    sizes: list[Region] = []
    assert not Resampled(held, grid, nearest=True).overlaps
    assert max(math.prod(lengths(one)) for one in sizes) <= 2**20
