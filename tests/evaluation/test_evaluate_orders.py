"""Predictions and references whose axes stand in another order: the same scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from seg3d.evaluation import evaluate, find_pairs
from seg3d.evaluation.results import Evaluation
from tests.volumes import ORIENTATIONS, affine_of, reorder, save_nifti

SHAPE = (5, 6, 7)
AFFINE = affine_of((0.7, 1, 2.5), (10, 40, -75), (-80, 12, 33))


def write(folder: Path) -> Path:
    generator = np.random.default_rng(0)
    for name in ("predictions", "labels"):
        save_nifti(folder / name / "a.nii", generator.integers(0, 4, SHAPE, np.uint8), AFFINE)
    foreground = generator.random(SHAPE, np.float32)
    save_nifti(
        folder / "predictions" / "a_probabilities.nii",
        np.stack([1 - foreground, foreground], -1),
        AFFINE,
    )
    return folder


def found(folder: Path) -> Evaluation:
    return evaluate(find_pairs(folder / "predictions", folder / "labels"), tolerance=1)


@pytest.mark.parametrize("first", range(0, 48, 5))
def test_scores_do_not_depend_on_the_order(tmp_path: Path, first: int) -> None:
    expected = found(write(tmp_path / "alike"))
    folder = write(tmp_path / "other")
    names = ("predictions/a.nii", "labels/a.nii", "predictions/a_probabilities.nii")
    for number, name in enumerate(names):
        reorder(folder / name, ORIENTATIONS[(first + 17 * number) % 48])
    evaluation = found(folder)
    (ours,), (theirs,) = evaluation.cases.values(), expected.cases.values()
    assert set(ours) == {1, 2, 3}
    for value, overlap in theirs.items():
        assert 0 < overlap.dice < 1 and overlap.near is not None
        assert ours[value].intersection_voxels == overlap.intersection_voxels
        assert ours[value].near == overlap.near
        assert ours[value].dice == overlap.dice
        assert ours[value].reference_ml == pytest.approx(overlap.reference_ml)
    (curve,), (other,) = evaluation.scores.values(), expected.scores.values()
    assert curve.average_precision == other.average_precision
