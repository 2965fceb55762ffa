"""``seg3d convert``: the same voxels in the same places, and nothing half-written."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from seg3d.common.errors import UserError
from seg3d.geometry import Grid
from seg3d.io import Header, open_volume, read_volume, write_volume
from seg3d.io.convert import BLOCK_BYTES, blocks, convert_volume
from tests.conftest import Cli, environment
from tests.dicom_series import write_series
from tests.ram import peak_growth, sparse_nifti
from tests.volumes import affine_of, save_nifti

pytest.importorskip("SimpleITK")

SHAPE = (9, 8, 7)
OBLIQUE = affine_of((0.5, 1, 3), (15, -20, 130), (-100, 50, 30))
WITH_GEOMETRY = (".nii", ".nii.gz", ".nrrd", ".mha", ".ome.zarr", ".zarr")


def numbers(shape: tuple[int, ...] = SHAPE, dtype: str = "int16") -> np.ndarray:
    return np.random.default_rng(0).integers(-30_000, 30_000, shape).astype(dtype)


def convert(source: Path, target: Path) -> list[str]:
    return convert_volume(source, target, Console())


def test_around_through_all_formats(tmp_path):
    source = save_nifti(tmp_path / "0.nii.gz", numbers(), OBLIQUE)
    first = source
    for number, ending in enumerate((*WITH_GEOMETRY[::-1], ".nii.gz"), 1):
        target = tmp_path / f"{number}{ending}"
        assert convert(source, target) == []
        source = target
    before, after = read_volume(first), read_volume(source)
    assert after.array.dtype == np.int16
    np.testing.assert_array_equal(after.array, before.array)
    np.testing.assert_allclose(after.grid.affine, before.grid.affine, atol=1e-4)


@pytest.mark.parametrize("ending", [*WITH_GEOMETRY, ".npy"])
def test_channels_and_single_precision(tmp_path, ending):
    array = numbers((*SHAPE, 3), "float64") / 7
    np.save(tmp_path / "a.npy", array)
    convert(tmp_path / "a.npy", tmp_path / f"b{ending}")
    volume = read_volume(tmp_path / f"b{ending}")
    assert volume.array.dtype == np.float32
    np.testing.assert_array_equal(volume.array, np.moveaxis(array.astype("float32"), -1, 0))


def test_nifti_keeps_its_units_and_codes(tmp_path):
    image = nib.nifti2.Nifti2Image(numbers(), None)
    image.header.set_qform(OBLIQUE, 1)
    image.header.set_sform(OBLIQUE, 4)
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, tmp_path / "a.nii")
    convert(tmp_path / "a.nii", tmp_path / "b.nii.gz")
    before, after = nib.load(tmp_path / "a.nii"), nib.load(tmp_path / "b.nii.gz")
    assert type(after) is type(before)
    for field in ("qform_code", "sform_code", "xyzt_units", "pixdim"):
        assert np.array_equal(after.header[field], before.header[field])


def test_a_series_with_a_tilted_gantry_says_so(tmp_path, cli: Cli):
    write_series(tmp_path / "series", numbers(), step=(0, 0.5, 2))
    done = cli("convert", tmp_path / "series", tmp_path / "scan.nii.gz")
    assert done.stdout.split() == [str(tmp_path / "scan.nii.gz")]
    assert "14.0 degrees from right angles, as in CT with a tilted gantry" in done.stderr
    series, scan = read_volume(tmp_path / "series"), read_volume(tmp_path / "scan.nii.gz")
    np.testing.assert_array_equal(scan.array[0], numbers())
    np.testing.assert_allclose(scan.grid.affine, series.grid.affine, atol=1e-5)


def test_lost_geometry_is_said(tmp_path):
    save_nifti(tmp_path / "a.nii", numbers(), np.diag([-0.5, -1, 3, 1]))
    (note,) = convert(tmp_path / "a.nii", tmp_path / "a.npy")
    assert "a.npy keeps no geometry: its spacing of 0.5 x 1 x 3 mm, orientation LPS" in note
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), numbers())
    assert convert(tmp_path / "a.npy", tmp_path / "b.npy") == []


def test_units_of_surveys_that_other_formats_do_not_say(tmp_path):
    affine = np.diag([25.0, 12.5, 4.0, 1.0])
    grid = Grid((3, 4, 5), affine, ("inline", "crossline", "time"), ("m", "m", "ms"))
    write_volume(tmp_path / "a.sgy", np.ones((1, 3, 4, 5), np.float32), Header(grid, 1, None))
    assert convert(tmp_path / "a.sgy", tmp_path / "b.sgy") == []
    (note,) = convert(tmp_path / "a.sgy", tmp_path / "a.nii")
    assert "a.nii says mm" in note and "a.sgy: 25 m x 12.5 m x 4 ms" in note
    (note,) = convert(tmp_path / "a.sgy", tmp_path / "a.npy")
    assert "spacing of 25 m x 12.5 m x 4 ms" in note


def test_what_makes_no_sense_changes_nothing(tmp_path):
    save_nifti(tmp_path / "a.nii", numbers())
    write_volume(tmp_path / "a.zarr", numbers()[None], Header(Grid(SHAPE, np.eye(4)), 1, None))
    write_series(tmp_path / "series", numbers())
    (tmp_path / "folder.nii.gz").mkdir()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    for source, target, message in (
        ("a.nii", "a.png", "a.png is not a volume that seg3d writes"),
        ("a.nii", "out", "out is not a volume that seg3d writes"),
        ("a.nii", "a.nii", "would overwrite its input"),
        ("a.zarr/0", "a.zarr", "would overwrite its input"),
        ("missing.nii", "b.nii", "missing.nii does not exist"),
        ("a.nii", "series", "DICOM is read, not written"),
        ("a.nii", "folder.nii.gz", "folder.nii.gz is a folder"),
    ):
        with pytest.raises(UserError, match=message):
            convert(tmp_path / source, tmp_path / target)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


# Blocks


@settings(max_examples=50, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 2000)] * 3),
    axes=st.sets(st.integers(0, 2), min_size=1),
    voxel_bytes=st.sampled_from([1, 2, 4, 12]),
)
def test_blocks_are_small_and_fill_the_volume_once(shape, axes, voxel_bytes):
    found = blocks(shape, axes, voxel_bytes, BLOCK_BYTES)
    sizes = [[part.stop - part.start for part in region] for region in found]
    assert max(map(np.prod, sizes)) * voxel_bytes <= BLOCK_BYTES
    assert sum(map(np.prod, sizes)) == np.prod(shape)
    assert len({tuple(part.start for part in region) for region in found}) == len(found)
    assert all(part.start % 64 == 0 for region in found for part in region)
    if np.prod(shape) * voxel_bytes <= BLOCK_BYTES:
        assert len(found) == 1


def test_blocks_are_slabs_while_they_are_thick_enough():
    found = blocks((512, 512, 1000), {2}, 2, BLOCK_BYTES)
    assert len(found) > 1
    assert all(region[:2] == (slice(0, 512), slice(0, 512)) for region in found)


@pytest.mark.parametrize("ending", [".nii", ".npy", ".zarr", ".nii.gz"])
def test_many_blocks_make_the_same_file(tmp_path, monkeypatch, ending):
    array = numbers((130, 70, 200))
    save_nifti(tmp_path / "a.nii", array)
    monkeypatch.setattr("seg3d.io.convert.BLOCK_BYTES", 64**3)
    monkeypatch.setattr("seg3d.io.arrays.STEP", 100_000)
    convert(tmp_path / "a.nii", tmp_path / f"b{ending}")
    np.testing.assert_array_equal(read_volume(tmp_path / f"b{ending}").array[0], array)


# Memory and disk


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize("axis", [0, 2])
def test_reading_slabs_takes_the_memory_of_slabs(tmp_path, axis):
    path = sparse_nifti(tmp_path / "a.nii", (512, 256, 512))
    program = (
        "from seg3d.io import open_volume, slabs, whole\n"
        "with open_volume(sys.argv[1]) as volume:\n"
        "    everything = whole(volume.header.grid.shape)\n"
        "    begin()\n"
        f"    for slab in slabs(everything, {axis}, volume.header.grid.shape[{axis}] // 32):\n"
        "        volume.read(slab)"
    )
    assert peak_growth(program, path) < 3 * 4 + 24


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_converting_takes_the_memory_of_blocks(tmp_path):
    path = sparse_nifti(tmp_path / "a.nii", (256, 256, 512))
    program = (
        "from pathlib import Path\nfrom rich.console import Console\n"
        "from seg3d.io import convert as module\nmodule.BLOCK_BYTES = 2**23\nbegin()\n"
        "module.convert_volume(Path(sys.argv[1]), Path(sys.argv[2]), Console())"
    )
    assert peak_growth(program, path, tmp_path / "b.npy") < 3 * 8 + 16


def convert_to_short_files(folder, names):
    """What is printed on a disk that fills up, or the like without root: files end at 64 KiB."""
    program = (
        "import resource\nfrom pathlib import Path\nfrom rich.console import Console\n"
        "from seg3d.io.convert import convert_volume\nfrom seg3d.common.errors import UserError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, 2**16))\n"
        f"for name in {names}:\n"
        "    try:\n"
        "        convert_volume(Path('a.nii'), Path(name), Console())\n"
        "    except UserError as error:\n"
        "        print(error)"
    )
    return subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True, text=True, env=environment(), check=True, cwd=folder,
    ).stdout  # fmt: skip


def test_a_file_that_does_not_fit_leaves_nothing(tmp_path):
    save_nifti(tmp_path / "a.nii", numbers((64, 64, 64)))
    names = [f"b{ending}" for ending in (*WITH_GEOMETRY, ".npy")]
    printed = convert_to_short_files(tmp_path, names)
    for name in names:
        assert re.search(rf"^{name}: .*(\n  .*)*space on the disk", printed, re.M), printed
    assert [path.name for path in tmp_path.iterdir()] == ["a.nii"]


def test_chunks_that_are_under_way_when_the_disk_is_full_leave_nothing(tmp_path):
    """zarr writes many at once, and goes on with the others when one has failed."""
    save_nifti(tmp_path / "a.nii", numbers((256, 256, 128), "uint8"))
    printed = convert_to_short_files(tmp_path, [f"{number}.ome.zarr" for number in range(5)])
    assert printed.count("no more space on the disk") == 5
    assert [path.name for path in tmp_path.iterdir()] == ["a.nii"]


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".ome.zarr", ".npy", ".nrrd"])
def test_a_source_that_is_damaged_leaves_no_folder(tmp_path, ending):
    save_nifti(tmp_path / "a.nii.gz", numbers((20, 20, 20)))
    (tmp_path / "a.nii.gz").write_bytes((tmp_path / "a.nii.gz").read_bytes()[:-2000])
    with pytest.raises(UserError, match=r"a\.nii\.gz is damaged"):
        convert_volume(tmp_path / "a.nii.gz", tmp_path / "new" / f"b{ending}", Console(quiet=True))
    assert [path.name for path in tmp_path.iterdir()] == ["a.nii.gz"]


def test_a_nifti_file_that_is_cut_short_is_found_when_it_is_opened(tmp_path):
    save_nifti(tmp_path / "a.nii", numbers((20, 20, 20)))
    (tmp_path / "a.nii").write_bytes((tmp_path / "a.nii").read_bytes()[:-1])
    with pytest.raises(UserError, match=r"a\.nii is damaged"):
        open_volume(tmp_path / "a.nii")
