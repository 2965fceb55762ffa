"""Blocks of a volume on the network's grid, and back: as MONAI makes them of the whole."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch import Tensor

from seg3d.data.grid_map import GridMap
from seg3d.data.transforms import IMAGE
from seg3d.geometry import Grid, Shape3
from seg3d.io import read_header
from seg3d.io.regions import Region
from seg3d.io.resampling import Resampling, resample_slabs
from tests.monai_preprocessing import change_of_grid, load
from tests.plans import small_plan
from tests.volumes import affine_of, save_nifti

SHEARED = affine_of((1.0, 1.2, 2.0)) @ np.array(
    [[1, 0.2, -0.1, 0], [0, 1, 0.3, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
)
AFFINES = {
    "straight": affine_of((0.8, 1.0, 2.5), origin=(-40, 13, 7)),
    "flipped": affine_of((0.8, 1.0, 2.5)) @ np.diag([-1, 1, -1, 1]),
    "permuted": affine_of((0.8, 1.0, 2.5))[:, [2, 0, 1, 3]] @ np.diag([1, -1, 1, 1]),
    "oblique": affine_of((0.9, 1.1, 2.5), degrees=(20, -35, 10), origin=(3, 4, 5)),
    "sheared": SHEARED,
}
SPACINGS = (None, (0.8, 1.0, 2.5), (1.7, 0.6, 1.9), (0.5, 3.0, 2.5))


def streamed(array: np.ndarray, grid_map: GridMap) -> Tensor:
    """A volume `(C, X, Y, Z)` of the file in streaming order."""
    return torch.from_numpy(array).permute(0, *(1 + axis for axis in grid_map.order))


def blocks(shape: Shape3, sides: Shape3) -> list[Region]:
    axes = [
        [slice(start, min(start + side, length)) for start in range(0, length, side)]
        for length, side in zip(shape, sides, strict=True)
    ]
    return list(itertools.product(*axes))


def resampled(resampling: Resampling, volume: Tensor, sides: Shape3) -> Tensor:
    """The whole result, made block by block from nothing but what each block needs."""
    result = torch.full((len(volume), *resampling.shape), torch.nan)
    for region in blocks(resampling.shape, sides):
        result[:, *region] = resampling.apply(volume[:, *resampling.needed(region)], region)
    return result


@pytest.mark.parametrize("name", AFFINES)
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("slow_axis", [0, 1, 2])
def test_blocks_are_those_of_the_whole_volume(
    tmp_path: Path, name: str, spacing: tuple[float, float, float] | None, slow_axis: int
) -> None:
    plan = small_plan(orientation="RAS", spacing=spacing)
    voxels = np.random.default_rng(0).normal(size=(13, 17, 11)).astype(np.float32)
    path = save_nifti(tmp_path / "image.nii", voxels, AFFINES[name])
    transform = change_of_grid(plan, [IMAGE])
    image = transform(load([path]))[IMAGE]
    # As the file has it, in single precision.
    grid_map = GridMap.of(read_header(path).grid, slow_axis, plan)

    made = resampled(grid_map.forward, streamed(voxels[None], grid_map), (4, 5, 3))
    turned = grid_map.to_network(made[None])[0]
    torch.testing.assert_close(turned, image.as_tensor(), atol=2e-5, rtol=0)

    scores = torch.rand(3, *image.shape[1:], generator=torch.Generator().manual_seed(1))
    kept = MetaTensor(scores, meta=image.meta, applied_operations=image.applied_operations)
    expected = (transform.inverse({IMAGE: kept}) if kept.applied_operations else {IMAGE: kept})[
        IMAGE
    ].numpy()
    back = resampled(grid_map.backward, grid_map.from_network(scores[None])[0], (3, 4, 5))
    torch.testing.assert_close(back, streamed(expected, grid_map), atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", ["flipped", "oblique", "sheared"])
@pytest.mark.parametrize("at_once", [1, 3, 50])
def test_slabs_are_resampled_as_they_come(name: str, at_once: int) -> None:
    plan = small_plan(orientation="RAS", spacing=(1.7, 0.6, 1.9))
    grid_map = GridMap.of(Grid((13, 17, 11), AFFINES[name]), 2, plan)
    source = torch.rand(2, *grid_map.shape, generator=torch.Generator().manual_seed(0))
    whole = resampled(grid_map.backward, source, grid_map.stored)
    region = slice(2, 11), slice(3, 17), slice(0, 9)
    needed = grid_map.backward.needed(region)
    came = needed[0].start

    def slabs() -> Iterator[tuple[int, Tensor]]:
        nonlocal came
        while came < needed[0].stop:
            start, came = came, min(came + 2, needed[0].stop)
            yield start, source[:, start:came, needed[1], needed[2]].clone()

    reached = region[0].start
    for part, block in resample_slabs(grid_map.backward, region, slabs(), at_once):
        assert part[0].start == reached and part[0].stop - reached <= at_once
        reached = part[0].stop
        torch.testing.assert_close(block, whole[:, *part])
        # As soon as what is needed has come, and not before.
        assert grid_map.backward.needed(part)[0].stop <= came
    assert reached == region[0].stop


def test_nothing_is_copied_where_nothing_changes() -> None:
    grid_map = GridMap.of(Grid((5, 6, 7), np.diag([1, 2, 3, 1.0])), 2, small_plan())
    assert grid_map.stored == grid_map.shape == (7, 6, 5)
    block = torch.rand(1, 2, 6, 5)
    region = slice(3, 5), slice(0, 6), slice(0, 5)
    assert grid_map.forward.needed(region) == grid_map.backward.needed(region) == region
    assert grid_map.forward.apply(block, region) is block
