"""Volumes by regions: any region that is read or written, in any order, is that of the whole."""

from __future__ import annotations

import gzip
import itertools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seg3d.common.errors import UserError
from seg3d.geometry import Grid
from seg3d.io import Header, Region, arrays, create_volume, open_volume, read_volume, whole
from tests.volumes import save_nifti

ENDINGS = (".nii", ".nii.gz", ".npy", ".nrrd", ".mha", ".ome.zarr", ".zarr")
DTYPES = ("uint8", "int16", "uint16", "int32", "float32")
every_ending = pytest.mark.parametrize("ending", ENDINGS)

shapes = st.tuples(*[st.integers(1, 9)] * 3)


def header(shape: tuple[int, int, int]) -> Header:
    return Header(Grid(shape, np.diag([0.5, 1, 2.5, 1])), 1, None)


def numbers(shape: tuple[int, ...], dtype: str = "int16") -> np.ndarray:
    return np.random.default_rng(0).integers(0, 200, shape).astype(dtype)


@st.composite
def regions(draw: st.DrawFn, shape: tuple[int, int, int]) -> Region:
    bounds = [sorted(draw(st.tuples(*[st.integers(0, length)] * 2))) for length in shape]
    x, y, z = (slice(start, stop) for start, stop in bounds)
    return x, y, z


@st.composite
def partitions(draw: st.DrawFn, shape: tuple[int, int, int]) -> list[Region]:
    """Boxes that fill a volume, in any order."""
    cuts = [
        sorted({0, length, *draw(st.lists(st.integers(0, length), max_size=2))}) for length in shape
    ]
    pieces = [[slice(*ends) for ends in itertools.pairwise(axis)] for axis in cuts]
    return draw(st.permutations([(x, y, z) for x, y, z in itertools.product(*pieces)]))


@every_ending
@settings(max_examples=15, deadline=None)
@given(data=st.data(), shape=shapes, channels=st.integers(1, 3), dtype=st.sampled_from(DTYPES))
def test_any_partition_written_is_any_region_read(
    tmp_path_factory, ending, data, shape, channels, dtype
):
    path = tmp_path_factory.mktemp("any") / f"volume{ending}"
    array = numbers((channels, *shape), dtype)
    with create_volume(path, header(shape), dtype, channels) as writer:
        for region in data.draw(partitions(shape)):
            writer.write(region, array[(slice(None), *region)])
            assert not path.exists()
    with open_volume(path) as reader:
        assert reader.header.grid.shape == shape
        assert reader.header.channels == channels
        assert reader.dtype == dtype
        for _ in range(3):
            region = data.draw(regions(shape))
            part = reader.read(region)
            assert part.dtype == dtype
            np.testing.assert_array_equal(part, array[(slice(None), *region)])
    np.testing.assert_array_equal(read_volume(path).array, array)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@every_ending
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_writing_that_is_interrupted_leaves_what_was_there(tmp_path, ending, error):
    path = tmp_path / f"volume{ending}"
    old = numbers((1, 4, 5, 6))
    with create_volume(path, header((4, 5, 6)), old.dtype) as writer:
        writer.write(whole((4, 5, 6)), old)
    with pytest.raises(error), create_volume(path, header((4, 5, 6)), old.dtype) as writer:
        writer.write((slice(0, 2), slice(0, 5), slice(0, 6)), old[:, :2] + 1)
        raise error
    np.testing.assert_array_equal(read_volume(path).array, old)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_scaling_is_applied_to_every_region(tmp_path, ending):
    import nibabel as nib

    stored = numbers((5, 6, 7))
    image = nib.nifti1.Nifti1Image(stored, np.eye(4))
    path = tmp_path / f"scan{ending}"
    content = bytearray(image.to_bytes())
    head = nib.nifti1.Nifti1Header(content[:348])
    head["scl_slope"], head["scl_inter"] = 0.5, -3
    content[:348] = head.binaryblock
    path.write_bytes(gzip.compress(content) if ending == ".nii.gz" else content)
    with open_volume(path) as reader:
        assert reader.dtype == np.float32
        part = reader.read((slice(1, 3), slice(0, 6), slice(2, 7)))
    np.testing.assert_array_equal(part[0], stored[1:3, :, 2:] * 0.5 - 3)


# Large compressed volumes are unpacked in a temporary file


def test_unpacking_and_packing_through_a_temporary_file(tmp_path, monkeypatch):
    monkeypatch.setattr("seg3d.io.arrays.LARGEST_IN_RAM", 0)
    monkeypatch.setattr("seg3d.io.arrays.STEP", 100)
    array = numbers((2, 5, 6, 7))
    path = tmp_path / "volume.nii.gz"
    with create_volume(path, header((5, 6, 7)), array.dtype, 2) as writer:
        writer.write(whole((5, 6, 7)), array)
        assert list(tmp_path.iterdir()) == []
    with open_volume(path) as reader:
        np.testing.assert_array_equal(reader.read(whole((5, 6, 7))), array)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("in_ram", [0, 2**30])
