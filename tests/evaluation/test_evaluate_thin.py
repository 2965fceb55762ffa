"""Evaluation of thin structures: Dice with a tolerance, and precision-recall of probabilities."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import asdict
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from rich.console import Console

from seg3d.common.errors import UserError
from seg3d.evaluation import Classes, evaluate, find_pairs
from seg3d.evaluation.curve_report import write_curve
from seg3d.evaluation.report import table, write_metrics
from seg3d.geometry import Grid
from seg3d.io import Header, write_volume
from tests.conftest import Cli
from tests.volumes import save_nifti

SHAPE = (12, 6, 7)


def classes_of(names: dict[int, str]) -> Classes:
    return Classes.of({name: value for value, name in names.items()})


def sheets(*places: int, value: int = 1) -> np.ndarray:
    """Planes across the first axis, one voxel thick."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[list(places)] = value
    return labels


def save_case(
    root: Path,
    prediction: np.ndarray,
    reference: np.ndarray,
    foreground: np.ndarray | None = None,
    case: str = "a",
) -> Path:
    save_nifti(root / "predictions" / f"{case}.nii.gz", prediction)
    save_nifti(root / "labels" / f"{case}.nii.gz", reference)
    if foreground is not None:
        probabilities = np.stack([1 - foreground, foreground], -1).astype(np.float32)
        save_nifti(root / "predictions" / f"{case}_probabilities.nii.gz", probabilities)
    return root


def pairs(root: Path):
    return find_pairs(root / "predictions", root / "labels")


@pytest.mark.parametrize(
    ("predicted", "tolerance", "precision", "recall"),
    [
        ((4,), 1, 1.0, 1.0),  # beside the reference
        ((3,), 1, 0.0, 0.0),  # two voxels off
        ((3,), 2, 1.0, 1.0),
        ((5, 9), 2, 0.5, 1.0),
        ((), 2, math.nan, 0.0),
    ],
)
def test_sheets_beside_a_sheet(
    tmp_path: Path, predicted: tuple[int, ...], tolerance: int, precision: float, recall: float
) -> None:
    save_case(tmp_path, sheets(*predicted), sheets(5))
    ((overlaps),) = evaluate(pairs(tmp_path), tolerance=tolerance).cases.values()
    found = overlaps[1]
    assert found.tolerance_precision == pytest.approx(precision, nan_ok=True)
    assert found.tolerance_recall == recall
    expected = 2 * precision * recall / (precision + recall) if precision > 0 else 0.0
    assert found.tolerance_dice == expected
    assert found.dice == (2 * 42 / (42 + 84) if 5 in predicted else 0)


def test_classes_are_kept_apart_and_ignored_voxels_count_nowhere(tmp_path: Path) -> None:
    reference = sheets(2) + sheets(8, value=2)
    reference[:, 0] = 3
    prediction = sheets(3, value=2) + sheets(9, value=2)
    save_case(tmp_path, prediction, reference)
    names = {0: "background", 1: "one", 2: "two", 3: "ignore", 4: "nowhere"}
    ((overlaps),) = evaluate(pairs(tmp_path), classes_of(names), tolerance=1).cases.values()
    # Of class 2, one sheet of 5 × 7 labelled voxels is near and one is not.
    assert overlaps[2].near and overlaps[2].near.predicted_voxels == 35
    assert (overlaps[2].tolerance_precision, overlaps[2].tolerance_recall) == (0.5, 1.0)
    assert overlaps[1].tolerance_dice == 0.0
    assert math.isnan(overlaps[4].tolerance_dice)


def test_what_is_written(tmp_path: Path) -> None:
    save_case(tmp_path, sheets(4), sheets(5))
    save_case(tmp_path, sheets(4), sheets(7), case="b")
    json_path, csv_path = write_metrics(evaluate(pairs(tmp_path), tolerance=1), tmp_path)
    content = json.loads(json_path.read_text())
    assert content["tolerance_voxels"] == 1
    assert content["summary"]["1"]["tolerance_dice"]["mean"] == 0.5
    assert content["cases"]["a"]["labels"]["1"]["tolerance_dice"] == 1.0
    with csv_path.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["tolerance_recall"] for row in rows] == ["1.0", "0.0"]

    json_path, csv_path = write_metrics(evaluate(pairs(tmp_path)), tmp_path)
    assert "tolerance" not in csv_path.read_text()
    assert "tolerance_dice" not in json.loads(json_path.read_text())["summary"]["1"]


# --- probabilities -----------------------------------------------------------------------------


