"""The box of what is not zero, and the zeros inside, beside SciPy's of whole volumes."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from seg3d.data.nonzero import Nonzero
from seg3d.io.regions import whole

SIDES = st.integers(1, 12)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(SIDES, SIDES, SIDES),
    full=st.floats(0, 1),
    channels=st.integers(1, 2),
    slices=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_box_and_enclosed_zeros(
    shape: tuple[int, int, int], full: float, channels: int, slices: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    voxels = np.where(rng.random((channels, *shape)) < full, -rng.random(shape), 0)
    parts = [voxels[:, start : start + slices] for start in range(0, shape[0], slices)]
    found = Nonzero.of(shape, parts, enclosed=True)
    there = (voxels != 0).any(0)
    filled = ndimage.binary_fill_holes(there)
    np.testing.assert_array_equal(found.enclosed(whole(shape)), filled & ~there)
    if there.any():
        assert found.box == ndimage.find_objects(there.astype(int))[0]
    else:
        assert found.box == whole(shape)
    x, y, z = (slice(length // 3, length) for length in shape)
    np.testing.assert_array_equal(found.enclosed((x, y, z)), (filled & ~there)[x, y, z])
    assert found.ram <= voxels[0].size / 8


def test_a_winding_hollow_is_enclosed_until_it_has_an_opening() -> None:
    voxels = np.ones((9, 9, 9))
    for axis, step in enumerate((1, 3, 5)):
        place = [step, 3, 5]
        place[axis] = slice(1, 8)  # type: ignore[call-overload]
        voxels[tuple(place)] = 0
    closed = Nonzero.of((9, 9, 9), [voxels[None]], enclosed=True)
    assert closed.enclosed(whole((9, 9, 9))).sum() == (voxels == 0).sum() > 15
    voxels[8, 3, 5] = 0
    assert not Nonzero.of((9, 9, 9), [voxels[None]], True).enclosed(whole((9, 9, 9))).any()
