"""Evaluation of folders within folders, as ``seg3d predict`` leaves them."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from seg3d.common.errors import UserError
from seg3d.evaluation import find_classes, find_pairs
from seg3d.plan import build_network
from seg3d.runs.checkpoint import save_checkpoint
from tests.conftest import Cli
from tests.plans import classes, small_config, small_plan
from tests.volumes import write_nifti

LABELS = {"labels": {"background": 0, "bone": [1, 2]}}


def save(path: Path, value: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    labels = np.zeros((4, 4, 4), np.uint8)
    labels[1:3] = value
    nib.save(nib.Nifti1Image(labels, np.eye(4)), path)
    return path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two sites with a case of the same name; 2 is the same class as 1."""
    for site in ("east", "west"):
        folder = tmp_path / "predictions" / site
        save(folder / "knee.nii.gz", 1)
        (folder / "labels.json").write_text(json.dumps(LABELS))
        save(tmp_path / "references" / site / "knee.nii.gz", 2)
    save(tmp_path / "references" / "west" / "hip.nii.gz", 2)
    return tmp_path


def test_recursive(tree: Path, cli: Cli) -> None:
    done = cli("evaluate", tree / "predictions", tree / "references", "--recursive")
    assert "west/hip" in done.stdout  # which has no prediction
    cases = json.loads((tree / "predictions" / "metrics.json").read_text())["cases"]
    assert [*cases] == ["east/knee", "west/knee"]
    for case in cases.values():
        assert case["labels"]["1"]["name"] == "bone"
        assert case["labels"]["1"]["dice"] == 1


def test_without_recursive_it_is_named(tree: Path, cli: Cli) -> None:
    done = cli("evaluate", tree / "predictions", tree / "references", status=2)
    assert "add --recursive" in done.stderr


def test_pattern(tree: Path, cli: Cli) -> None:
    save(tree / "flat" / "east.nii.gz", 2)
    save(tree / "flat" / "west.nii.gz", 2)
    cli("evaluate", tree / "flat", tree / "references", "--pattern", "CASE/kn*.nii.gz")
    cases = json.loads((tree / "flat" / "metrics.json").read_text())["cases"]
    assert [*cases] == ["east", "west"]


def test_classes_that_differ(tree: Path) -> None:
    other = {"labels": {"background": 0, "cartilage": 1}}
    (tree / "predictions" / "west" / "labels.json").write_text(json.dumps(other))
    with pytest.raises(UserError, match="different classes"):
        find_classes(tree / "predictions", tree / "references", recursive=True)


def test_both_at_once_and_files(tree: Path) -> None:
    folders = tree / "predictions", tree / "references"
    with pytest.raises(UserError, match="both given"):
        find_pairs(*folders, recursive=True, pattern="CASE.nii.gz")
    files = [folder / "east" / "knee.nii.gz" for folder in folders]
    with pytest.raises(UserError, match="are for folders"):
        find_pairs(*files, recursive=True)


def test_predictions_within_the_references(tree: Path, cli: Cli) -> None:
    """They are not taken for references that lack a prediction."""
    inside = tree / "references" / "predictions"
    (tree / "predictions").rename(inside)
    cli("evaluate", inside, tree / "references", "--recursive")
    metrics = json.loads((inside / "metrics.json").read_text())
    assert [*metrics["cases"]] == ["east/knee", "west/knee"]
    assert metrics["missing"] == ["west/hip"]


def test_what_predict_recursive_leaves(tree: Path, cli: Cli) -> None:
    config, plan = small_config(), small_plan(classes=classes([0], [1, 2]))
    state = {"network": build_network(config, plan).state_dict()}
    save_checkpoint(tree / "last.pt", config, plan, state)
    for site in ("east", "west"):
        write_nifti(tree / "scans" / site / "knee.nii.gz")
        write_nifti(tree / "labels" / site / "knee.nii.gz")
    out = tree / "out"
    cli("predict", tree / "last.pt", tree / "scans", "--recursive", "--output", out,
        "--probabilities")  # fmt: skip
    cli("evaluate", out, tree / "labels", "--recursive")
    metrics = json.loads((out / "metrics.json").read_text())
    assert [*metrics["cases"]] == ["east/knee", "west/knee"]
    assert metrics["average_precision"]["cases"] == 2
    rows = (out / "metrics.csv").read_text().splitlines()[1:]
    assert {row.split(",")[0] for row in rows} == {"east/knee", "west/knee"}
