"""The whole way through the real command line, on both samples."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.conftest import ROOT, Cli, command, environment

EPOCHS, STEPS = 4, 6
SMALL = {
    "preprocess": {"spacing": "none"},
    "patch": {"size": [32, 32, 32]},
    "network": {"channels": [4, 8], "deep_supervision": True},
    "train": {"epochs": EPOCHS, "iterations_per_epoch": STEPS, "accumulate": 2, "seed": 11},
    "validation": {"every": 3, "overlap": 0.0},
    "predict": {"overlap": 0.0},
}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "small.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, cli: Cli, config: Path, brain: Path) -> Path:
    """A run that was never interrupted."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    done = cli("train", config, "--data", brain, "--run", folder)
    assert "cases: 3 with label, 1 for testing" in done.stdout
    assert f"finished: {folder}" in done.stdout
    assert done.stderr == ""
    return folder


def rows(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def timeless(row: dict[str, float]) -> dict[str, float]:
    return {tag: value for tag, value in row.items() if not tag.startswith(("speed/", "memory/"))}


def start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(*arguments),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for_middle_of_epoch(run: Path, epoch: int) -> None:
    """Return about half an epoch's time after the end of ``epoch``."""
    deadline = time.monotonic() + 120
    while not (run / "log.jsonl").exists() or len(rows(run)) < epoch:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    settings = yaml.safe_load((run / "config.yaml").read_text())["train"]
    patches = math.prod(
        settings[key] for key in ("iterations_per_epoch", "accumulate", "batch_size")
    )
    time.sleep(patches / rows(run)[-1]["speed/patches_per_second"] / 2)


def test_run_folder_holds_what_it_should(run: Path) -> None:
    names = {path.name for path in run.iterdir()}
    assert names == {
        ".lock",
        "cases.json",
        "checkpoints",
        "config.yaml",
        "log.jsonl",
        "plan.yaml",
        "splits.json",
        "tensorboard",
    }
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best.pt", "last.pt"}
    plan = yaml.safe_load((run / "plan.yaml").read_text())
    assert [one["name"] for one in plan["classes"]] == [
        "background",
        "CSF",
        "grey matter",
        "white matter",
    ]


def test_log_and_tensorboard_agree(run: Path) -> None:
    log = rows(run)
    assert [row["epoch"] for row in log] == [1, 2, 3, 4]
    # Validation every third epoch, and at the end.
    assert ["dice/mean" in row for row in log] == [False, False, True, True]
    assert {"dice/CSF", "dice/grey matter", "dice/white matter"} <= log[-1].keys()
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    for tag in log[-1].keys() - {"epoch"}:
        event = events.Scalars(tag)[-1]
        assert (event.step, event.value) == (4, pytest.approx(log[-1][tag], rel=1e-4, abs=1e-7))
    assert len(events.Images("validation")) == 2


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_resumed_run_has_the_checkpoints_of_an_uninterrupted_one(
    number: signal.Signals, tmp_path: Path, cli: Cli, config: Path, brain: Path, run: Path
) -> None:
    broken = tmp_path / "broken"
    process = start("train", config, "--data", brain, "--run", broken)
    wait_for_middle_of_epoch(broken, 2)
    # To the whole group, as terminals and batch systems do it.
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 130)
    position = torch.load(broken / "checkpoints" / "last.pt", weights_only=True)["position"]
    assert position["epochs_done"] == 2
    if number == signal.SIGKILL:
        assert position["step"] == 2 * STEPS
    else:
        assert errors == ""
        assert 2 * STEPS < position["step"] < 3 * STEPS

    cli("train", config, "--data", brain, "--run", broken, "--resume")
    for name in ("best.pt", "last.pt"):
        whole, resumed = (one / "checkpoints" / name for one in (run, broken))
        assert whole.read_bytes() == resumed.read_bytes()
    assert [timeless(row) for row in rows(broken)] == [timeless(row) for row in rows(run)]


def test_max_time_saves_and_ends_well(tmp_path: Path, cli: Cli, config: Path, brain: Path) -> None:
    done = cli(
        "train", config, "--data", brain, "--run", tmp_path / "run", "--set", "train.max_time=1s"
    )
    assert "out of time" in done.stdout
    assert "--resume" in done.stdout
    position = torch.load(tmp_path / "run/checkpoints/last.pt", weights_only=True)["position"]
    assert 0 < position["step"] < EPOCHS * STEPS