@pytest.mark.parametrize("kept", [0.5, -8, -1])
def test_a_cut_file_is_damaged_wherever_it_is_unpacked(tmp_path, monkeypatch, in_ram, kept):
    monkeypatch.setattr("seg3d.io.arrays.LARGEST_IN_RAM", in_ram)
    path = save_nifti(tmp_path / "scan.nii.gz", numbers((20, 20, 20)))
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if kept > 0 else kept])
    with open_volume(path) as reader, pytest.raises(UserError, match="scan.nii.gz is damaged"):
        reader.read(whole((20, 20, 20)))


def test_the_space_is_checked_before_anything_is_unpacked(tmp_path, monkeypatch):
    """A header may announce more than any disk holds."""
    path = save_nifti(tmp_path / "scan.nii", numbers((5, 6, 7)))
    content = bytearray(path.read_bytes())
    content[40:56] = np.array([3, 30_000, 30_000, 30_000, 1, 1, 1, 1], "<i2").tobytes()
    huge = tmp_path / "huge.nii.gz"
    huge.write_bytes(gzip.compress(content))
    with (
        open_volume(huge) as reader,
        pytest.raises(UserError, match=r"huge.nii.gz is cut short or damaged"),
    ):
        reader.read((slice(0, 1), slice(0, 1), slice(0, 1)))
    small = save_nifti(tmp_path / "small.nii.gz", numbers((5, 6, 7)))
    monkeypatch.setattr(arrays, "LARGEST_IN_RAM", 0)
    monkeypatch.setattr("shutil.disk_usage", lambda place: SimpleNamespace(free=10))
    with (
        open_volume(small) as reader,
        pytest.raises(UserError, match=r"(?s)not enough space on the disk.*TMPDIR"),
    ):
        reader.read((slice(0, 1), slice(0, 1), slice(0, 1)))


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".npy"])
def test_more_than_the_disk_holds_is_refused_at_once(tmp_path, ending):
    with pytest.raises(UserError, match=r"not enough space on the disk\n  given: .* GiB are free"):
        create_volume(tmp_path / f"huge{ending}", header((30_000,) * 3), "float32")
    assert list(tmp_path.iterdir()) == []


# Arrays of NumPy


@pytest.mark.parametrize("order, slow", [("C", 0), ("F", 2)])
def test_arrays_in_either_order(tmp_path, order, slow):
    array = numbers((5, 6, 7))
    np.save(tmp_path / "volume.npy", np.asarray(array, order=order))
    with open_volume(tmp_path / "volume.npy") as reader:
        assert reader.slow_axis == slow
        assert reader.header.grid.spacing == (1, 1, 1)
        np.testing.assert_array_equal(reader.read(whole((5, 6, 7)))[0], array)


def test_channels_of_arrays_come_last(tmp_path):
    array = numbers((5, 6, 7, 2))
    np.save(tmp_path / "volume.npy", array)
    volume = read_volume(tmp_path / "volume.npy")
    np.testing.assert_array_equal(volume.array, np.moveaxis(array, -1, 0))


@pytest.mark.parametrize(
    "stored, read", [("bool", "uint8"), ("float16", "float32"), ("float64", "float32")]
)
def test_number_types_of_arrays(tmp_path, stored, read):
    np.save(tmp_path / "volume.npy", numbers((2, 3, 4)).astype(stored))
    assert read_volume(tmp_path / "volume.npy").array.dtype == read


def test_arrays_are_never_unpickled(tmp_path):
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return (tmp_path / "sprung").touch, ()

    trapped = np.empty((2, 2, 2), object)
    trapped[:] = Trap()
    np.save(tmp_path / "volume.npy", trapped, allow_pickle=True)
    with pytest.raises(UserError, match="volume.npy is damaged or not an array of numbers"):
        open_volume(tmp_path / "volume.npy")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("kept", [0, 4, 40, -1])
def test_an_array_that_was_cut_short(tmp_path, kept):
    path: Path = tmp_path / "volume.npy"
    np.save(path, numbers((5, 6, 7)))
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match="volume.npy is damaged"):
        open_volume(path)


@pytest.mark.parametrize("closed", [b"{", b",", b"\x00", b")"])
def test_an_array_whose_header_is_no_python(tmp_path, closed):
    path = tmp_path / "volume.npy"
    np.save(path, numbers((5, 6, 7)))
    path.write_bytes(path.read_bytes().replace(b"}", closed, 1))
    with pytest.raises(UserError, match="volume.npy is damaged"):
        open_volume(path)


@pytest.mark.parametrize("shape", [(5,), (5, 6), (5, 6, 7, 2, 2), (0, 6, 7)])
def test_arrays_that_are_no_volumes(tmp_path, shape):
    np.save(tmp_path / "volume.npy", np.zeros(shape))
    with pytest.raises(UserError, match=r"volume.npy is (not a 3D volume|damaged)"):
        open_volume(tmp_path / "volume.npy")
