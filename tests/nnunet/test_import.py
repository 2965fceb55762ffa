"""A model of nnU-Net's becomes a run, with which everything goes on as with any other."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from seg3d.config import config_tree, load_config
from seg3d.io import read_volume, write_volume
from seg3d.plan import load_plan
from seg3d.prediction.predictor import Predictor
from tests.conftest import Cli
from tests.nnunet.conftest import MODELS, NAMES, expected, scan_of


def test_a_run_is_made_and_used(tmp_path: Path, cli: Cli) -> None:
    run, model = tmp_path / "run", MODELS / "isotropic" / "model"
    done = cli("import", model, "--run", run)
    assert [Path(line).name for line in done.stdout.split()] == [
        "config.yaml", "plan.yaml", "best.pt",
    ]  # fmt: skip
    info = cli("info", run).stdout
    assert "nnU-Net: Dataset001_isotropic, 3d_fullres, nnUNetTrainer" in info
    assert "2 of UNet3d" in info and "kidney (2)" in info
    overrides = ("predict.mirror=false",)
    ours, theirs = (Predictor.from_checkpoint(one, "cpu", overrides) for one in (run, model))
    labels = ours.segment(scan_of("isotropic"))
    np.testing.assert_array_equal(labels, theirs.segment(scan_of("isotropic")))
    assert config_tree(load_config(run / "config.yaml")) == config_tree(theirs.config) | {
        "predict": theirs.config.predict.model_dump(mode="json") | {"mirror": True}
    }
    assert load_plan(run / "plan.yaml") == theirs.plan

    volume = read_volume(scan_of("isotropic")[0])
    for folder in ("found", "references"):
        (tmp_path / folder).mkdir()
        write_volume(tmp_path / folder / "scan.nii.gz", labels[None], volume.header)
    cli("evaluate", tmp_path / "found", tmp_path / "references", "--run", run)
    metrics = json.loads((tmp_path / "found" / "metrics.json").read_text())
    assert "kidney" in json.dumps(metrics)

    refused = cli("import", model, "--run", run, status=2)
    assert "already holds a run" in refused.stderr
    refused = cli("predict", run, scan_of("isotropic")[0], "--output", tmp_path / "x.nii.gz",
                  "--set", "predict.folds=[7]", status=2)  # fmt: skip
    assert "no fold 7" in refused.stderr


@pytest.mark.parametrize("name", NAMES)
def test_every_model_can_be_imported(name: str, tmp_path: Path, cli: Cli) -> None:
    run = tmp_path / "run"
    cli("import", MODELS / name / "model", "--run", run)
    theirs = Predictor.from_checkpoint(MODELS / name / "model", "cpu")
    assert load_plan(run / "plan.yaml") == theirs.plan
    assert Predictor.from_checkpoint(run, "cpu").plan == theirs.plan


def test_what_is_no_model_is_not_imported(tmp_path: Path, cli: Cli) -> None:
    refused = cli("import", tmp_path, "--run", tmp_path / "run", status=2)
    assert "is no model of nnU-Net's" in refused.stderr
    assert not (tmp_path / "run").exists()
    refused = cli("import", tmp_path / "absent", "--run", tmp_path / "run", status=2)
    assert "does not exist" in refused.stderr


def test_training_does_not_overwrite_it(tmp_path: Path, cli: Cli) -> None:
    run = tmp_path / "run"
    cli("import", MODELS / "isotropic" / "model", "--run", run)
    before = (run / "checkpoints" / "best.pt").read_bytes()
    refused = cli("train", "demo_brain", "--data", tmp_path, "--run", run, status=2)
    assert "already holds a run" in refused.stderr
    assert (run / "checkpoints" / "best.pt").read_bytes() == before
    assert expected("isotropic", mirrored=True).any()
