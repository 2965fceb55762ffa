"""Tolerance and precision-recall against brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from seg3d.evaluation import tolerance as tolerance_module
from seg3d.evaluation.precision_recall import BINS, ScoreCounts
from seg3d.evaluation.tolerance import harmonic_mean, voxels_near

sparse = arrays(bool, (7, 5, 6), elements=st.sampled_from([False] * 9 + [True]))


def near_by_hand(ours: np.ndarray, theirs: np.ndarray, tolerance: float) -> int:
    places = np.argwhere(theirs)
    return sum(
        bool(len(places)) and np.linalg.norm(places - voxel, axis=1).min() <= tolerance
        for voxel in np.argwhere(ours)
    )


@settings(max_examples=60, deadline=None)
@given(
    ours=sparse, theirs=sparse, tolerance=st.sampled_from([1, 1.5, 2, 3]), slab=st.integers(1, 300)
)
def test_voxels_near_against_all_distances(
    ours: np.ndarray, theirs: np.ndarray, tolerance: float, slab: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tolerance_module, "SLAB", slab)
        assert voxels_near(ours, theirs, tolerance) == near_by_hand(ours, theirs, tolerance)


def test_harmonic_mean_of_what_is_not_defined() -> None:
    assert harmonic_mean(0.5, 1.0) == pytest.approx(2 / 3)
    assert harmonic_mean(0.0, 0.0) == harmonic_mean(math.nan, 0.0) == 0.0
    assert math.isnan(harmonic_mean(math.nan, math.nan))


def curve_by_hand(scores: np.ndarray, positive: np.ndarray) -> tuple[list[float], list[float]]:
    """Precision and recall at each score that occurs, highest first."""
    precision, recall = [], []
    for threshold in sorted(set(scores.tolist()), reverse=True):
        chosen = scores >= threshold
        precision.append((chosen & positive).sum() / chosen.sum())
        recall.append((chosen & positive).sum() / positive.sum())
    return precision, recall


@settings(max_examples=60, deadline=None)
@given(
    scores=arrays(np.int64, 40, elements=st.integers(0, BINS)),
    positive=arrays(bool, 40).filter(np.any),
    split=st.integers(0, 40),
)
def test_curve_and_average_precision_by_hand(
    scores: np.ndarray, positive: np.ndarray, split: int
) -> None:
    values = np.minimum(scores, BINS - 1) / BINS
    parts = ScoreCounts(), ScoreCounts()
    for counts, part in zip(parts, (slice(split), slice(split, None)), strict=True):
        # A score of 1 falls into the last interval.
        counts.add((scores[part] / BINS).astype(np.float32), positive[part])
    total = sum(parts, ScoreCounts())
    precision, recall = curve_by_hand(values, positive)
    curve = total.curve()
    np.testing.assert_allclose(curve.precision, precision)
    np.testing.assert_allclose(curve.recall, recall)
    np.testing.assert_allclose(curve.threshold, sorted(set(values.tolist()), reverse=True))
    expected = (np.array(precision) * np.diff([0, *recall])).sum()
    assert total.average_precision == pytest.approx(expected)


def test_average_precision_of_fine_scores_is_that_of_the_sorted_ones() -> None:
    rng = np.random.default_rng(0)
    positive = rng.random(20_000) < 0.05
    scores = 1 / (1 + np.exp(-rng.normal(np.where(positive, 1.0, -2.0), 1.5)))
    counts = ScoreCounts()
    counts.add(scores.astype(np.float32), positive)
    order = np.argsort(-scores)
    precision = positive[order].cumsum() / np.arange(1, len(order) + 1)
    assert counts.average_precision == pytest.approx(precision[positive[order]].mean(), abs=2e-3)


def test_average_precision_without_a_reference_is_not_defined() -> None:
    counts = ScoreCounts()
    counts.add(np.array([0.2, 0.9]), np.array([False, False]))
    assert math.isnan(counts.average_precision)
