"""A model of nnU-Net's becomes a run, with which everything goes on as with any other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from seg3d.common.errors import UserError
from seg3d.config import load_config
from seg3d.evaluation import find_classes
from seg3d.info import run_info
from seg3d.nnunet import import_nnunet
from seg3d.plan import load_plan
from seg3d.prediction.models import load_model
from seg3d.prediction.predictor import Predictor
from seg3d.runs.run_folder import Run, require_new_run
from tests.conftest import Cli
from tests.nnunet.conftest import MODELS, NAMES, scan_of


def test_the_command_line_makes_a_run(tmp_path: Path, cli: Cli) -> None:
    run, model = tmp_path / "runs" / "one", MODELS / "isotropic" / "model"
    done = cli("import", model, "--run", run)
    assert [Path(line).relative_to(run).as_posix() for line in done.stdout.split()] == [
        "config.yaml", "plan.yaml", "checkpoints/best.pt",
    ]  # fmt: skip
    info = run_info(run)
    assert "_isotropic, 3d_fullres, nnUNetTrainer" in info and "nnU-Net: Dataset" in info
    assert "2 of UNet3d" in info and "kidney (2)" in info and "epoch 2 of 1000" in info
    assert find_classes("absent", "absent", run=run).names[3] == "stone"
    overrides = ("predict.mirror=false",)
    ours, theirs = (Predictor.from_checkpoint(one, "cpu", overrides) for one in (run, model))
    scan = scan_of("isotropic")
    np.testing.assert_array_equal(ours.segment(scan), theirs.segment(scan))
    with pytest.raises(UserError, match="no fold 7"):
        load_model(run, ("predict.folds=[7]",))
    assert not hasattr(load_model(run, ("predict.folds=[1]",)).network, "__len__")


@pytest.mark.parametrize("name", NAMES)
def test_every_model_can_be_imported(name: str, tmp_path: Path) -> None:
    config, plan, checkpoint = import_nnunet(MODELS / name / "model", tmp_path / "run")
    theirs = load_model(MODELS / name / "model")
    for ours in (load_model(tmp_path / "run"), load_model(checkpoint)):
        assert ours.config == theirs.config == load_config(config)
        assert ours.plan == theirs.plan == load_plan(plan)
        for one, other in zip(ours.network.parameters(), theirs.network.parameters(), strict=True):
            assert torch.equal(one, other)


def test_a_run_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    model, run = MODELS / "old" / "model", tmp_path / "run"
    *_, checkpoint = import_nnunet(model, run)
    before = checkpoint.read_bytes()
    with pytest.raises(UserError, match="already holds a run"):
        import_nnunet(model, run)
    with pytest.raises(UserError, match="already holds a run"):
        require_new_run(Run(run))
    assert checkpoint.read_bytes() == before


def test_what_is_no_model_is_not_imported(tmp_path: Path) -> None:
    for path, said in ((tmp_path, "is no model of nnU-Net's"), (tmp_path / "x", "does not exist")):
        with pytest.raises(UserError, match=said):
            import_nnunet(path, tmp_path / "run")
    assert not (tmp_path / "run").exists()
