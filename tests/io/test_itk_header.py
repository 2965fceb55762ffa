"""Headers of MetaImage and NRRD that ITK must not be given are refused before it reads them."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import numpy as np
import pytest

from seg3d.common.errors import UserError
from seg3d.geometry import Grid
from seg3d.io import Header, create_volume, open_volume, read_volume
from seg3d.io.itk_header import require_sound_header

pytest.importorskip("SimpleITK")

META = {
    "ObjectType": "Image", "NDims": "3", "BinaryData": "True", "DimSize": "2 2 2",
    "ElementType": "MET_UCHAR", "ElementDataFile": "LOCAL",
}  # fmt: skip
NRRD = {"type": "uchar", "dimension": "3", "sizes": "2 2 2", "encoding": "raw"}
VOXELS = bytes(range(8))


def meta(folder: Path, voxels: bytes = VOXELS, **changes: str) -> Path:
    # What follows this field is the voxels.
    lines = sorted((META | changes).items(), key=lambda line: line[0] == "ElementDataFile")
    path = folder / "volume.mha"
    path.write_bytes("".join(f"{key} = {value}\n" for key, value in lines).encode() + voxels)
    return path


def nrrd(folder: Path, voxels: bytes = VOXELS, **changes: str) -> Path:
    fields = NRRD | {key.replace("_", " "): value for key, value in changes.items()}
    path = folder / "volume.nrrd"
    head = "NRRD0004\n# a remark\n" + "".join(f"{key}: {text}\n" for key, text in fields.items())
    path.write_bytes(f"{head}Added:=by another: program\n\n".encode() + voxels)
    return path


def refused(path: Path, match: str) -> None:
    with pytest.raises(UserError, match=match) as caught:
        open_volume(path)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("axes", ["-1", "0", "11", "1000", "1e9", "99999999999", "", "three"])
def test_numbers_of_axes_that_no_volume_has(tmp_path: Path, axes: str):
    refused(meta(tmp_path, NDims=axes), "NDims")
    refused(nrrd(tmp_path, dimension=axes), "dimension")


@pytest.mark.parametrize("sizes", ["2 2", "2 2 2 2", "-2 2 2", "0 2 2", "1e9 2 2", "a b c", ""])
def test_sizes_that_are_none(tmp_path: Path, sizes: str):
    refused(meta(tmp_path, DimSize=sizes), "DimSize")
    refused(nrrd(tmp_path, sizes=sizes), "sizes")


@pytest.mark.parametrize(
    "changes",
    [
        {"ElementNumberOfChannels": "-1"},
        {"ElementNumberOfChannels": "99999999999"},
        {"ElementType": "MET_STRING"},
        {"ElementType": "x" * 5000},
        {"CompressedDataSize": "-5"},
        {"ElementSpacing": "1 [ 1"},
        {"TransformMatrix": "1 " * 500},
        {"dimsize": "2 2 2", "DimSize": ""},
    ],
)
def test_other_fields_of_metaimage(tmp_path: Path, changes: dict[str, str]):
    refused(meta(tmp_path, **changes), "is damaged or not in the format of its name")


@pytest.mark.parametrize(
    "changes",
    [
        {"type": "block"},
        {"encoding": "rot13"},
        {"space_directions": "(1,0,0) " + "[" * 3000 + " (0,0,1)"},
        {"space_origin": "(0,0"},
        {"space_origin": f"(0,0,{'9' * 5000})"},
        {"space_origin": f"(0,0,0.{'9' * 300})"},
        {"line_skip": "-1"},
        {"byte_skip": "99999999999999999999"},
        {"unheard": "of"},
        {"labels": '"' * 301},
    ],
)
def test_other_fields_of_nrrd(tmp_path: Path, changes: dict[str, str]):
    refused(nrrd(tmp_path, **changes), "is damaged or not in the format of its name")


def test_a_field_that_stands_there_twice(tmp_path: Path):
    path = meta(tmp_path)
    path.write_bytes(b"NDims = 2\n" + path.read_bytes())
    refused(path, "NDims stands there twice")


def test_a_header_without_an_end(tmp_path: Path):
    path = tmp_path / "volume.mha"
    path.write_bytes(b"NDims = 3\n" + b"x" * 3_000_000)
    refused(path, "ElementDataFile|without an end|no end|damaged")


def test_fewer_bytes_than_voxels(tmp_path: Path):
    for path in (
        meta(tmp_path, DimSize="2000 2000 2000"),
        nrrd(tmp_path, sizes="2000 2000 2000"),
        meta(tmp_path, DimSize="2000 2000 2000", CompressedData="True"),
        nrrd(tmp_path, gzip.compress(VOXELS), sizes="2000 2000 2000", encoding="gzip"),
    ):
        refused(path, r"cut short or damaged\n.* there cannot be the 7.45 GiB of voxels")


@pytest.mark.parametrize(
    "changes",
    [
        {"type": "unsigned char"},
        {"type": "uint8_t", "space": "left-posterior-superior", "kinds": "domain domain domain"},
        {"encoding": "ascii"},
        {"space_dimension": "3", "space_directions": "(1,0,0) (0,1e-1,0) (0, 0, .5)"},
        {"content": "anything: at all", "units": '"mm" "mm" "mm"', "centerings": "cell cell cell"},
        {"spacings": "1 nan 2.5"},
    ],
)
def test_what_writers_of_nrrd_write(tmp_path: Path, changes: dict[str, str]):
    voxels = b"0 1 2 3 4 5 6 7" if changes.get("encoding") == "ascii" else VOXELS
    require_sound_header(nrrd(tmp_path, voxels, **changes))
    if "spacings" not in changes:
        read = read_volume(nrrd(tmp_path, voxels, **changes)).array
        assert (read.ravel(order="F") == np.arange(8)).all()


def test_what_writers_of_metaimage_write(tmp_path: Path):
    path = meta(
        tmp_path, Offset="-1.5 0 1e2", ElementSpacing=".5 1 2", TransformMatrix="1 0 0 0 1 0 0 0 1",
        Comment="a = b: c", AnatomicalOrientation="RAI", ITK_InputFilterName="Some filter",
    )  # fmt: skip
    assert (read_volume(path).array.ravel(order="F") == np.arange(8)).all()


@pytest.mark.skipif(sys.platform != "linux", reason="names are text")
@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_a_name_that_is_no_text(tmp_path: Path, ending: str):
    path = tmp_path / f"\udcff{ending}"
    with pytest.raises(UserError, match="this name is not in UTF-8"):
        create_volume(path, Header(Grid((2, 3, 4), np.eye(4)), 1, None), np.dtype("int16"), 1)
    path.write_bytes(b"NRRD0004\n")
    with pytest.raises(UserError, match="this name is not in UTF-8"):
        open_volume(path)
    assert list(tmp_path.iterdir()) == [path]
