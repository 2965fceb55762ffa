"""Training that goes on with the weights of nnU-Net's models, on data as they know them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from seg3d.nnunet import import_nnunet
from seg3d.prediction.models import load_model
from seg3d.prediction.predictor import Predictor
from seg3d.runs.checkpoint import load_checkpoint
from tests.conftest import Cli
from tests.nnunet.conftest import MODELS, expected, scan_of

CONFIG = {
    "data": {"folds": 2, "workers": 0},
    "train": {"epochs": 1, "iterations_per_epoch": 2, "learning_rate": 1e-9, "amp": "off"},
    "validation": {"overlap": 0.5},
}


def dataset(folder: Path, name: str) -> Path:
    """The scan of a model twice, labelled as nnU-Net labels it, in nnU-Net's layout."""
    model = MODELS / name
    (folder / "imagesTr").mkdir(parents=True)
    (folder / "labelsTr").mkdir()
    for case in "ab":
        for scan in scan_of(name):
            shutil.copy(scan, folder / "imagesTr" / scan.name.replace("scan", case))
        shutil.copy(model / "expected.nii.gz", folder / "labelsTr" / f"{case}.nii.gz")
    content = json.loads((model / "model" / "dataset.json").read_text())
    content["numTraining"] = 2
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(("name", "imported"), [("transposed", False), ("regions", True)])
def test_it_begins_where_nnunet_has_ended(
    tmp_path: Path, cli: Cli, name: str, imported: bool
) -> None:
    model, config, run = MODELS / name / "model", tmp_path / "config.yaml", tmp_path / "run"
    start = tmp_path / "imported" if imported else model
    if imported:
        import_nnunet(model, start)
    config.write_text(yaml.safe_dump(CONFIG))
    done = cli(
        "train", config, "--data", dataset(tmp_path / "data", name), "--run", run,
        "--init-from", start, "--device", "cpu",
    )  # fmt: skip
    assert "made anew" not in done.stdout + done.stderr
    theirs = load_model(model)
    _, plan, content = load_checkpoint(run / "checkpoints" / "last.pt")
    for key in ("nnunet", "spacing", "patch_size", "features", "kernels", "strides", "blocks"):
        assert getattr(plan, key) == getattr(theirs.plan, key), key
    assert [one.kind for one in plan.channels] == [one.kind for one in theirs.plan.channels]
    for weight, key in zip(theirs.network.parameters(), content["network"], strict=True):
        torch.testing.assert_close(content["network"][key], weight, atol=1e-4, rtol=1e-3)
    # Validation compares with nnU-Net's predictions on the network's grid, to whose voxels they are
    # brought: small things lose some of theirs.
    assert content["position"]["best_dice"] > 0.9
    found = Predictor.from_checkpoint(run, "cpu").segment(scan_of(name))
    assert (found == expected(name, mirrored=False)).mean() > 0.99


def test_training_by_plans_without_a_model(tmp_path: Path, cli: Cli) -> None:
    """Network, patch and rules are those of a model that nnU-Net has trained by these plans."""
    folder = tmp_path / "preprocessed"
    folder.mkdir()
    model = MODELS / "anisotropic" / "model"
    shutil.copy(model / "plans.json", folder / "nnUNetPlans.json")
    config, run = tmp_path / "config.yaml", tmp_path / "run"
    config.write_text(yaml.safe_dump(CONFIG))
    arguments = (
        "train", config, "--data", dataset(tmp_path / "data", "anisotropic"), "--run", run,
        "--device", "cpu", "--set", f"plan.file={folder / 'nnUNetPlans.json'}",
    )  # fmt: skip
    assert "dataset.json" in cli(*arguments, status=2).stderr
    assert not run.exists()
    shutil.copy(model / "dataset.json", folder)
    cli(*arguments)
    theirs = load_model(model).plan
    _, plan, _ = load_checkpoint(run / "checkpoints" / "last.pt")
    for key in ("nnunet", "spacing", "patch_size", "features", "kernels", "strides", "channels"):
        assert getattr(plan, key) == getattr(theirs, key), key
