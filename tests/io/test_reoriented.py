"""The same voxels in another order of the axes: read as if the axes stood as wanted."""

from __future__ import annotations

import math
import shlex
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from rich.console import Console

from seg3d.common.errors import UserError
from seg3d.geometry import Grid
from seg3d.io import Header, VolumeReader, open_volume, whole
from seg3d.io.convert import convert_volume
from seg3d.io.regions import Region
from seg3d.io.reoriented import AS_STORED, Reoriented, on_grid_of, turn_between
from tests.volumes import ORIENTATIONS, affine_of, save_nifti


def reordered(image: nib.nifti1.Nifti1Image, change: np.ndarray) -> nib.nifti1.Nifti1Image:
    """The same voxels in the same places, along other axes: nibabel's way."""
    return image.as_reoriented(change)


def grid_of(image: nib.nifti1.Nifti1Image) -> Grid:
    x, y, z = image.shape
    return Grid((x, y, z), image.affine)


class Held(VolumeReader):
    """A volume in memory that says how it is best read."""

    def __init__(self, array: np.ndarray, grid: Grid) -> None:
        self.header = Header(grid, 1, None)
        self.dtype = array.dtype
        self.slow_axis = 1
        self.chunk = (2, 3, 4)
        self.array = array
        self.asked: list[Region] = []

    def read(self, region: Region) -> np.ndarray:
        self.asked.append(region)
        return self.array[None, *region]

    def close(self) -> None:
        self.array = np.empty(0)


sizes = st.integers(1, 5)
angles = st.floats(-180, 180)


@st.composite
def images(draw: st.DrawFn) -> nib.nifti1.Nifti1Image:
    shape = draw(st.tuples(sizes, sizes, sizes))
    affine = affine_of(
        draw(st.tuples(*[st.floats(0.3, 5)] * 3)),
        draw(st.tuples(angles, angles, angles)),
        draw(st.tuples(*[st.floats(-300, 300)] * 3)),
    )
    affine[:3, 1] += draw(st.floats(-0.3, 0.3)) * affine[:3, 2]
    voxels = np.arange(np.prod(shape), dtype=np.uint16).reshape(shape)
    return nib.nifti1.Nifti1Image(voxels, affine)


@st.composite
def regions(draw: st.DrawFn, shape: tuple[int, ...]) -> Region:
    starts = [draw(st.integers(0, length - 1)) for length in shape]
    stops = [
        draw(st.integers(start + 1, length)) for start, length in zip(starts, shape, strict=True)
    ]
    x, y, z = map(slice, starts, stops)
    return x, y, z


@settings(max_examples=200, deadline=None)
@given(data=st.data(), image=images(), change=st.sampled_from(ORIENTATIONS))
def test_every_order_gives_back_every_voxel(data, image, change):
    other = reordered(image, change)
    # In mm, as headers in single precision lose it.
    noise = data.draw(st.lists(st.floats(-1e-4, 1e-4), min_size=12, max_size=12))
    noisy = other.affine + np.vstack([np.reshape(noise, (3, 4)), np.zeros(4)])
    stored = Held(np.asarray(other.dataobj), Grid(grid_of(other).shape, noisy))
    read = on_grid_of(Path("image.nii"), grid_of(image), Path("label.nii"), stored)
    region = data.draw(regions(image.shape))
    expected = np.asarray(image.dataobj)[region]
    assert np.array_equal(read.read(region)[0], expected)
    assert read.dtype == expected.dtype
    assert not grid_of(image).differences(read.header.grid)
    (there,) = stored.asked
    assert math.prod(part.stop - part.start for part in there) == expected.size


@pytest.mark.parametrize("change", ORIENTATIONS, ids=str)
def test_what_reads_fast_stays_so(change):
    """An axis of its own length each, so that it is known again."""
    image = nib.nifti1.Nifti1Image(np.zeros((7, 8, 9), np.uint8), affine_of((1, 2, 3)))
    other = reordered(image, change)
    stored = Held(np.asarray(other.dataobj), grid_of(other))
    turn = turn_between(grid_of(other), grid_of(image))
    assert turn is not None
    read = Reoriented(stored, turn)
    length = other.shape[stored.slow_axis]
    assert image.shape[read.slow_axis] == length
    of_chunk = dict(zip(other.shape, stored.chunk, strict=True))
    assert read.chunk == tuple(of_chunk[size] for size in image.shape)


