"""Thin slabs of a volume in chunks: the same voxels, and few readings of every chunk."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import zarr

from seg3d.data.read_ahead import ReadAhead
from seg3d.geometry import Shape3
from seg3d.io import VolumeReader, open_volume
from seg3d.io.regions import Region

SHAPE = (21, 10, 19)
CHUNK = (8, 4, 5)


class Counting(VolumeReader):
    """Counts how often each chunk of another reader is decoded."""

    def __init__(self, reader: VolumeReader) -> None:
        self.reader = reader
        self.header, self.dtype, self.slow_axis = reader.header, reader.dtype, reader.slow_axis
        self.chunk = reader.chunk
        self.decoded: Counter[tuple[int, ...]] = Counter()
        self.largest = 0

    def read(self, region: Region) -> np.ndarray:
        touched = [
            range(part.start // side, (part.stop - 1) // side + 1)
            for part, side in zip(region, self.chunk, strict=True)
        ]
        chunks = [(x, y, z) for x in touched[0] for y in touched[1] for z in touched[2]]
        self.decoded.update(chunks)
        self.largest = max(self.largest, len(chunks))
        return self.reader.read(region)

    def close(self) -> None:
        self.reader.close()


@pytest.fixture
def stored(tmp_path: Path) -> tuple[Counting, np.ndarray]:
    voxels = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    array = zarr.create_array(tmp_path / "scan.zarr", data=voxels, chunks=CHUNK)
    assert array.chunks == CHUNK
    return Counting(open_volume(tmp_path / "scan.zarr")), voxels[None]


@pytest.mark.parametrize("thickness", [1, 3, 8, 21])
def test_every_chunk_is_decoded_once(stored: tuple[Counting, np.ndarray], thickness: int) -> None:
    counting, voxels = stored
    with ReadAhead(counting) as reader:
        for start in range(0, SHAPE[0], thickness):
            region = slice(start, min(start + thickness, SHAPE[0])), slice(0, 10), slice(3, 19)
            np.testing.assert_array_equal(reader.read(region), voxels[:, *region])
    assert set(counting.decoded.values()) == {1} and len(counting.decoded) == 3 * 3 * 4
    assert counting.largest == 1


def test_slabs_that_overlap_decode_once(stored: tuple[Counting, np.ndarray]) -> None:
    """As interpolation wants them: the last slice of a chunk with the next; some more than once."""
    counting, voxels = stored
    reader = ReadAhead(counting)
    for start in np.repeat(range(SHAPE[0] - 1), 2).tolist():
        region = slice(start, start + 2), slice(0, 10), slice(0, 19)
        np.testing.assert_array_equal(reader.read(region), voxels[:, *region])
    assert set(counting.decoded.values()) == {1}


def test_other_cross_sections_are_read_anew(stored: tuple[Counting, np.ndarray]) -> None:
    counting, voxels = stored
    reader = ReadAhead(counting)
    for second in (slice(0, 4), slice(2, 10), slice(3, 5)):
        region = slice(5, 6), second, slice(7, 8)
        np.testing.assert_array_equal(reader.read(region), voxels[:, *region])
    assert counting.decoded == {(0, 0, 1): 2, (0, 1, 1): 1, (0, 2, 1): 1}


@pytest.mark.parametrize(("axes", "chunk"), [("xyz", CHUNK), ("zyx", CHUNK[::-1])])
def test_chunks_are_those_of_the_axes(tmp_path: Path, axes: str, chunk: Shape3) -> None:
    zarr.create_array(
        tmp_path / "scan.zarr", shape=SHAPE, chunks=CHUNK, dtype="uint8", dimension_names=list(axes)
    )
    with open_volume(tmp_path / "scan.zarr") as reader:
        assert reader.chunk == chunk
