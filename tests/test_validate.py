"""Dice over labelled voxels."""

from __future__ import annotations

import numpy as np
import pytest

from seg3d.validate import Validation, dice_per_class


def test_against_the_definition_over_labelled_voxels() -> None:
    generator = np.random.default_rng(0)
    reference = generator.integers(-1, 4, (7, 8, 9))
    predicted = generator.integers(0, 4, (7, 8, 9))
    known = reference >= 0
    expected = [
        2 * ((reference == number) & (predicted == number))[known].sum()
        / ((reference == number)[known].sum() + (predicted == number)[known].sum())
        for number in (1, 2, 3)
    ]  # fmt: skip
    np.testing.assert_allclose(dice_per_class(reference, predicted, 4), expected)


@pytest.mark.parametrize(
    ("reference", "predicted", "dice"),
    [([0, 0], [0, 0], np.nan), ([1, 0], [0, 0], 0), ([0, 0], [1, 0], 0), ([1, -1], [1, 1], 1)],
)
def test_empty_classes(reference: list[int], predicted: list[int], dice: float) -> None:
    found = dice_per_class(np.array(reference), np.array(predicted), 2)
    np.testing.assert_array_equal(found, [dice])


def test_the_mean_leaves_out_classes_that_do_not_occur() -> None:
    picture = np.zeros((2, 2, 3), np.uint8)
    assert Validation({"a": 0.5, "b": float("nan"), "c": 1.0}, picture).mean_dice == 0.75
    assert Validation({"a": float("nan")}, picture).mean_dice == 0.0
