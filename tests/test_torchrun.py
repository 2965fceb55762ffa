"""Several processes as a person starts them: ``torchrun -m seg3d``, with what may end them."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import psutil
import pytest
import torch
import yaml
from rich.console import Console

import seg3d
from tests.conftest import environment
from tests.plans import only
from tests.volumes import save_nifti

# Seconds within which all processes have ended after one of them has.
LONGEST_END = 60
STEPS = 10


@pytest.fixture(scope="module")
def cubes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three noisy volumes with a cube in each, the second one the largest."""
    folder = tmp_path_factory.mktemp("cubes")
    random = np.random.default_rng(0)
    for case in range(3):
        label = np.zeros((18, 17, 32 if case == 1 else 16), np.uint8)
        label[5 : 11 + case, 4:11, 3:12] = 1
        image = (50 * label + random.normal(0, 20, label.shape)).astype(np.int16)
        save_nifti(folder / "images" / f"case_{case}.nii.gz", image)
        save_nifti(folder / "labels" / f"case_{case}.nii.gz", label)
    return folder


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "small.yaml"
    tree = {
        "data": {"workers": 1, "folds": 2},
        "augment": only(),
        "preprocess": {"spacing": "none"},
        "patch": {"size": [16, 16, 16]},
        "network": {"channels": [3, 4]},
        "train": {"epochs": 500, "iterations_per_epoch": STEPS},
        "validation": {"every": 2, "overlap": 0.0},
    }
    path.write_text(yaml.safe_dump(tree))
    return path


def torchrun(*arguments: object, processes: int = 2) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
        + ["-m", "seg3d", *map(str, arguments)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(started: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Status, output and errors."""
    output, errors = started.communicate(timeout=240)
    return started.returncode, output, errors


def epochs(run: Path) -> int:
    log = run / "log.jsonl"
    rows = log.read_text().splitlines() if log.exists() else []
    return max((json.loads(row)["epoch"] for row in rows if "loss" in row), default=0)


def ended_in_training(
    started: subprocess.Popen[str], run: Path, end: Callable[[], None]
) -> tuple[int, str, str]:
    """How it ends when something happens after its first epoch."""
    first = epochs(run)
    deadline = time.monotonic() + 200
    while epochs(run) < first + 1:
        assert started.poll() is None, started.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    end()
    began = time.monotonic()
    found = ended(started)
    assert time.monotonic() - began < LONGEST_END
    return found


def process_of(started: subprocess.Popen[str], rank: int) -> int:
    children = psutil.Process(started.pid).children()
    return next(one.pid for one in children if one.environ().get("RANK") == str(rank))


def test_an_error_is_said_once(tmp_path: Path, config: Path, cubes: Path) -> None:
    run = tmp_path / "run"
    status, output, errors = ended(
        torchrun("train", config, "--data", cubes, "--run-folder", run, "--set", "train.epoch=1")
    )
    assert (status, output) == (2, "")
    assert errors.startswith("error: --set: train.epoch is not a key; did you mean train.epochs?\n")
    assert len(errors.splitlines()) == 2
    assert not run.exists()


def test_when_one_process_dies_all_end_and_the_run_goes_on_with_any_number(
    tmp_path: Path, config: Path, cubes: Path
) -> None:
    run = tmp_path / "run"
    started = torchrun("train", config, "--data", cubes, "--run-folder", run)
    status, output, errors = ended_in_training(
        started, run, lambda: os.kill(process_of(started, 1), signal.SIGKILL)
    )
    assert status == 1
    shares = "2 processes with 2 patches each, 4 a step"
    assert output.count(f"training step 1 to 5000 on cpu, float32, {shares}\n") == 1
    assert errors == (
        "failed: process 1 was ended by SIGKILL, perhaps for lack of memory\n"
        "  to do: --resume goes on from what was done\n"
    )
    before = torch.load(run / "checkpoints" / "last.pt", weights_only=True)["position"]
    assert before["step"] >= STEPS
    assert before["patches"] == 4 * before["step"]

    console = Console(file=io.StringIO(), width=1000)
    last = before["epochs_done"] + 1
    seg3d.train(
        config,
        data=cubes,
        run=run,
        device="cpu",
        resume=True,
        overrides=(f"train.epochs={last}",),
        console=console,
    )
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "Note: the run goes on with 1 process after 2: a step takes 2 patches" in printed
    after = torch.load(run / "checkpoints" / "last.pt", weights_only=True)["position"]
    assert after["epochs_done"] == last
    assert after["patches"] - before["patches"] == 2 * (after["step"] - before["step"])
    require_equal_predictions(run, cubes / "images", tmp_path)


def require_equal_predictions(run: Path, images: Path, folder: Path) -> None:
    """Of three volumes the largest is made by both processes, the others by one each."""
    status, output, errors = ended(torchrun("predict", run, images, "--output", folder / "two"))
    assert (status, errors) == (0, "")
    names = [f"case_{case}.nii.gz" for case in range(3)]
    assert sorted(output.split()) == [str(folder / "two" / name) for name in names]
    assert {one.name for one in (folder / "two").iterdir()} == {*names, "labels.json"}
    predictor = seg3d.Predictor.from_checkpoint(run, "cpu")
    for name in names:
        predicted = np.asarray(nib.load(folder / "two" / name).dataobj)
        np.testing.assert_array_equal(predicted, predictor.segment(images / name))
