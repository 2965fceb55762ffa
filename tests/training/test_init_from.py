"""Training that begins with weights of another run, through the real command line."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from rich.console import Console

import seg3d
from seg3d.common.errors import UserError
from seg3d.config import load_config
from seg3d.plan import build_network
from seg3d.runs.checkpoint import load_checkpoint
from seg3d.training.planning import show_plan
from seg3d.training.start_weights import read_start, take_weights
from tests.conftest import Cli, environment
from tests.plans import small_config, small_plan
from tests.volumes import affine_of, save_nifti

SHAPE = (20, 18, 16)
TRAIN = {
    "epochs": 1, "iterations_per_epoch": 3, "learning_rate": 0.02, "momentum": 0.9, "amp": "off",
}  # fmt: skip
FIRST = {
    "data": {"folds": 2, "workers": 0},
    "preprocess": {"spacing": [1, 1, 1.5], "intensity": "ct"},
    "patch": {"size": [16, 16, 8]},
    "network": {"channels": [4, 8]},
    "train": TRAIN,
    "validation": {"overlap": 0.0},
}
# Without network, patch, spacing and intensities.
SECOND = {"data": {"folds": 2, "workers": 0}, "train": TRAIN, "validation": {"overlap": 0.0}}


def write_data(folder: Path, classes: int, offset: float) -> Path:
    for name in "abcd":
        generator = np.random.default_rng(ord(name))
        label = np.zeros(SHAPE, np.uint8)
        for value in range(1, classes):
            label[4:14, 2 + 3 * value : 5 + 3 * value, 3:12] = value
        image = offset + 30.0 * label + generator.normal(0, 3, SHAPE)
        affine = affine_of((1, 1, 2))
        save_nifti(folder / "images" / f"{name}.nii.gz", image.astype(np.float32), affine)
        save_nifti(folder / "labels" / f"{name}.nii.gz", label, affine)
    return folder


def written(path: Path, tree: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(tree))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, cli: Cli) -> Path:
    """Two datasets, of two and of three classes, and a run on the first."""
    folder = tmp_path_factory.mktemp("begun")
    write_data(folder / "one", 2, 0)
    write_data(folder / "two", 3, 500)
    written(folder / "second.yaml", SECOND)
    first = written(folder / "first.yaml", FIRST)
    cli("train", first, "--data", folder / "one", "--run", folder / "first")
    return folder


def weights(run: Path, name: str = "last.pt") -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_checkpoint(run / "checkpoints" / name)[2]["network"]
    return found


def test_weights_and_plan_of_another_run(folder: Path, cli: Cli) -> None:
    run = folder / "tuned"
    begin = (
        "train", folder / "second.yaml", "--data", folder / "two", "--run", run,
        "--init-from", folder / "first",
    )  # fmt: skip
    settings = (
        "--set", "train.freeze=[encoder.*]", "--set", "train.lr_factors={decoder.*: 0.5}",
        "--set", "preprocess.intensity=zscore",
    )  # fmt: skip
    done = cli(*begin, *settings)
    best = folder / "first" / "checkpoints" / "best.pt"
    count = len(weights(folder / "first"))
    assert f"weights from {best}: {count - 2} of {count} tensors" in done.stdout
    assert "made anew: heads.0 (heads.0.weight is [2, 4, 1, 1, 1] there and [3," in done.stdout
    assert done.stderr == ""
    ours, theirs = (
        yaml.safe_load((folder / name / "plan.yaml").read_text()) for name in ("tuned", "first")
    )
    for key in ("patch_size", "spacing", "strides", "kernels", "features", "orientation"):
        assert ours[key] == theirs[key]
    assert [one["kind"] for one in ours["channels"]] == ["zscore"]
    assert ours["classes"] != theirs["classes"]
    stored = yaml.safe_load((run / "config.yaml").read_text())
    assert stored["network"]["channels"] == [4, 8]

    before, after = weights(folder / "first", "best.pt"), weights(run)
    for name, one in after.items():
        if name.startswith("encoder"):
            assert torch.equal(one, before[name]), name
    assert not torch.equal(after["decoder.0.0.conv.weight"], before["decoder.0.0.conv.weight"])

    # The start is the run's own: what it began with may be gone, and may not be changed.
    moved = folder / "first_moved"
    (folder / "first").rename(moved)
    try:
        more = "--resume", "--set", "train.epochs=2"
        done = cli(*begin, *more)
        assert "weights from" not in done.stdout and "finished" in done.stdout
        for changed in ({"init_from": moved}, {"overrides": ["train.freeze=[]"]}):
            with pytest.raises(UserError, match="cannot change when a run is resumed"):
                seg3d.train(folder / "second.yaml", data=folder / "two", run=run, resume=True,
                            **changed)  # fmt: skip
        with pytest.raises(UserError, match="first does not exist"):
            seg3d.train(folder / "second.yaml", data=folder / "two", run=folder / "new",
                        init_from=folder / "first")  # fmt: skip
        assert not (folder / "new").exists()
    finally:
        moved.rename(folder / "first")
    for name, one in weights(run).items():
        if name.startswith("encoder"):
            assert torch.equal(one, before[name]), name


def test_a_plan_with_frozen_layers_takes_less(folder: Path, cli: Cli) -> None:
    checkpoint = folder / "first" / "checkpoints" / "last.pt"
    settings = "patch.size=[64,64,32]", "probing.bits=1"
    options = [word for one in settings for word in ("--set", one)]
    data = "--data", folder / "two", "--init-from", checkpoint
    whole = cli("plan", folder / "second.yaml", *data, "--device", "cpu", *options).stdout
    given = f"data.folder={folder / 'two'}", f"train.init_from={checkpoint}"
    console = Console(file=io.StringIO(), width=200)
    config = load_config(folder / "second.yaml", (*settings, *given, "train.freeze=[encoder.*]"))
    show_plan(config, torch.device("cpu"), console, None)
    frozen = console.file.getvalue()  # type: ignore[attr-defined]

    def of(shown: str, part: str) -> float:
        [line] = [line for line in shown.splitlines() if part in line]
        number, unit = line.split()[-2:]
        return float(number) * {"KiB": 1, "MiB": 1024, "GiB": 1024**2}[unit]

    for part in ("this plan", "kept by layers", "weights, optimiser"):
        assert of(frozen, part) < of(whole, part), part
    assert "patch 64 × 64 × 32 voxels, 2 levels" in whole


def test_processes_of_torchrun_begin_with_the_same_weights(folder: Path) -> None:
    run = folder / "together"
    started = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
            "-m", "seg3d", "train", str(folder / "second.yaml"), "--data", str(folder / "two"),
            "--run-folder", str(run), "--init-from", str(folder / "first"), "--device", "cpu",
            "--set", "train.freeze=[encoder.*, up.*]",
        ],
        capture_output=True, text=True, env=environment(), timeout=300,
    )  # fmt: skip
    assert started.returncode == 0, started.stderr
    assert started.stdout.count("weights from") == 1
    before, after = weights(folder / "first", "best.pt"), weights(run)
    kept = [name for name in after if name.startswith(("encoder", "up"))]
    assert kept and all(torch.equal(after[name], before[name]) for name in kept)
    last = json.loads((run / "log.jsonl").read_text().splitlines()[-1])
    assert np.isfinite(last["loss/loss"])


def test_layers_of_other_channels_are_made_anew(folder: Path) -> None:
    start = read_start(folder / "first")
    shape = {"channels": small_plan().channels * 2, "features": [4, 8]}
    torch.manual_seed(3)
    network = build_network(small_config(), small_plan(**shape))
    before = {name: one.clone() for name, one in network.state_dict().items()}
    start.weights["decoder.0.0.norm.bias"].add_(1)
    said = take_weights(network, start)
    first = "encoder.0.0.conv (encoder.0.0.conv.weight is [4, 1, 3, 3, 3] there and [4, 2, 3, 3, 3]"
    assert first in said and "heads.0" in said
    after = network.state_dict()
    # A layer is taken or made anew as a whole.
    assert torch.equal(after["encoder.0.0.conv.bias"], before["encoder.0.0.conv.bias"])
    assert torch.equal(after["decoder.0.0.norm.bias"], start.weights["decoder.0.0.norm.bias"])


def test_weights_that_fit_nothing(folder: Path, tmp_path: Path) -> None:
    network = build_network(small_config(), small_plan(features=[3, 5]))
    with pytest.raises(UserError, match="no weight of .* fits the network"):
        take_weights(network, read_start(folder / "first"))
    shutil.copy(folder / "second.yaml", tmp_path / "damaged.pt")
    with pytest.raises(UserError, match="damaged or not a checkpoint"):
        read_start(tmp_path / "damaged.pt")
    with pytest.raises(UserError, match="holds no checkpoint"):
        read_start(tmp_path)
