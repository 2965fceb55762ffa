"""Zarr and OME-Zarr: levels, axes, units, and stores that are not what they seem."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numcodecs import Blosc, Pickle

from seg3d.common.errors import UserError
from seg3d.geometry import Grid
from seg3d.io import (
    Header,
    create_volume,
    open_volume,
    read_header,
    read_volume,
    stem,
    suffix,
    whole,
    write_volume,
)
from tests.volumes import affine_of

SHAPE = (5, 6, 7)
PICKLE = {"id": "pickle", "protocol": 5}
SHEARED = np.array([[1, 0.25, 0, 3], [0, 2, 0.5, 4], [0, 0, 3, 5], [0, 0, 0, 1.0]])


def numbers(shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 200, shape).astype("int16")


def scale(*factors: float) -> dict[str, Any]:
    return {"type": "scale", "scale": list(factors)}


def translation(*offsets: float) -> dict[str, Any]:
    return {"type": "translation", "translation": list(offsets)}


def space(names: str, unit: str | None = "micrometer") -> list[dict[str, Any]]:
    more = {} if unit is None else {"unit": unit}
    return [{"name": name, "type": "space"} | more for name in names]


def write_image(
    path: Path,
    levels: dict[str, tuple[np.ndarray, list[dict[str, Any]]]],
    axes: list[dict[str, Any]],
    *,
    version: str = "0.4",
    **more: Any,
) -> Path:
    """Write an OME-Zarr image of arrays with their transformations, as other programs do."""
    datasets = [
        {"path": name, "coordinateTransformations": steps} for name, (_, steps) in levels.items()
    ]
    described = {"multiscales": [{"axes": axes, "datasets": datasets, "version": version} | more]}
    old = version == "0.4"
    group = zarr.create_group(
        path,
        zarr_format=2 if old else 3,
        attributes=described if old else {"ome": described | {"version": version}},
    )
    for name, (array, _) in levels.items():
        group.create_array(name, data=array, chunks=(4,) * array.ndim)
    return path


def attributes(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((path / "zarr.json").read_text())
    return content["attributes"]


# What other programs write


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_levels_have_their_own_spacing_and_place(tmp_path, version):
    fine, coarse = numbers((4, 6, 8)), numbers((2, 3, 4))
    path = write_image(
        tmp_path / "scan.ome.zarr",
        {
            "0": (fine, [scale(2, 0.5, 0.25)]),
            "1": (coarse, [scale(4, 1, 0.5), translation(1, 0.25, 0.125)]),
        },
        space("zyx"),
        version=version,
    )
    for where in (path, path / "0"):
        volume = read_volume(where)
        np.testing.assert_array_equal(volume.array[0], fine.T)
        np.testing.assert_allclose(volume.grid.affine, np.diag([0.25e-3, 0.5e-3, 2e-3, 1]))
    volume = read_volume(path / "1")
    np.testing.assert_array_equal(volume.array[0], coarse.T)
    np.testing.assert_allclose(volume.grid.spacing, (0.5e-3, 1e-3, 4e-3))
    np.testing.assert_allclose(volume.grid.affine[:3, 3], (0.125e-3, 0.25e-3, 1e-3))
    assert (stem(path / "1"), suffix(path / "1")) == ("scan", ".ome.zarr")


def test_transformations_of_all_levels_come_after_those_of_one(tmp_path):
    path = write_image(
        tmp_path / "scan.zarr",
        {"0": (numbers(), [scale(1, 2, 3), translation(1, 1, 1)])},
        space("zyx", "millimeter"),
        coordinateTransformations=[scale(10, 10, 10), translation(0, 0, 5)],
    )
    expected = [[30, 0, 0, 15], [0, 20, 0, 10], [0, 0, 10, 10], [0, 0, 0, 1]]
    np.testing.assert_array_equal(read_header(path).grid.affine, expected)


@pytest.mark.parametrize("names", ["tczyx", "zyxc", "xyz", "cyxz", "tzyx", "zyx"])
def test_axes_in_any_order(tmp_path, names):
    lengths = {"t": 1, "c": 2, "z": 5, "y": 6, "x": 7}
    array = numbers(tuple(lengths[name] for name in names))
    types = {"t": "time", "c": "channel"}
    axes = [{"name": name, "type": types.get(name, "space")} for name in names]
    path = write_image(
        tmp_path / "scan.zarr", {"0": (array, [scale(*map(float, range(1, len(names) + 1)))])}, axes
    )
    with open_volume(path) as reader:
        voxels = reader.read(whole(reader.header.grid.shape))
        assert reader.slow_axis == "xyz".index(next(name for name in names if name in "xyz"))
    expected = np.einsum(f"{names}->{''.join(sorted(set(names) & set('cxyz')))}", array)
    np.testing.assert_array_equal(voxels, expected.reshape(voxels.shape))
    assert voxels.shape == (2 if "c" in names else 1, 7, 6, 5)
    assert reader.header.grid.spacing == tuple(names.index(name) + 1 for name in "xyz")


def test_without_a_unit_lengths_are_millimetres(tmp_path):
    path = write_image(
        tmp_path / "scan.zarr", {"0": (numbers(), [scale(2, 2, 2)])}, space("zyx", None)
    )
    assert read_header(path).grid.spacing == (2, 2, 2)


def test_labels_below_an_image_are_an_image(tmp_path):
    path = write_image(tmp_path / "scan.zarr", {"0": (numbers(), [scale(1, 1, 1)])}, space("zyx"))
    write_image(
        path / "labels" / "cells", {"0": (numbers() + 1, [scale(3, 3, 3)])}, space("zyx", "meter")
    )
    volume = read_volume(path / "labels" / "cells")
    np.testing.assert_array_equal(volume.array[0], (numbers() + 1).T)
    assert volume.grid.spacing == (3000, 3000, 3000)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_lone_array_is_like_one_of_numpy(tmp_path, zarr_format):
    array = numbers((*SHAPE, 2))
    zarr.create_array(tmp_path / "a.zarr", data=array, zarr_format=zarr_format)
    volume = read_volume(tmp_path / "a.zarr")
    np.testing.assert_array_equal(volume.array, np.moveaxis(array, -1, 0))
    np.testing.assert_array_equal(volume.grid.affine, np.eye(4))


def test_the_names_of_a_lone_arrays_dimensions_count(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", data=numbers(), dimension_names=("z", "y", "x"))
    np.testing.assert_array_equal(read_volume(tmp_path / "a.zarr").array[0], numbers().T)


# What seg3d writes


@pytest.mark.parametrize(
    "affine",
    [
        np.eye(4),
        np.diag([-0.5, -0.7, 2, 1]),
        affine_of((0.5, 1, 3), (15, -20, 130), (-100, 50, 30)),
        SHEARED,
    ],
    ids=["unit", "LPS", "oblique", "sheared"],
)
def test_every_position_survives(tmp_path, affine):
    grid = Grid(SHAPE, affine)
    path = tmp_path / "a.ome.zarr"
    write_volume(path, numbers((2, *SHAPE)), Header(grid, 2, None))
    volume = read_volume(path)
    np.testing.assert_allclose(volume.grid.affine, affine, atol=1e-12)
    np.testing.assert_array_equal(volume.array, numbers((2, *SHAPE)))


def test_spacing_and_units_are_said_in_the_standards_way(tmp_path):
    affine = np.array([[0, 0, -3, 9], [1, 0, 0, 8], [0, 2, 0, 7], [0, 0, 0, 1.0]])
    path = tmp_path / "a.ome.zarr"
    write_volume(path, numbers((1, *SHAPE)), Header(Grid(SHAPE, affine), 1, None))
    (image,) = attributes(path)["ome"]["multiscales"]
    assert attributes(path)["ome"]["version"] == "0.5"
    assert image["axes"] == space("zyx", "millimeter")
    (level,) = image["datasets"]
    assert level["coordinateTransformations"] == [scale(3, 2, 1), translation(-9, 7, 8)]
    array = zarr.open_array(path / level["path"], mode="r")
    assert array.metadata.dimension_names == ("z", "y", "x")
    np.testing.assert_array_equal(array[:], numbers((1, *SHAPE))[0].T)


def test_what_lies_as_the_standard_assumes_needs_no_attribute_of_ours(tmp_path):
    grid = Grid(SHAPE, affine_of((0.5, 1, 3), origin=(1, 2, 3)))
    write_volume(tmp_path / "a.zarr", numbers((1, *SHAPE)), Header(grid, 1, None))
    assert list(attributes(tmp_path / "a.zarr")) == ["ome"]


def test_levels_that_others_add_lie_in_the_same_world(tmp_path):
    affine = affine_of((1, 1, 2), (0, 0, 90), (10, 20, 30))
    path = tmp_path / "a.ome.zarr"
    write_volume(path, numbers((1, 4, 6, 8)), Header(Grid((4, 6, 8), affine), 1, None))
    content = json.loads((path / "zarr.json").read_text())
    (image,) = content["attributes"]["ome"]["multiscales"]
    steps = image["datasets"][0]["coordinateTransformations"]
    half = [scale(*(2 * np.array(steps[0]["scale"]))), steps[1]]
    image["datasets"].append({"path": "1", "coordinateTransformations": half})
    (path / "zarr.json").write_text(json.dumps(content))
    zarr.open_group(path, mode="r+").create_array("1", data=numbers((4, 3, 2)))
    expected = affine @ np.diag([2, 2, 2, 1])
    np.testing.assert_allclose(read_header(path / "1").grid.affine, expected, atol=1e-12)


def test_an_older_store_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "a.zarr"
    header = Header(Grid(SHAPE, np.eye(4)), 1, None)
    write_volume(path, numbers((2, *SHAPE)), header)
    (path / "note.txt").write_text("old")
    write_volume(path, numbers((1, *SHAPE)), header)
    assert not (path / "note.txt").exists()
    assert read_volume(path).array.shape == (1, *SHAPE)
    assert os.listdir(tmp_path) == ["a.zarr"]


def test_a_folder_that_is_no_store_is_not_replaced(tmp_path):
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr" / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match=r"a.zarr exists and is not a Zarr store"):
        create_volume(tmp_path / "a.zarr", Header(Grid(SHAPE, np.eye(4)), 1, None), "int16")
    assert (tmp_path / "a.zarr" / "thesis.tex").exists()
    assert os.listdir(tmp_path) == ["a.zarr"]


# What cannot be read


def test_a_group_that_is_no_image_says_what_it_holds(tmp_path):
    group = zarr.create_group(tmp_path / "a.zarr")
    group.create_array("raw", data=numbers())
    with pytest.raises(UserError, match=r"describes no image\n  given: it holds raw\n"):
        open_volume(tmp_path / "a.zarr")
    np.testing.assert_array_equal(read_volume(tmp_path / "a.zarr" / "raw").array[0], numbers())


@pytest.mark.parametrize("names", ["yx", "tzyx", "azyx", "zzyx", "zyq"])
def test_images_that_are_no_volumes(tmp_path, names):
    array = numbers((2, 5, 6, 7)[-len(names) :])
    axes = [{"name": name, "type": "space"} for name in names]
    path = write_image(tmp_path / "a.zarr", {"0": (array, [scale(*[1] * len(names))])}, axes)
    with pytest.raises(UserError, match=r"a.zarr is not a 3D volume\n  given: axes"):
        open_volume(path)


def test_names_of_axes_are_whole_names(tmp_path):
    axes = [{"name": name, "type": "space"} for name in ("xy", "z", "y", "x", "")]
    levels = {"0": (numbers((1, 5, 6, 7, 1)), [scale(9, 2, 3, 4, 9)])}
    volume = read_volume(write_image(tmp_path / "a.zarr", levels, axes))
    assert volume.grid.spacing == (4, 3, 2)
    np.testing.assert_array_equal(volume.array[0], numbers((5, 6, 7)).T)


@pytest.mark.parametrize("level", [".", ""])
def test_a_level_that_is_a_group(tmp_path, level):
    path = write_image(tmp_path / "a.zarr", {}, space("zyx"), datasets=[{"path": level}])
    with pytest.raises(UserError, match=r"a.zarr: its multiscales metadata is wrong"):
        open_volume(path)


@pytest.mark.parametrize(
    "change",
    [
        {"axes": space("zyx", "parsec")},
        {"axes": "zyx"},
        {"axes": space("yx")},
        {"datasets": []},
        {"datasets": [{"path": "0", "coordinateTransformations": [scale(1, 1)]}]},
        {"datasets": [{"path": "0", "coordinateTransformations": [{"type": "affine"}]}]},
        {"coordinateTransformations": [translation(1)]},
    ],
    ids=str,
)
def test_metadata_that_makes_no_sense(tmp_path, change):
    levels = {"0": (numbers(), [scale(1, 1, 1)])}
    path = write_image(tmp_path / "a.zarr", levels, **{"axes": space("zyx")} | change)
    for where in (path, path / "0"):
        with pytest.raises(UserError, match=r"a.zarr: its multiscales metadata cannot be underst"):
            open_volume(where)


@pytest.mark.parametrize("multiscales", [[], {}, None, [1], "x"])
def test_multiscales_that_are_none(tmp_path, multiscales):
    zarr.create_group(tmp_path / "a.zarr", attributes={"ome": {"multiscales": multiscales}})
    with pytest.raises(UserError, match=r"a.zarr: its multiscales metadata cannot be understood"):
        open_volume(tmp_path / "a.zarr")


def test_a_level_that_is_not_there(tmp_path):
    levels = {"0": (numbers(), [scale(1, 1, 1)])}
    path = write_image(tmp_path / "a.zarr", levels, space("zyx"))
    shutil.rmtree(path / "0")
    with pytest.raises(UserError, match=r"a.zarr.0 is damaged or not in Zarr's format"):
        open_volume(path)


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"zarr_format": 9}'])
def test_folders_that_are_no_stores(tmp_path, content):
    (tmp_path / "a.zarr").mkdir()
    if content is not None:
        (tmp_path / "a.zarr" / "zarr.json").write_text(content)
    with pytest.raises(UserError, match=r"a.zarr is damaged or not in Zarr's format"):
        open_volume(tmp_path / "a.zarr")


@pytest.mark.parametrize(
    "damage",
    [
        lambda chunk: b"",
        lambda chunk: chunk[: len(chunk) // 2],
        # The length that it says it has is negative.
        lambda chunk: chunk[:4] + b"\xff" * 4 + chunk[8:],
    ],
)
def test_a_damaged_chunk(tmp_path, damage):
    path = tmp_path / "a.zarr"
    write_volume(path, numbers((1, *SHAPE)), Header(Grid(SHAPE, np.eye(4)), 1, None))
    (chunk,) = (file for file in (path / "0" / "c").rglob("*") if file.is_file())
    chunk.write_bytes(damage(chunk.read_bytes()))
    with pytest.raises(UserError, match=r"a.zarr is damaged"):
        read_volume(path)


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("left", [0, 10, -1])
def test_a_chunk_that_is_cut_short_is_not_decoded(tmp_path, zarr_format, left):
    """Blosc would read on behind its end, whatever lies there."""
    compressor = Blosc() if zarr_format == 2 else zarr.codecs.BloscCodec()
    array = zarr.create_array(
        tmp_path / "a.zarr", shape=SHAPE, chunks=SHAPE, dtype="f4", zarr_format=zarr_format,
        compressors=compressor,
    )  # fmt: skip
    array[:] = numbers(SHAPE)
    (chunk,) = (
        file
        for file in (tmp_path / "a.zarr").rglob("*")
        if file.is_file() and file.name not in ("zarr.json", ".zarray", ".zattrs")
    )
    read_volume(tmp_path / "a.zarr")
    whole = chunk.read_bytes()
    chunk.write_bytes(whole[:left])
    with pytest.raises(UserError, match=rf"cut short: {len(whole[:left])} bytes"):
        read_volume(tmp_path / "a.zarr")


@pytest.mark.parametrize(
    "codecs",
    [
        {"dtype": "<i2", "filters": [PICKLE]},
        {"dtype": "<i2", "compressor": PICKLE},
        {"dtype": "|O", "filters": [PICKLE]},
        {"dtype": "|O", "filters": [{"id": "vlen-utf8"}, PICKLE]},
    ],
    ids=str,
)
def test_pickles_are_not_opened(tmp_path, codecs):
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return (tmp_path / "sprung").touch, ()

    array = zarr.create_array(tmp_path / "a.zarr", shape=SHAPE, dtype="i2", zarr_format=2)
    described = json.loads((tmp_path / "a.zarr" / ".zarray").read_text())
    described |= {"filters": None, "compressor": None} | codecs
    (tmp_path / "a.zarr" / ".zarray").write_text(json.dumps(described))
    trapped = np.empty(array.chunks, object)
    trapped[:] = Trap()
    (tmp_path / "a.zarr" / "0.0.0").write_bytes(Pickle().encode(trapped))
    with pytest.raises(UserError, match="pickle"):
        read_volume(tmp_path / "a.zarr")
    assert not (tmp_path / "sprung").exists()


def test_files_and_folders_are_told_apart(tmp_path):
    (tmp_path / "file.zarr").write_text("")
    with pytest.raises(UserError, match=r"file.zarr is not a folder"):
        open_volume(tmp_path / "file.zarr")
    with pytest.raises(UserError, match=r"file.zarr is a file"):
        create_volume(tmp_path / "file.zarr", Header(Grid(SHAPE, np.eye(4)), 1, None), "int16")
    (tmp_path / "folder.nii").mkdir()
    with pytest.raises(UserError, match=r"folder.nii is a folder"):
        create_volume(tmp_path / "folder.nii", Header(Grid(SHAPE, np.eye(4)), 1, None), "int16")
