"""Cuts fit into the memory they are made for, cover the volume, and repeat little work."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seg3d.common.errors import UserError
from seg3d.config import parse_bytes
from seg3d.data.grid_map import GridMap
from seg3d.geometry import Grid, Shape3
from seg3d.io.regions import Region, whole
from seg3d.prediction.tiling import (
    MOST_WINDOWS_ON_GPU,
    PROCESS,
    Memory,
    Tiling,
    Work,
    borders,
    choose_tiling,
)
from seg3d.prediction.windows import Windows
from tests.plans import small_plan
from tests.volumes import affine_of

MIB = 2**20
SHEARED = affine_of((1.0, 1.2, 2.0)) @ np.array(
    [[1, 0.2, -0.1, 0], [0, 1, 0.3, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
)


def work_on(
    shape: Shape3,
    window: Shape3 = (64, 64, 64),
    overlap: float = 0.5,
    spacing: tuple[float, float, float] | None = None,
    affine: np.ndarray | None = None,
    on_gpu: bool = False,
    chunk: Shape3 = (1, 1, 1),
) -> Work:
    grid = Grid(shape, affine_of((1.0, 1.0, 1.0)) if affine is None else affine)
    grid_map = GridMap.of(grid, 2, small_plan(spacing=spacing))
    windows = Windows.covering(grid_map.shape, window, overlap)
    return Work(
        grid_map, windows, channels=1, classes=3, stored=4, written=13, network=MIB,
        per_window=8 * MIB, files=0, on_gpu=on_gpu, chunk=chunk,
    )  # fmt: skip


def beside_process(ram: float, gpu: float = 0) -> Memory:
    """So many MiB, besides what Python and the libraries take."""
    return Memory(PROCESS + ram * MIB, gpu * MIB)


def tiles(work: Work, tiling: Tiling) -> list[Region]:
    return list(tiling.tiles(slice(0, work.grid_map.stored[0])))


def windows_of(work: Work, tiling: Tiling) -> int:
    needed = work.grid_map.backward.needed
    return sum(work.windows.touching(needed(tile)).count for tile in tiles(work, tiling))


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 150)] * 3),
    window=st.tuples(*[st.sampled_from([8, 16, 33])] * 3),
    overlap=st.sampled_from([0.0, 0.25, 0.5, 0.7]),
    spacing=st.sampled_from([None, (2.0, 1.0, 0.7)]),
    affine=st.sampled_from([affine_of((1.0, 0.5, 2.0)), SHEARED]),
    mib=st.sampled_from([2, 6, 16, 36, 900]),
    chunk=st.sampled_from([(1, 1, 1), (1, 64, 64), (64, 64, 64)]),
)
def test_tiles_cover_the_volume_once(
    shape: Shape3,
    window: Shape3,
    overlap: float,
    spacing: tuple[float, float, float] | None,
    affine: np.ndarray,
    mib: int,
    chunk: Shape3,
) -> None:
    work = work_on(shape, window, overlap, spacing, affine, chunk=chunk)
    try:
        tiling = choose_tiling(work, beside_process(mib), 4, "volume")
    except UserError as error:
        # What it says would do does.
        (least,) = re.findall(r"at least ([\d.]+ [MG]iB) of RAM", str(error))
        size = parse_bytes(least, "") * 1.001
        assert size > PROCESS + mib * MIB
        tiling = choose_tiling(work, Memory(size), 4, "volume")
    covered = np.zeros(work.grid_map.stored, int)
    for tile in tiles(work, tiling):
        covered[tile] += 1
    assert (covered == 1).all()
    # Of a slanted volume, tiles need not see the windows in the corners around it.
    assert windows_of(work, tiling) >= work.windows.count or not work.grid_map.backward.straight


def test_all_at_once_if_there_is_room() -> None:
    work = work_on((512, 512, 512))
    tiling = choose_tiling(work, beside_process(4096), 4, "volume")
    assert tiles(work, tiling) == [whole(work.grid_map.stored)]
    assert tiling.window_batch == 4 and windows_of(work, tiling) == work.windows.count
    # Longer volumes take no more.
    long = work_on((512, 512, 5120))
    assert choose_tiling(long, beside_process(4096), 4, "volume") == tiling


def test_less_memory_makes_smaller_tiles_and_more_work() -> None:
    work = work_on((512, 512, 512))
    counts = []
    for mib in (316, 236, 136, 86, 56):
        tiling = choose_tiling(work, beside_process(mib), 4, "volume")
        counts.append(windows_of(work, tiling))
    assert counts == sorted(counts)
    # A row of windows is repeated at each border.
    assert work.windows.count < counts[0] < 1.1 * work.windows.count
    assert counts[-1] > counts[0]


def test_too_little_memory_is_explained() -> None:
    work = work_on((512, 512, 512))
    with pytest.raises(UserError) as raised:
        choose_tiling(work, Memory(PROCESS), 4, "scan.nii")
    assert re.fullmatch(
        r"scan\.nii: too little memory for windows of \[64, 64, 64\] voxels\n"
        r"  given: 640\.00 MiB of RAM\n"
        r"  legal: at least \d+\.\d\d MiB of RAM\n"
        r"  to do: raise --memory; with 9\d\d\.\d\d MiB of RAM no window is computed twice",
        str(raised.value),
    )
    enough = Memory(parse_bytes(re.findall(r"[\d.]+ MiB", str(raised.value))[-1], "") * 1.001)
    assert windows_of(work, choose_tiling(work, enough, 1, "")) == work.windows.count


def test_what_files_hold_in_ram_counts() -> None:
    work = work_on((512, 512, 512))
    with pytest.raises(UserError, match=r"at least 1\.\d\d GiB of RAM"):
        choose_tiling(replace(work, files=1000 * MIB), beside_process(1000), 4, "scan.nrrd")
    held = choose_tiling(replace(work, files=1000 * MIB), beside_process(1100), 4, "scan.nrrd")
    assert held == choose_tiling(work, beside_process(100), 4, "scan.nii")


def test_the_gpu_holds_the_sums_if_it_can() -> None:
    work = work_on((256, 256, 256), on_gpu=True)
    roomy = choose_tiling(work, beside_process(200, 1000), 4, "volume")
    assert roomy.sums_on_gpu and roomy.window_batch == 4
    small = choose_tiling(work, beside_process(1000, 56), 8, "volume")
    assert not small.sums_on_gpu and small.window_batch == 4
    assert tiles(work, small) == [whole(work.grid_map.stored)]
    with pytest.raises(UserError, match=r"at least .* of RAM and .* of the GPU's memory"):
        choose_tiling(work, beside_process(1000, 4), 4, "volume")


def test_auto_takes_as_many_windows_as_fit_on_a_gpu() -> None:
    work = work_on((256, 256, 256), on_gpu=True)
    batches = []
    for mib in (24, 36, 56, 76, 90, 200, 1000, 10000):
        limit = beside_process(1000, mib)
        tiling = choose_tiling(work, limit, "auto", "volume")
        batches.append(tiling.window_batch)
        assert choose_tiling(work, limit, 3, "volume").window_batch == min(3, batches[-1])
        assert work.network + tiling.window_batch * work.per_window <= limit.gpu
    assert batches == sorted(batches)
    assert batches[0] == 1 and set(batches) > {2, 4} and batches[-1] == MOST_WINDOWS_ON_GPU
    with pytest.raises(UserError, match=r"at least .* of RAM and .* of the GPU's memory"):
        choose_tiling(work, beside_process(1000, 8), "auto", "volume")


def test_auto_takes_one_window_on_a_cpu_whatever_the_memory() -> None:
    work = replace(work_on((256, 256, 256)), per_window=400 * MIB)
    for mib in (500, 4000):
        assert choose_tiling(work, beside_process(mib), "auto", "volume").window_batch == 1
    with pytest.raises(UserError, match=r"at least 1\.0\d GiB of RAM"):
        choose_tiling(work, beside_process(300), "auto", "volume")


def test_a_row_of_chunks_counts() -> None:
    """It is kept over the whole cross-section, of which less is then done at once."""
    shape = (512, 512, 512)
    plain, chunked = work_on(shape), work_on(shape, chunk=(128, 128, 128))
    limit = beside_process(400)
    more, fewer = (windows_of(one, choose_tiling(one, limit, 1, "")) for one in (chunked, plain))
    assert more > fewer == plain.windows.count
    # 128 slices of 4 bytes a voxel, and one chunk on its way.
    limit = beside_process(400 + 128 + 32)
    assert windows_of(chunked, choose_tiling(chunked, limit, 1, "")) == fewer


def test_slices_take_what_the_network_takes_anyway() -> None:
    """Neither is there while the other is at work."""
    work = work_on((256, 256, 256))
    limit = beside_process(200)
    few = choose_tiling(work, limit, 1, "volume")
    many = choose_tiling(replace(work, per_window=60 * MIB), limit, 1, "volume")
    assert many.borders == few.borders
    assert many.slices_read > 2 * few.slices_read
    assert many.slices_written > 2 * few.slices_written


@pytest.mark.parametrize("parts", [1, 2, 3, 7, 1000])
def test_borders_lie_where_windows_begin(parts: int) -> None:
    work = work_on((100, 100, 300), (16, 16, 32))
    edges = borders(work.grid_map, work.windows, 0, parts)
    starts = work.windows.starts[0]
    assert edges[0] == 0 and edges[-1] == 300 and len(edges) <= parts + 1
    assert set(edges[1:-1]) <= set(starts)
    assert len(edges) == min(parts, len(starts)) + 1


@pytest.mark.parametrize("digits", [20, 400, 5000])
def test_memory_that_no_machine_has(digits: int) -> None:
    with pytest.raises(UserError, match="--memory should be a number that is not beyond all"):
        parse_bytes("9" * digits + "GiB", "--memory")