def test_predict_and_evaluate(run: Path, brain: Path, tmp_path: Path, cli: Cli) -> None:
    output = tmp_path / "predictions"
    cli("predict", run, brain / "imagesTs", "--output", output, "--probabilities")
    assert {path.name for path in output.iterdir()} == {
        "template.nii.gz",
        "template_probabilities.nii.gz",
        "labels.json",
    }
    image = nib.load(brain / "imagesTs" / "template.nii.gz")
    labels = nib.load(output / "template.nii.gz")
    assert labels.shape == image.shape
    assert labels.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(labels.affine, image.affine)
    for field in ("sform_code", "qform_code", "xyzt_units", "pixdim"):
        np.testing.assert_array_equal(labels.header[field], image.header[field])
    probabilities = np.asarray(nib.load(output / "template_probabilities.nii.gz").dataobj)
    assert probabilities.shape == (*image.shape, 4)
    np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-5)
    np.testing.assert_array_equal(probabilities.argmax(-1), np.asarray(labels.dataobj))

    done = cli("evaluate", output, brain / "labelsTs")
    metrics = json.loads((output / "metrics.json").read_text())
    assert list(metrics["cases"]) == ["template"]
    assert "grey matter" in done.stdout
    assert (output / "metrics.csv").is_file()


def test_checkpoint_alone_predicts_the_same(
    run: Path, brain: Path, tmp_path: Path, cli: Cli
) -> None:
    """Nothing but the file is needed, and the single-file form of --output works."""
    alone = tmp_path / "elsewhere.pt"
    alone.write_bytes((run / "checkpoints" / "best.pt").read_bytes())
    image = brain / "imagesTs" / "template.nii.gz"
    cli("predict", alone, image, "--output", tmp_path / "labels.nii.gz")
    cli("predict", run, image, "--output", tmp_path / "folder")
    one, other = (
        np.asarray(nib.load(path).dataobj)
        for path in (tmp_path / "labels.nii.gz", tmp_path / "folder" / "template.nii.gz")
    )
    np.testing.assert_array_equal(one, other)


def test_info_tells_how_a_run_stands(run: Path, cli: Cli) -> None:
    told = cli("info", run).stdout
    assert "epoch 4 of 4, step 24" in told
    assert "white matter (3)" in told
    assert "torch" in cli("info").stdout


def test_a_start_that_fails_leaves_nothing(
    tmp_path: Path, cli: Cli, config: Path, brain: Path
) -> None:
    mistakes = (
        "data.fold=9",
        "data.labels={CSF: 1}",
        "train.amp=fp16",
        "network={name: monai.SegResNet, filters: 8}",
    )
    for wrong in mistakes:
        folder = tmp_path / "run"
        done = cli("train", config, "--data", brain, "--run", folder, "--set", wrong, status=2)
        assert done.stderr.startswith("error: ")
        assert "Traceback" not in done.stderr
        assert not folder.exists()


def test_resuming_with_other_data_checks_them(
    run: Path, tmp_path: Path, cli: Cli, config: Path, brain: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(brain, other)
    label = other / "labelsTr" / "subject_001.nii.gz"
    image = nib.load(label)
    voxels = np.asarray(image.dataobj).copy()
    voxels[0, 0, 0] = 9
    nib.save(nib.nifti1.Nifti1Image(voxels, image.affine, image.header), label)
    again = tmp_path / "again"
    shutil.copytree(run, again)
    done = cli("train", config, "--data", other, "--run", again, "--resume", status=2)
    assert "the run was planned for MSD: " in done.stdout
    assert "subject_001.nii.gz holds label values that the dataset does not name" in done.stderr
    assert "9 (1 voxels)" in done.stderr


def test_chest_ct(tmp_path: Path, cli: Cli) -> None:
    """The CT sample with its config: thick slices, seven classes, one case."""
    # Longer than a line: paths are to be copied.
    folder = tmp_path / ("run" * 80)
    done = cli(
        "train",
        ROOT / "configs" / "medical_ct.yaml",
        "--data",
        ROOT / "data" / "chest_ct",
        "--run",
        folder,
        *("--set", "patch.voxels=20000"),
        *("--set", "network.channels=[4, 8, 8]"),
        *("--set", "train.epochs=1"),
        *("--set", "train.iterations_per_epoch=2"),
    )
    assert "one labelled case only" in done.stdout
    assert f"tensorboard --logdir {folder}\n" in done.stdout
    plan = yaml.safe_load((folder / "plan.yaml").read_text())
    assert plan["channels"][0]["kind"] == "ct"
    assert len(plan["classes"]) == 8
    # 10 mm slices of 3 mm voxels: no pooling across slices at first.
    assert plan["strides"][1] == [2, 2, 1]
    image = ROOT / "data" / "chest_ct" / "imagesTr" / "chest.nii.gz"
    cli("predict", folder, image, "--output", tmp_path / "labels", "--set", "predict.overlap=0")
    done = cli("evaluate", tmp_path / "labels", ROOT / "data" / "chest_ct" / "labelsTr")
    assert "right lung" in done.stdout
    cli("train", ROOT / "configs" / "medical_ct.yaml", "--run", folder, "--resume")
