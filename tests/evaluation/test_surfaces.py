"""Distances between surfaces, and lesions, against brute force and against MONAI."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics import (
    compute_average_surface_distance,
    compute_hausdorff_distance,
    compute_surface_dice,
)
from scipy import ndimage

from seg3d.evaluation.lesions import lesions
from seg3d.evaluation.surfaces import surface_distances

SPACINGS = ((1.0, 1.0, 1.0), (0.7, 0.9, 3.0), (5.0, 0.5, 0.5))


def blobs(seed: int, shape: tuple[int, int, int], share: float = 0.3) -> np.ndarray:
    """Smooth random structures, some of which touch the edges."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.5)
    return noise > np.quantile(noise, 1 - share)


def brute_force(
    predicted: np.ndarray, reference: np.ndarray, spacing: tuple[float, float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """All distances between all surface voxels, these found voxel by voxel."""

    def surface(mask: np.ndarray) -> np.ndarray:
        padded = np.pad(mask, 1)
        places = []
        for place in np.argwhere(mask):
            steps = [(axis, step) for axis in range(3) for step in (-1, 1)]
            for axis, step in steps:
                neighbour = place + 1
                neighbour[axis] += step
                if not padded[tuple(neighbour)]:
                    places.append(place)
                    break
        return np.array(places) * spacing

    ours, theirs = surface(predicted), surface(reference)
    distances = np.linalg.norm(ours[:, None] - theirs[None], axis=2)
    return distances.min(1), distances.min(0)


@given(st.integers(0, 10_000), st.sampled_from(SPACINGS), st.floats(0.1, 4))
@settings(max_examples=40, deadline=None)
def test_distances_are_those_of_brute_force(
    seed: int, spacing: tuple[float, float, float], tolerance: float
) -> None:
    shape = (9, 11, 7)
    predicted, reference = blobs(seed, shape), blobs(seed + 1, shape, 0.2)
    found = surface_distances(predicted, reference, spacing, tolerance)
    there, back = brute_force(predicted, reference, spacing)
    both = np.concatenate([there, back])
    assert found.hd_mm == pytest.approx(both.max())
    assert found.hd95_mm == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)))
    assert found.assd_mm == pytest.approx(both.mean())
    assert found.surface_dice == pytest.approx((both <= tolerance).mean(), abs=1e-12)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_distances_are_monais(spacing: tuple[float, float, float]) -> None:
    predicted, reference = blobs(1, (30, 40, 20)), blobs(2, (30, 40, 20))
    tensors = [torch.from_numpy(np.stack([~mask, mask]))[None] for mask in (predicted, reference)]
    found = surface_distances(predicted, reference, spacing, 1.2)
    hd = compute_hausdorff_distance(*tensors, spacing=spacing)
    hd95 = compute_hausdorff_distance(*tensors, spacing=spacing, percentile=95)
    assd = compute_average_surface_distance(*tensors, symmetric=True, spacing=spacing)
    dice = compute_surface_dice(*tensors, class_thresholds=[1.2], spacing=spacing)
    assert found.hd_mm == pytest.approx(hd.item(), rel=1e-5)
    assert found.hd95_mm == pytest.approx(hd95.item(), rel=1e-5)
    assert found.assd_mm == pytest.approx(assd.item(), rel=1e-5)
    assert found.surface_dice == pytest.approx(dice.item(), rel=1e-5)


def test_what_is_missing_and_what_is_equal() -> None:
    mask, nothing = blobs(3, (8, 8, 8)), np.zeros((8, 8, 8), bool)
    same = surface_distances(mask, mask, (1, 1, 1), 0.5)
    assert (same.hd_mm, same.hd95_mm, same.assd_mm, same.surface_dice) == (0, 0, 0, 1)
    for pair in ((mask, nothing), (nothing, mask)):
        found = surface_distances(*pair, (1, 1, 1), 0.5)
        assert found.surface_dice == 0 and math.isnan(found.hd95_mm)
    assert math.isnan(surface_distances(nothing, nothing, (1, 1, 1), 0.5).surface_dice)


def test_a_shift_is_measured_in_mm() -> None:
    """A cube, three slices further of 2.5 mm each."""
    reference, predicted = np.zeros((2, 20, 20, 20), bool)
    reference[5:10, 5:10, 5:10] = True
    predicted[8:13, 5:10, 5:10] = True
    found = surface_distances(predicted, reference, (2.5, 1, 1), 1)
    assert found.hd_mm == 7.5


def test_lesions() -> None:
    """Two found by one that spans both, one missed, one false; corners make one lesion."""
    reference, predicted = np.zeros((2, 20, 20, 20), bool)
    reference[1:3, 1:3, 1:3] = reference[6:8, 1:3, 1:3] = True
    predicted[2:7, 2, 2] = True
    reference[15, 15, 15] = reference[16, 16, 16] = True
    predicted[15, 2, 15] = True
    found = lesions(predicted, reference)
    assert (found.reference, found.predicted, found.found, found.false) == (3, 2, 2, 1)
    assert found.f1 == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert math.isnan(lesions(predicted & False, reference & False).f1)
    assert lesions(predicted & False, reference).f1 == 0
