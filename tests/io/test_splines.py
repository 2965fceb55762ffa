"""Cubic splines, block by block, beside SciPy's of whole volumes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from seg3d.io.regions import whole
from seg3d.io.resampling import Resampling

SIDES = st.integers(1, 60)


def stretching(source: tuple, shape: tuple, **more: object) -> Resampling:
    affine = np.diag([*np.divide(source, shape), 1.0])
    affine[:3, 3] = affine.diagonal()[:3] / 2 - 0.5
    return Resampling.between(affine, source, shape, **more)  # type: ignore[arg-type]


@settings(max_examples=25, deadline=None)
@given(source=st.tuples(SIDES, SIDES, SIDES), shape=st.tuples(SIDES, SIDES, SIDES), data=st.data())
def test_any_region_is_that_of_the_whole(source: tuple, shape: tuple, data: st.DataObject) -> None:
    voxels = np.random.default_rng(0).normal(size=source)
    zoom = np.divide(shape, source)
    expected = ndimage.zoom(voxels, zoom, order=3, mode="nearest", grid_mode=True)
    resampling = stretching(source, shape, orders=(3, 3, 3))
    starts = [data.draw(st.integers(0, side - 1)) for side in shape]
    stops = [data.draw(st.integers(start + 1, side)) for start, side in zip(starts, shape)]  # noqa: B905
    x, y, z = map(slice, starts, stops)
    for region in (whole(shape), (x, y, z)):
        block = torch.from_numpy(voxels[resampling.needed(region)])[None]
        made = resampling.apply(block, region)[0]
        np.testing.assert_allclose(made, expected[region], atol=3e-5)


@pytest.mark.parametrize("separate", [0, 1, 2])
def test_an_axis_may_be_taken_by_itself_after_the_others(separate: int) -> None:
    source, shape = (13, 11, 9), (8, 17, 20)
    voxels = np.random.default_rng(1).normal(size=source)
    orders = [3, 3, 3]
    orders[separate] = 0
    between = [*shape]
    between[separate] = source[separate]
    slices = np.empty(between)
    least, largest = [], []
    for number in range(source[separate]):
        one = voxels.take(number, separate)
        made = ndimage.zoom(
            one, np.divide(np.delete(between, separate), one.shape), order=3, mode="nearest",
            grid_mode=True,
        )  # fmt: skip
        slices[tuple(number if axis == separate else slice(None) for axis in range(3))] = made.clip(
            one.min(), one.max()
        )
        least.append(one.min())
        largest.append(one.max())
    zoom = np.ones(3)
    zoom[separate] = shape[separate] / source[separate]
    expected = ndimage.zoom(slices, zoom, order=0, mode="nearest", grid_mode=True)
    resampling = stretching(source, shape, orders=tuple(orders), separate=separate)
    view = [-1 if axis == separate else 1 for axis in range(3)]
    within = tuple(torch.tensor(ends).view(1, *view) for ends in (least, largest))
    made = resampling.apply(torch.from_numpy(voxels)[None], whole(shape), within=within)[0]
    np.testing.assert_allclose(made, expected, atol=1e-10)
    # Without ends, they overshoot.
    free = resampling.apply(torch.from_numpy(voxels)[None], whole(shape))[0]
    assert (free - made).abs().max() > 0.1
