"""A case read by blocks is the case that MONAI's transforms make of the whole files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seg3d.common.errors import UserError
from seg3d.data.case_reader import CaseReader
from seg3d.data.intensity import Moments
from seg3d.plan import ChannelIntensity
from tests.monai_preprocessing import prediction_image
from tests.plans import small_plan
from tests.volumes import affine_of, save_nifti

CHANNELS = [
    ChannelIntensity(name="CT", kind="ct", low=-50, high=60, mean=3, std=20),
    ChannelIntensity(name="T1", kind="zscore"),
    ChannelIntensity(name="T2", kind="zscore", nonzero=True),
    ChannelIntensity(name="PD", kind="none"),
]
AFFINE = affine_of((0.8, 1.0, 2.5), origin=(-40, 13, 7))[:, [2, 0, 1, 3]] @ np.diag([1, -1, 1, 1])


def images(folder: Path) -> list[Path]:
    """Two files, of three channels and of one, with a mean far from zero and much that is zero."""
    generator = np.random.default_rng(0)
    voxels = generator.normal(1000, 40, (13, 17, 11, 4)) * (generator.random((13, 17, 11, 4)) > 0.3)
    voxels = voxels.astype(np.int16)
    return [
        save_nifti(folder / "a_0000.nii.gz", voxels[..., :3], AFFINE),
        save_nifti(folder / "a_0001.nii", voxels[..., 3], AFFINE),
    ]


@pytest.mark.parametrize("spacing", [None, (1.7, 0.6, 1.9)])
@pytest.mark.parametrize("slices_at_once", [1, 4, 100])
def test_what_is_read_is_what_the_transforms_make(
    tmp_path: Path, spacing: tuple[float, float, float] | None, slices_at_once: int
) -> None:
    plan = small_plan(orientation="RAS", spacing=spacing, channels=CHANNELS)
    paths = images(tmp_path)
    whole = prediction_image(plan, paths)
    with CaseReader(paths, plan) as case:
        case.slices_at_once = slices_at_once
        case.measure()
        depth, height, width = case.grid_map.shape
        for region in (
            (slice(0, depth), slice(0, height), slice(0, width)),
            (slice(3, depth - 1), slice(2, 5), slice(1, width)),
        ):
            expected = case.grid_map.from_network(whole.as_tensor()[None])[0][:, *region]
            torch.testing.assert_close(case.read(region), expected, atol=2e-5, rtol=2e-5)


@settings(max_examples=50, deadline=None)
@given(
    parts=st.lists(st.lists(st.floats(-1e4, 1e4, width=32), max_size=9), max_size=5),
    nonzero=st.booleans(),
)
def test_moments_of_parts_are_those_of_the_whole(parts: list[list[float]], nonzero: bool) -> None:
    moments = Moments()
    for part in parts:
        moments.add(torch.tensor(part), ChannelIntensity(name="", kind="zscore", nonzero=nonzero))
    values = np.array([value for part in parts for value in part if value or not nonzero])
    assert moments.count == values.size
    if values.size:
        scale = np.abs(values).max()
        assert moments.mean == pytest.approx(values.mean(), abs=1e-13 * scale)
        assert moments.deviation == pytest.approx(max(values.std(), 1e-6), abs=1e-13 * scale)


def test_values_that_are_not_finite_are_reported_where_they_are(tmp_path: Path) -> None:
    voxels = np.zeros((6, 7, 8), np.float32)
    voxels[1, 2, 5:7] = np.inf
    path = save_nifti(tmp_path / "a.nii", voxels)
    with CaseReader([path], small_plan()) as case:
        case.slices_at_once = 3
        case.read((slice(0, 5), slice(0, 7), slice(0, 6)))
        with pytest.raises(
            UserError, match=r"a\.nii holds 2 voxels that are NaN or infinite\n.*5:8"
        ):
            case.read((slice(5, 8), slice(0, 7), slice(0, 6)))


@pytest.mark.parametrize("step", [1e6, 1e30])
def test_a_spacing_of_another_world(tmp_path: Path, step: float) -> None:
    path = save_nifti(
        tmp_path / "a.nii", np.zeros((5, 5, 5), np.int16), affine_of((step, step, step))
    )
    with pytest.raises(UserError, match=r"a\.nii would have .* voxels at the spacing of the netw"):
        CaseReader([path], small_plan(spacing=(1.0, 1.0, 1.0)))
    CaseReader([path], small_plan()).close()


def test_nothing_stays_open_if_the_images_do_not_fit(tmp_path: Path) -> None:
    """Wrong grids and channels are reported; a reader that has been closed can be closed again."""
    first = save_nifti(tmp_path / "a_0000.nii", np.zeros((5, 5, 5), np.int16))
    other = save_nifti(tmp_path / "a_0001.nii", np.zeros((5, 5, 5), np.int16), affine_of((1, 1, 2)))
    with pytest.raises(UserError, match="same grid"):
        CaseReader([first, other], small_plan(channels=CHANNELS[:2]))
    with pytest.raises(UserError, match=r"needs 2 channels \(CT, T1\)\n  given: 1 in a_0000.nii"):
        CaseReader([first], small_plan(channels=CHANNELS[:2]))
    with CaseReader([first], small_plan()) as case:
        case.close()