@settings(max_examples=100, deadline=None)
@given(image=images(), change=st.sampled_from(ORIENTATIONS), data=st.data())
def test_a_shift_is_no_order(image, change, data):
    """Half a voxel along any axis, and any other shape."""
    other = grid_of(reordered(image, change))
    axis = data.draw(st.integers(0, 2))
    moved = other.affine.copy()
    moved[:3, 3] += 0.5 * moved[:3, axis]
    assert turn_between(Grid(other.shape, moved), grid_of(image)) is None
    longer = list(other.shape)
    longer[axis] += 1
    x, y, z = longer
    assert turn_between(Grid((x, y, z), other.affine), grid_of(image)) is None


@given(image=images(), degrees=st.floats(2, 178))
@settings(max_examples=50, deadline=None)
def test_another_direction_is_no_order(image, degrees):
    assume(min(image.shape) > 1 and abs(degrees - 90) > 2)
    grid = grid_of(image)
    turned = affine_of(degrees=(0, degrees, 0)) @ grid.affine
    turned[:3, 3] = grid.affine[:3, 3]
    assert turn_between(Grid(grid.shape, turned), grid) is None


def test_the_file_itself_where_nothing_is_to_be_done():
    """Also for a single slice that is said to be of another thickness."""
    stored = Held(np.zeros((4, 5, 1), np.uint8), Grid((4, 5, 1), np.diag([1, 1, 3.0, 1])))
    grid = Grid((4, 5, 1), np.diag([1, 1, 1.0, 1]))
    assert on_grid_of(Path("a.nii"), grid, Path("b.nii"), stored) is stored
    assert turn_between(stored.header.grid, grid) == AS_STORED


def test_the_file_is_closed_with_it(tmp_path):
    stored = Held(np.zeros((4, 5, 6)), Grid((4, 5, 6), np.eye(4)))
    with Reoriented(stored, AS_STORED):
        pass
    assert stored.array.size == 0


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_what_itk_writes_in_another_order(tmp_path, ending):
    itk = pytest.importorskip("SimpleITK")
    image = itk.GetImageFromArray(np.arange(210, dtype=np.uint16).reshape(5, 6, 7))
    image.SetSpacing((0.5, 0.75, 3))
    image.SetOrigin((-100, 20, 33))
    c, s = np.cos(0.3), np.sin(0.3)
    image.SetDirection((c, -s, 0, s, c, 0, 0, 0, 1))
    itk.WriteImage(image, str(tmp_path / "image.nii.gz"))
    label = itk.Flip(itk.PermuteAxes(image, (2, 0, 1)), (True, False, True))
    itk.WriteImage(label, str(tmp_path / f"label{ending}"), useCompression=True)
    with (
        open_volume(tmp_path / "image.nii.gz") as first,
        open_volume(tmp_path / f"label{ending}") as second,
    ):
        grid = first.header.grid
        assert second.header.grid.shape == (5, 7, 6)
        read = on_grid_of(tmp_path / "image.nii.gz", grid, tmp_path / "label", second)
        assert np.array_equal(read.read(whole(grid.shape)), first.read(whole(grid.shape)))


def test_the_advice_is_a_command_that_works(tmp_path):
    """Names with blanks too."""
    image = save_nifti(tmp_path / "the images" / "a.nii.gz", np.zeros((4, 5, 6), np.int16))
    label = save_nifti(tmp_path / "labels" / "a.nii", np.ones((2, 3, 3), np.uint8))
    with open_volume(image) as first, open_volume(label) as second:
        grid = first.header.grid
        with pytest.raises(UserError, match="do not lie on the same grid") as caught:
            on_grid_of(image, grid, label, second)
    told, advice = str(caught.value).rsplit("put one on the grid of the other: ", 1)
    assert "given: shape (4, 5, 6) and (2, 3, 3)" in told
    seg3d, *arguments = shlex.split(advice)
    assert (seg3d, arguments[0]) == ("seg3d", "convert")
    assert arguments[2] == "resampled/a.nii.gz"
    made_at = tmp_path / arguments[2]
    convert_volume(Path(arguments[1]), made_at, Console(quiet=True), Path(arguments[4]))
    with open_volume(made_at) as made:
        assert not grid.differences(made.header.grid)
        array = made.read(whole(grid.shape))
    assert array.sum() == 18 and array[0, :2, :3, :3].all()
