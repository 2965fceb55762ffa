"""Spacing, orientation and coincidence of grids."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from seg3d.geometry import POSITION_TOLERANCE_VOXELS, Grid
from tests.volumes import affine_of

SHEARED = np.array([[1, 0.5, 0, 3], [0, 2, 0, 4], [0, 0, 3, 5], [0, 0, 0, 1.0]])


@pytest.mark.parametrize(
    "diagonal, orientation",
    [((1, 1, 1), "RAS"), ((-1, -2, 3), "LPS"), ((0.5, -0.5, -4), "RPI")],
)
def test_spacing_and_orientation_of_axes_along_the_world(diagonal, orientation):
    grid = Grid((4, 5, 6), np.diag([*diagonal, 1.0]))
    assert grid.orientation == orientation
    assert grid.spacing == tuple(abs(step) for step in diagonal)
    assert grid.voxel_volume_ml == pytest.approx(abs(np.prod(diagonal)) / 1000)


def test_permuted_axes():
    affine = np.array([[0, 0, -3, 0], [1, 0, 0, 0], [0, 2, 0, 0], [0, 0, 0, 1.0]])
    grid = Grid((4, 5, 6), affine)
    assert grid.orientation == "ASL"
    assert grid.spacing == (1, 2, 3)


@given(
    angles=st.tuples(*[st.floats(-40, 40)] * 3),
    spacing=st.tuples(*[st.floats(0.1, 10)] * 3),
)
def test_rotation_changes_neither_spacing_nor_volume(angles, spacing):
    grid = Grid((4, 5, 6), affine_of(spacing, angles))
    assert grid.spacing == pytest.approx(spacing)
    assert grid.voxel_volume_ml == pytest.approx(np.prod(spacing) / 1000)


def test_the_volume_of_a_sheared_voxel_is_base_times_height():
    grid = Grid((4, 5, 6), SHEARED)
    assert grid.spacing == pytest.approx((1, np.hypot(0.5, 2), 3))
    assert grid.voxel_volume_ml == pytest.approx(6 / 1000)


def test_the_shear_is_the_tilt():
    tilted = np.eye(4)
    tilted[:3, 2] = 3 * np.array([0, np.sin(0.2), np.cos(0.2)])
    assert Grid((2, 2, 2), tilted).shear_degrees == pytest.approx(np.degrees(0.2))
    assert Grid((2, 2, 2), affine_of((1, 2, 5), (10, 20, 30))).shear_degrees < 1e-5


def test_oblique_grids_are_named_after_the_nearest_axes():
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", [20, -30, 10], degrees=True).as_matrix()
    assert Grid((4, 5, 6), affine).orientation == "RAS"


def test_a_grid_does_not_differ_from_itself():
    assert Grid((4, 5, 6), SHEARED).differences(Grid((4, 5, 6), SHEARED.copy())) == []


@given(
    shape=st.tuples(*[st.integers(1, 1000)] * 3),
    spacing=st.tuples(*[st.floats(0.05, 10)] * 3),
    angles=st.tuples(*[st.floats(-180, 180)] * 3),
)
def test_what_float32_headers_lose_does_not_count(shape, spacing, angles):
    affine = affine_of(spacing, angles, origin=(-300, 200, 100))
    rounded = affine.astype(np.float32).astype(np.float64)
    assert Grid(shape, affine).differences(Grid(shape, rounded)) == []


@pytest.mark.parametrize("voxels, differ", [(0.9, False), (1.1, True)])
def test_a_shift_counts_from_the_tolerance_on(voxels, differ):
    affine = np.diag([0.5, 1, 2, 1.0])
    shifted = affine.copy()
    shifted[0, 3] += voxels * POSITION_TOLERANCE_VOXELS * 0.5
    assert bool(Grid((9, 9, 9), affine).differences(Grid((9, 9, 9), shifted))) is differ


def test_a_small_difference_in_spacing_counts_at_the_far_end():
    one, other = np.eye(4), np.diag([1.0001, 1, 1, 1])
    assert Grid((50, 9, 9), one).differences(Grid((50, 9, 9), other)) == []
    assert Grid((500, 9, 9), one).differences(Grid((500, 9, 9), other)) != []


def test_other_shapes_are_said_in_voxels():
    found = Grid((4, 5, 6), np.eye(4)).differences(Grid((4, 5, 7), np.diag([2, 2, 2, 1.0])))
    assert found == ["shape (4, 5, 6) and (4, 5, 7)"]


def test_other_positions_are_said_in_words_and_mm():
    moved = np.diag([2, 1, -1, 1.0])
    moved[:3, 3] = 10, 0, 0
    found = Grid((4, 5, 6), np.eye(4)).differences(Grid((4, 5, 6), moved))
    assert found == [
        "spacing (1.0, 1.0, 1.0) and (2.0, 1.0, 1.0)",
        "orientation RAS and RAI",
        "origin (0.0, 0.0, 0.0) and (10.0, 0.0, 0.0)",
        "voxels up to 16.4 mm apart",
    ]


def test_only_what_differs_is_said():
    shifted = np.eye(4)
    shifted[1, 3] = 0.5
    assert Grid((4, 5, 6), np.eye(4)).differences(Grid((4, 5, 6), shifted)) == [
        "origin (0.0, 0.0, 0.0) and (0.0, 0.5, 0.0)",
        "voxels up to 0.5 mm apart",
    ]


def test_grids_of_one_voxel_differ_by_their_position():
    shifted = np.eye(4)
    shifted[0, 3] = 1
    assert Grid((1, 1, 1), np.eye(4)).differences(Grid((1, 1, 1), shifted)) != []
