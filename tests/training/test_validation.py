"""Dice over labelled voxels, and validation in little RAM."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from seg3d.common.stopping import StopRequest
from seg3d.data.cases import Case
from seg3d.geometry import Shape3
from seg3d.io.regions import Region, columns
from seg3d.plan import build_network
from seg3d.training.validation import Validation, dice_per_class, validate
from tests.plans import small_config, small_plan
from tests.volumes import save_nifti


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


def validate_with(free: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Validation:
    """Validate a small untrained network on a volume, with so much free RAM."""
    monkeypatch.setattr("seg3d.training.validation.free_ram", lambda: free)
    torch.manual_seed(0)
    config, plan = small_config(), small_plan()
    case = Case("one", (folder / "image.nii.gz",), folder / "label.nii.gz")
    found = validate(
        build_network(config, plan),
        plan,
        [case],
        overlap=config.validation.overlap,
        dtype=torch.float32,
        stop=StopRequest(None),
    )
    assert found is not None
    return found


def test_scores_that_do_not_fit_are_made_in_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(0)
    shape = (40, 41, 20)
    save_nifti(tmp_path / "image.nii.gz", random.normal(0, 1, shape).astype(np.float32))
    save_nifti(tmp_path / "label.nii.gz", random.integers(0, 3, shape).astype(np.uint8))
    cut: list[tuple[int, int]] = []

    def columns_noted(shape: Shape3, parts: tuple[int, int]) -> Iterator[Region]:
        cut.append(parts)
        return columns(shape, parts)

    monkeypatch.setattr("seg3d.training.validation.columns", columns_noted)
    monkeypatch.setattr("seg3d.training.validation.MOST_IN_PICTURE", 11)
    whole = validate_with(1 << 40, tmp_path, monkeypatch)
    # Half of it holds the scores of 3 classes, 16 slices, 450 voxels each.
    in_columns = validate_with(2 * 4 * 3 * 16 * 450, tmp_path, monkeypatch)
    none_free = validate_with(0, tmp_path, monkeypatch)
    assert cut == [(1, 1), (2, 2), (3, 3)]
    for found in (in_columns, none_free):
        assert found.dice == whole.dice
        np.testing.assert_array_equal(found.picture, whole.picture)
