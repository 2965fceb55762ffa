"""Labels in memory are compared as ``seg3d evaluate`` compares files."""

from __future__ import annotations

import json
import math
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from seg3d import UserError, compare_labels
from tests.conftest import Cli

SPACING = (0.5, 1.0, 3.0)


def labels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 4, (6, 5, 7)).astype(np.uint8)


def test_numbers_are_those_of_the_command(tmp_path: Path, cli: Cli) -> None:
    for name, seed in (("ours", 0), ("theirs", 1)):
        (tmp_path / name).mkdir()
        image = nib.Nifti1Image(labels(seed), np.diag([*SPACING, 1]))
        nib.save(image, tmp_path / name / "a.nii")
    naming = {"labels": {"background": 0, "ignore": 3}}
    (tmp_path / "labels.json").write_text(json.dumps(naming))
    cli("evaluate", tmp_path / "ours", tmp_path / "theirs", "--tolerance", "1", "--labels",
        tmp_path / "labels.json")  # fmt: skip
    case = json.loads((tmp_path / "ours" / "metrics.json").read_text())["cases"]["a"]["labels"]
    found = compare_labels(labels(0), labels(1), spacing=SPACING, ignore=3, tolerance=1)
    assert [str(value) for value in found] == [*case] == ["1", "2"]
    for value, overlap in found.items():
        for measure, number in case[str(value)].items():
            if measure != "name":
                assert getattr(overlap, measure) == number, measure


def test_masks_and_what_is_on_one_side_only() -> None:
    mask = np.zeros((4, 4, 4), bool)
    mask[:2] = True
    (overlap,) = compare_labels(mask, mask, spacing=(1, 1, 1)).values()
    assert (overlap.dice, overlap.reference_ml) == (1, 0.032)
    assert compare_labels(mask, np.where(mask, 2, 0), spacing=(1, 1, 1))[2].dice == 0
    assert compare_labels(~mask & mask, ~mask & mask, spacing=(1, 1, 1)) == {}
    assert math.isclose(compare_labels(mask, mask, spacing=(2, 1, 1))[1].predicted_ml, 0.064)


@pytest.mark.parametrize(
    ("prediction", "spacing", "words"),
    [
        (np.zeros((6, 5, 8), np.uint8), SPACING, "different shapes"),
        (np.zeros((1, 6, 5, 7), np.uint8), SPACING, "prediction is not a 3D array"),
        (np.zeros((6, 5, 7), np.float32), SPACING, "prediction is not a 3D array"),
        (np.full((6, 5, 7), -1), SPACING, "values that are no class"),
        (np.full((6, 5, 7), 70_000), SPACING, "values that are no class"),
        (labels(0), (1, 1), "spacing is not understood"),
        (labels(0), (1, 0, 1), "spacing is not a size"),
    ],
)
def test_what_cannot_be_compared(
    prediction: np.ndarray, spacing: tuple[float, ...], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        compare_labels(prediction, labels(1), spacing=spacing)


def test_a_tolerance_of_no_distance() -> None:
    with pytest.raises(UserError, match="tolerance"):
        compare_labels(labels(0), labels(1), spacing=SPACING, tolerance=0)
