"""Regions are compared as regions: what names share counts for all of them."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest

from seg3d.evaluation import Classes, Evaluation, Pair, evaluate
from tests.conftest import Cli
from tests.volumes import save_nifti

LABELS = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3, "ignore": 9}
SHAPE = (8, 7, 6)


def volumes(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Prediction and reference; the latter has voxels without a label."""
    generator = np.random.default_rng(seed)
    reference = generator.choice([0, 1, 2, 3, 9], SHAPE).astype(np.uint8)
    predicted = np.where(generator.random(SHAPE) < 0.6, reference % 9, generator.integers(0, 4))
    return predicted.astype(np.uint8), reference


def written(folder: Path, seed: int = 0) -> tuple[Path, Path]:
    predicted, reference = volumes(seed)
    one = save_nifti(folder / "predictions" / "a.nii.gz", predicted)
    return one, save_nifti(folder / "references" / "a.nii.gz", reference)


def compared(folder: Path, tolerance: int | None = None) -> Evaluation:
    pair = Pair("a", *written(folder))
    return evaluate([pair], Classes.of(LABELS), tolerance=tolerance)


def test_counts_of_every_region(tmp_path: Path) -> None:
    found = compared(tmp_path, tolerance=1)
    assert found.names == {1: "whole", 2: "core", 3: "enhancing"}
    predicted, reference = volumes()
    [overlaps] = found.cases.values()
    for number, values in enumerate(([1, 2, 3], [2, 3], [3]), 1):
        known = reference != 9
        ours, theirs = (np.isin(one, values) & known for one in (predicted, reference))
        one = overlaps[number]
        assert one.predicted_voxels == ours.sum() and one.reference_voxels == theirs.sum()
        assert one.intersection_voxels == (ours & theirs).sum()
        assert one.dice == pytest.approx(2 * (ours & theirs).sum() / (ours.sum() + theirs.sum()))
        assert one.reference_ml == pytest.approx(theirs.sum() / 1000)
        assert one.near is not None and one.near.reference_voxels >= one.intersection_voxels


def test_a_region_in_neither_file_is_undefined_and_no_other_value_is_a_class(
    tmp_path: Path,
) -> None:
    label = np.full(SHAPE, 5, np.uint8)
    label[0] = 1
    one, other = (save_nifti(tmp_path / name / "a.nii", label) for name in "ab")
    found = evaluate([Pair("a", one, other)], Classes.of(LABELS))
    [overlaps] = found.cases.values()
    assert overlaps[1].dice == 1 and math.isnan(overlaps[2].dice)
    assert list(overlaps) == [1, 2, 3]


def test_names_that_share_nothing_are_regions_if_their_order_is_given() -> None:
    assert not Classes.of({"one": 1, "two": [2, 3]}).regions
    found = Classes.of({"one": 1, "two": [2, 3]}, order=[1, 2])
    assert found.regions == {1: {1}, 2: {2, 3}}


def test_the_command_line_with_regions_named(tmp_path: Path, cli: Cli) -> None:
    written(tmp_path)
    labels = tmp_path / "regions.json"
    labels.write_text(json.dumps({"labels": LABELS}))
    folders = tmp_path / "predictions", tmp_path / "references"
    shown = cli("evaluate", *folders, "--labels", labels).stdout
    assert "enhancing" in shown and "label" not in shown.replace("labels", "")
    with (tmp_path / "predictions" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["label"], row["name"]) for row in rows] == [
        ("1", "whole"), ("2", "core"), ("3", "enhancing"),
    ]  # fmt: skip
    [expected] = compared(tmp_path).cases.values()
    assert [float(row["dice"]) for row in rows] == pytest.approx(
        [one.dice for one in expected.values()]
    )


def test_the_precision_and_recall_of_the_most_probable_region(tmp_path: Path) -> None:
    one, other = written(tmp_path)
    reference = volumes()[1]
    generator = np.random.default_rng(3)
    probabilities = generator.random((*SHAPE, 3)).astype(np.float32) / 2
    # Some region is most probable wherever any is, whichever it is.
    probabilities[..., 1] += np.isin(reference, [1, 2, 3]) / 2
    save_nifti(tmp_path / "predictions" / "a_probabilities.nii.gz", probabilities)
    found = evaluate([Pair("a", one, other)], Classes.of(LABELS))
    assert found.average_precision().mean == pytest.approx(1, abs=0.01)
