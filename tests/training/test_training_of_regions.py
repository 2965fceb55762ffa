"""Regions from training to scores, through the real command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml

from seg3d import Predictor
from seg3d.common.stopping import StopRequest
from seg3d.data.cases import Case
from seg3d.evaluation import find_classes
from seg3d.info import run_info
from seg3d.plan import build_network
from seg3d.prediction.decisions import Decision
from seg3d.training.validation import validate
from tests.conftest import Cli
from tests.plans import classes, small_config, small_plan
from tests.volumes import save_nifti

SHAPE = (20, 18, 16)
SMALL = {
    "data": {
        "labels": {"whole": [1, 2, 3], "core": [2, 3], "enhancing": 3, "ignore": 9},
        "folds": 2,
        "workers": 0,
    },
    "patch": {"size": [16, 16, 16]},
    "network": {"channels": [6, 12]},
    "train": {
        "epochs": 2,
        "iterations_per_epoch": 40,
        "learning_rate": 0.02,
        "momentum": 0.9,
        "amp": "off",
    },
    "validation": {"every": 1, "overlap": 0.0},
    "predict": {"overlap": 0.25},
}  # fmt: skip
NAMES = ["whole", "core", "enhancing"]


def write_case(folder: Path, name: str) -> None:
    """Boxes within boxes, brighter from one to the next, and a slice without labels."""
    generator = np.random.default_rng(ord(name))
    label = np.zeros(SHAPE, np.uint8)
    first = generator.integers(1, 4, 3)
    for value, side in ((1, 13), (2, 9), (3, 6)):
        start = first + (13 - side) // 2
        label[tuple(slice(one, one + side) for one in start)] = value
    image = 30 * label + generator.normal(0, 3, SHAPE)
    label[0] = 9
    save_nifti(folder / "images" / f"{name}.nii.gz", image.astype(np.float32))
    save_nifti(folder / "labels" / f"{name}.nii.gz", label)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, cli: Cli) -> tuple[Path, str]:
    """A folder with data and a run, and what was printed."""
    folder = tmp_path_factory.mktemp("regions")
    for name in "abcd":
        write_case(folder / "data", name)
    config = folder / "tumour.yaml"
    config.write_text(yaml.safe_dump(SMALL))
    done = cli("train", config, "--data", folder / "data", "--run", folder / "run")
    return folder, done.stdout


def test_the_plan_says_what_is_written(trained: tuple[Path, str]) -> None:
    folder, printed = trained
    said = "whole (1+2+3) as 1, core (2+3) as 2, enhancing (3) as 3"
    assert f"regions, in the order of writing: {said}" in printed
    plan = yaml.safe_load((folder / "run" / "plan.yaml").read_text())
    assert [one["name"] for one in plan["classes"]] == NAMES
    assert plan["regions"] == [1, 2, 3]
    shown = run_info(folder / "run")
    assert "regions   whole (1+2+3), core (2+3), enhancing (3), written as 1, 2, 3" in shown


def test_validation_scores_regions(trained: tuple[Path, str]) -> None:
    rows = [json.loads(one) for one in (trained[0] / "run" / "log.jsonl").read_text().splitlines()]
    last = rows[-1]
    assert {tag for tag in last if tag.startswith("dice/")} == {
        *(f"dice/{name}" for name in NAMES), "dice/mean",
    }  # fmt: skip
    assert last["dice/mean"] > 0.8


def test_predictions_and_their_scores(trained: tuple[Path, str], cli: Cli) -> None:
    folder, _ = trained
    predictions = folder / "predictions"
    cli("predict", folder / "run", folder / "data" / "images", "--output", predictions,
        "--probabilities")  # fmt: skip
    assert json.loads((predictions / "labels.json").read_text()) == {
        "labels": {
            "background": [0], "whole": [1, 2, 3], "core": [2, 3], "enhancing": [3], "ignore": [9],
        },
        "regions_class_order": [1, 2, 3],
    }  # fmt: skip
    label, probabilities = (
        np.asarray(nib.load(predictions / f"a{part}.nii.gz").dataobj)
        for part in ("", "_probabilities")
    )
    assert probabilities.shape == (*SHAPE, 3)
    assert probabilities.min() >= 0 and probabilities.max() <= 1
    expected = np.zeros(SHAPE, label.dtype)
    for region, value in enumerate((1, 2, 3)):
        expected[probabilities[..., region] > 0.5] = value
    assert np.array_equal(label, expected) and set(np.unique(label)) == {0, 1, 2, 3}

    references = folder / "data" / "labels"
    shown = cli("evaluate", predictions, references, "--output", folder / "scores").stdout
    assert f"classes: {predictions / 'labels.json'}" in shown
    found = json.loads((folder / "scores" / "metrics.json").read_text())["summary"]
    assert [one["name"] for one in found.values()] == NAMES
    assert all(one["dice"]["mean"] > 0.8 for one in found.values())
    by_run = find_classes(predictions, references, run=folder / "run")
    assert replace(by_run, source="") == replace(find_classes(predictions, references), source="")

    one = Predictor.from_checkpoint(folder / "run", "cpu")
    image = folder / "data" / "images" / "a.nii.gz"
    assert np.array_equal(one.segment(image), label)
    np.testing.assert_allclose(
        one.probabilities(image), probabilities.transpose(3, 0, 1, 2), atol=1e-6
    )


def test_it_goes_on_with_the_same_regions(trained: tuple[Path, str], cli: Cli) -> None:
    folder, _ = trained
    again = "--run", folder / "run", "--data", folder / "data", "--resume"
    order = "data.regions_class_order=[3, 2, 3]"
    refused = cli("train", folder / "tumour.yaml", *again, "--set", order, status=2)
    assert "data.regions_class_order cannot change" in refused.stderr


def test_later_regions_are_written_over_earlier_ones() -> None:
    regions = [one.model_copy(update={"name": "r"}) for one in classes([5, 2], [2], [300, 2])]
    plan = small_plan(classes=regions, regions=[5, 2, 300])
    decision = Decision(plan)
    scores = torch.tensor(
        [[-1.0, 2.0, 2.0, 2.0, -1.0], [-2.0, -1.0, 1.0, 3.0, 9.0], [-1.0, -1.0, -1.0, 0.1, -1.0]]
    )
    numbers = decision.of_scores(scores)
    assert decision.values[numbers.numpy()].tolist() == [0, 5, 2, 300, 2]
    decision.make_ready(scores)
    assert decision.labels(scores).tolist() == [0, 5, 2, 300, 2]


def test_validation_counts_labelled_voxels_of_regions(tmp_path: Path) -> None:
    """Scores that are the label itself are right wherever there is one."""
    generator = np.random.default_rng(0)
    label = generator.integers(0, 4, (16, 16, 16)).astype(np.uint8)
    image = np.where(label == 2, 0, label).astype(np.float32)  # 2 is missed
    label[:5] = 9
    files = (save_nifti(tmp_path / f"{name}.nii", one) for name, one in
             (("image", image), ("label", label)))  # fmt: skip
    image_file, label_file = files
    regions = classes([1, 2, 3], [2, 3])
    plan = small_plan(classes=regions, regions=[1, 3], ignore=[9])

    class Known(torch.nn.Module):
        """In a region where the image has one of its values."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([x - 0.5, x - 1.5], 1)

    how = {"overlap": 0.0, "dtype": torch.float32, "stop": StopRequest(None)}
    case = Case("a", (image_file,), label_file)
    found = validate(Known(), plan, [case], **how)
    assert found is not None
    known = label[5:]
    for name, values in (("class 0", [1, 2, 3]), ("class 1", [2, 3])):
        truth = np.isin(known, values)
        ours = truth & (known != 2)
        expected = 2 * (truth & ours).sum() / (truth.sum() + ours.sum())
        assert found.dice[name] == pytest.approx(expected)
    assert found.picture is not None
    assert (
        sum(one.numel() for one in build_network(small_config(), plan).heads[0].parameters()) == 10
    )
