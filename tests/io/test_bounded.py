"""What a file may cost is bounded by what its header has use for, before anything is unpacked."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from seg3d.common.errors import UserError
from seg3d.io import open_volume, read_volume
from tests.volumes import save_nifti

numcodecs = pytest.importorskip("numcodecs")
zarr = pytest.importorskip("zarr")

SHAPE = (10, 9, 8)
VOXELS = np.arange(720, dtype=np.int16).reshape(SHAPE)
# Little when packed, thousands of times what a chunk of the array has use for.
ZEROS = bytes(2**25)
CODECS = {
    "blosc": numcodecs.Blosc(),
    "bz2": numcodecs.BZ2(),
    "gzip": numcodecs.GZip(),
    "lz4": numcodecs.LZ4(),
    "lzma": numcodecs.LZMA(preset=0),
    "zlib": numcodecs.Zlib(),
    "zstd": numcodecs.Zstd(),
}
IN_ZARR_3 = {
    "blosc": zarr.codecs.BloscCodec(), "gzip": zarr.codecs.GzipCodec(),
    "zstd": zarr.codecs.ZstdCodec(),
}  # fmt: skip
every_codec = pytest.mark.parametrize(
    "form, name", [*((2, name) for name in CODECS), *((3, name) for name in IN_ZARR_3)]
)


def store(path: Path, form: int, codec: Any, **more: Any) -> Path:
    array = zarr.create_array(
        path, shape=SHAPE, chunks=(4, 4, 4), dtype="int16", compressors=codec, zarr_format=form,
        **more,
    )  # fmt: skip
    array[:] = VOXELS
    return path


def refused(path: Path, match: str) -> None:
    with pytest.raises(UserError, match=match):
        read_volume(path)


@every_codec
def test_chunks_are_unpacked_to_what_the_array_has_use_for(tmp_path: Path, form: int, name: str):
    path = store(tmp_path / "a.zarr", form, (CODECS if form == 2 else IN_ZARR_3)[name])
    assert (read_volume(path).array[0] == VOXELS).all()
    chunk = path / ("1.1.1" if form == 2 else "c/1/1/1")
    whole = chunk.read_bytes()
    chunk.write_bytes(whole[: len(whole) // 2])
    refused(path, "a.zarr is damaged")
    chunk.write_bytes(CODECS[name].encode(ZEROS))
    refused(path, r"unpacked to more than the 64.50 KiB that its array has use for")


def test_a_frame_of_zstandard_that_does_not_state_its_length(tmp_path: Path):
    """RFC 8878: magic number, descriptor, window, and blocks of one byte each that is repeated."""
    head = bytes.fromhex("28b52ffd 00 88")
    block = (2**17 << 3 | 1 << 1).to_bytes(3, "little") + b"\0"
    last = (128 << 3 | 1 << 1 | 1).to_bytes(3, "little") + b"\7"
    path = store(tmp_path / "a.zarr", 2, CODECS["zstd"])
    (path / "0.0.0").write_bytes(head + last)
    assert (read_volume(path).array[0, :4, :4, :4] == 0x0707).all()
    (path / "0.0.0").write_bytes(head + 1000 * block + last)
    refused(path, r"unpacked to more than the 64.50 KiB")


def test_members_of_gzip_one_behind_the_other(tmp_path: Path):
    path = store(tmp_path / "a.zarr", 3, IN_ZARR_3["gzip"])
    chunk = path / "c/0/0/0"
    voxels = gzip.decompress(chunk.read_bytes())
    chunk.write_bytes(gzip.compress(voxels[:50]) + gzip.compress(voxels[50:]) + bytes(16))
    assert (read_volume(path).array[0] == VOXELS).all()
    chunk.write_bytes(gzip.compress(voxels) * 1000)
    refused(path, r"unpacked to more than the 64.50 KiB")


def test_shards_and_filters_are_read(tmp_path: Path):
    sharded = store(tmp_path / "a.zarr", 3, IN_ZARR_3["zstd"], shards=(8, 8, 8))
    filtered = store(
        tmp_path / "b.zarr", 2, CODECS["zstd"],
        filters=[numcodecs.FixedScaleOffset(0, 1, "<i2", "<f8"), numcodecs.Shuffle(8)],
    )  # fmt: skip
    for path in (sharded, filtered):
        assert (read_volume(path).array[0] == VOXELS).all()


def test_codecs_that_are_not_known_are_refused(tmp_path: Path):
    path = store(tmp_path / "a.zarr", 2, CODECS["zstd"])
    described = json.loads((path / ".zarray").read_text())
    for codec in ("pickle", "json2", "vlen-array"):
        described["filters"] = [{"id": codec}]
        (path / ".zarray").write_text(json.dumps(described))
        refused(path, f"not safe to read|damaged|{codec}")


def test_a_chunk_may_not_be_larger_than_a_gibibyte(tmp_path: Path):
    path = tmp_path / "a.zarr"
    zarr.create_array(path, shape=(2000,) * 3, chunks=(2000,) * 3, dtype="uint8")
    with pytest.raises(UserError, match=r"chunks that are too large.*\n  given: 7.45 GiB each"):
        open_volume(path)


@pytest.mark.parametrize("level", ["../a.zarr", "/etc", "0/../../a.zarr", ""])
def test_levels_lie_in_their_image(tmp_path: Path, level: str):
    store(tmp_path / "a.zarr", 3, None)
    image = tmp_path / "b.zarr"
    axes = [{"name": axis, "type": "space"} for axis in "xyz"]
    ome = {"multiscales": [{"axes": axes, "datasets": [{"path": level}]}]}
    zarr.create_group(image, attributes={"ome": ome})
    with pytest.raises(UserError, match="does not lie in the image"):
        open_volume(image)
    shutil.copytree(tmp_path / "a.zarr", image / "0")
    ome["multiscales"][0]["datasets"][0]["path"] = "0"
    group = {"zarr_format": 3, "node_type": "group", "attributes": {"ome": ome}}
    (image / "zarr.json").write_text(json.dumps(group))
    assert (read_volume(image).array[0] == VOXELS).all()


def packed_nifti(folder: Path, behind: bytes = b"", length: int | None = None) -> Path:
    """A volume with an extension, which may state another length, and bytes behind the voxels."""
    image = nib.Nifti1Image(VOXELS, np.eye(4))
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"by hand"))
    nib.save(image, folder / "a.nii")
    content = bytearray((folder / "a.nii").read_bytes())
    if length is not None:
        content[352:356] = np.array(length, "<i4").tobytes()
    (folder / "a.nii.gz").write_bytes(gzip.compress(bytes(content) + behind, 1))
    return folder / "a.nii.gz"


@pytest.mark.parametrize("length", [0, -8, 2**27, 2**31 - 16])
def test_an_extension_may_not_be_longer_than_what_stands_in_front(tmp_path: Path, length: int):
    assert (read_volume(packed_nifti(tmp_path)).array[0] == VOXELS).all()
    path = packed_nifti(tmp_path, ZEROS, length)
    refused(path, r"in front of the voxels")


def test_what_follows_the_voxels_is_not_unpacked_without_end(tmp_path: Path):
    assert (read_volume(packed_nifti(tmp_path, bytes(1000))).array[0] == VOXELS).all()
    refused(packed_nifti(tmp_path, ZEROS), "more than 1048576 bytes follow the voxels")


def test_more_voxels_than_a_packed_file_can_hold(tmp_path: Path):
    path = save_nifti(tmp_path / "a.nii", VOXELS)
    content = bytearray(path.read_bytes())
    content[42:48] = np.array([20_000] * 3, "<i2").tobytes()
    packed = tmp_path / "b.nii.gz"
    packed.write_bytes(gzip.compress(content))
    refused(packed, r"b.nii.gz is cut short or damaged\n.*GiB of voxels")