def test_probabilities_beside_a_prediction_give_a_curve(tmp_path: Path) -> None:
    """Two sheets found with certainty, then one false one, then the last."""
    foreground = np.zeros(SHAPE)
    foreground[[2, 5]], foreground[9], foreground[7] = 1.0, 0.7, 0.25
    save_case(tmp_path, sheets(2, 5), sheets(2, 5, 7), foreground)
    save_case(tmp_path, sheets(2), sheets(2), case="without")
    evaluation = evaluate(pairs(tmp_path))
    expected = 2 / 3 * 1 + 1 / 3 * 3 / 4
    (score,) = evaluation.scores.values()
    assert score.average_precision == pytest.approx(expected)
    assert (evaluation.average_precision().mean, evaluation.average_precision().cases) == (
        pytest.approx(expected),
        1,
    )
    numbers, picture = write_curve(evaluation, tmp_path / "out")
    with numbers.open() as file:
        rows = [[float(value) for value in row.values()] for row in csv.DictReader(file)]
    np.testing.assert_allclose(
        rows,
        [
            [4095 / 4096, 1, 2 / 3],
            [0.7, 2 / 3, 2 / 3],
            [0.25, 3 / 4, 1],
            [0, 3 / 12, 1],
        ],
        atol=1 / 4096,
    )
    assert matplotlib.image.imread(picture).shape[:2] == (500, 500)
    content = json.loads(write_metrics(evaluation, tmp_path)[0].read_text())
    assert content["average_precision"]["mean"] == pytest.approx(expected)
    assert content["cases"]["without"]["average_precision"] is None


def test_a_single_channel_is_the_probability_of_the_foreground(tmp_path: Path) -> None:
    foreground = np.zeros(SHAPE)
    foreground[2], foreground[9] = 0.9, 0.4
    save_case(tmp_path, sheets(2), sheets(2, 9), foreground)
    both = asdict(evaluate(pairs(tmp_path)).average_precision())
    path = tmp_path / "predictions" / "a_probabilities.nii.gz"
    save_nifti(path, foreground.astype(np.float32))
    alone = asdict(evaluate(pairs(tmp_path)).average_precision())
    # A deviation of one case is not a number.
    assert alone == pytest.approx(both, nan_ok=True, abs=0) and both["mean"] == 1.0
    save_nifti(path, (1 - foreground).astype(np.float32))
    assert evaluate(pairs(tmp_path)).average_precision().mean < 0.5


def test_samples_in_ms_have_no_volume_in_ml(tmp_path: Path) -> None:
    labels = sheets(2)[None].astype(np.int8)
    grid = Grid(SHAPE, np.diag([25.0, 25.0, 4.0, 1.0]))
    for folder in ("predictions", "labels"):
        (tmp_path / folder).mkdir()
        write_volume(tmp_path / folder / "a.sgy", labels, Header(grid, 1, None))
    evaluation = evaluate(find_pairs(tmp_path / "predictions", tmp_path / "labels"))
    overlap = next(iter(evaluation.cases.values()))[1]
    assert math.isnan(overlap.reference_ml) and overlap.dice == 1
    entry = json.loads(write_metrics(evaluation, tmp_path)[0].read_text())["cases"]["a"]
    assert entry["labels"]["1"]["reference_ml"] is None
    console = Console(record=True, width=120, file=io.StringIO())
    console.print(table(evaluation))
    text = console.export_text()
    assert "voxels" in text and str(int(labels.sum())) in text and "ml" not in text


def test_no_curve_without_probabilities_or_without_foreground(tmp_path: Path) -> None:
    save_case(tmp_path, sheets(4), sheets(5))
    assert write_curve(evaluate(pairs(tmp_path)), tmp_path) == ()
    save_case(tmp_path, sheets(), sheets(), np.zeros(SHAPE))
    evaluation = evaluate(pairs(tmp_path))
    assert math.isnan(evaluation.average_precision().mean)
    assert write_curve(evaluation, tmp_path) == ()


def test_scores_of_ignored_voxels_do_not_count(tmp_path: Path) -> None:
    foreground = np.zeros(SHAPE)
    foreground[[2, 9]] = 1.0
    save_case(tmp_path, sheets(2, 9), sheets(2) + sheets(9, value=3), foreground)
    names = {0: "background", 1: "fault", 3: "ignore"}
    assert evaluate(pairs(tmp_path), classes_of(names)).average_precision().mean == 1.0
    assert evaluate(pairs(tmp_path), classes_of({3: "other"})).average_precision().mean == 1.0
    reference = sheets(2)
    save_case(tmp_path, sheets(2, 9), reference, foreground)
    assert evaluate(pairs(tmp_path)).average_precision().mean == 0.5


def test_probabilities_that_are_none(tmp_path: Path) -> None:
    save_case(tmp_path, sheets(4), sheets(5))
    path = tmp_path / "predictions" / "a_probabilities.nii.gz"
    for wrong in (np.full((*SHAPE, 2), 1.5, np.float32), np.full(SHAPE, np.nan, np.float32)):
        save_nifti(path, wrong)
        with pytest.raises(UserError, match="does not hold class probabilities"):
            evaluate(pairs(tmp_path))
    save_nifti(path, np.zeros((5, 5, 5, 2), np.float32))
    with pytest.raises(UserError, match="do not lie on the same grid"):
        evaluate(pairs(tmp_path))


def test_the_command_line(tmp_path: Path, cli: Cli) -> None:
    save_case(tmp_path, sheets(4), sheets(5), np.full(SHAPE, 0.5))
    printed = cli(
        "evaluate", tmp_path / "predictions", tmp_path / "labels", "--tolerance", 1,
        "--output", tmp_path / "out",
    ).stdout  # fmt: skip
    assert "Dice ± 1 voxels" in printed and "average precision 0.083" in printed
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {
        "metrics.json",
        "metrics.csv",
        "precision_recall.csv",
        "precision_recall.png",
    }
