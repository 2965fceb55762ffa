"""``seg3d plan``, and training with the plan that it shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from seg3d.cli import main
from tests.volumes import save_nifti

SMALL = {
    "network": {"channels": [4, 8]},
    "data": {"workers": 0, "folds": 2},
    "train": {"epochs": 1, "iterations_per_epoch": 1, "batch_size": 1},
    "validation": {"overlap": 0.0},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two noisy volumes with a cube in each, and a config."""
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    for case in "ab":
        label = np.zeros((40, 33, 20), np.uint8)
        label[5:21, 4:21, 3:12] = 1
        image = (50 * label + random.normal(0, 20, label.shape)).astype(np.int16)
        save_nifti(folder / "images" / f"{case}.nii.gz", image)
        save_nifti(folder / "labels" / f"{case}.nii.gz", label)
    (folder / "small.yaml").write_text(yaml.safe_dump(SMALL))
    return folder


def said(command: str, data: Path, *arguments: object, status: int = 0) -> str:
    """What a command prints, on whichever stream."""
    words = [command, data / "small.yaml", "--data", data, "--device", "cpu", *arguments]
    done = CliRunner(env={"COLUMNS": "200"}).invoke(main, list(map(str, words)))
    assert done.exit_code == status, done.output
    return done.output


def test_the_largest_patch_for_a_memory_is_shown_and_trained_with(
    data: Path, tmp_path: Path
) -> None:
    shown = said("plan", data, "--memory", "3MiB")
    lines = shown.splitlines()
    patch = next(line for line in lines if line.startswith("  patch "))
    table = lines[lines.index(patch) + 1 :]
    assert table[0].startswith("memory: 3.00 MiB, of which 2.70 MiB may be filled; predicted:")
    assert patch.endswith(", 2 levels, batch 1")
    assert f"1 of {patch.removeprefix('  patch ').partition(' voxels')[0]}" in table[1]
    assert [line[2:26].strip() for line in table[1:6]] == [
        "this plan",
        "weights, optimiser",
        "kept by layers",
        "kept by the loss",
        "working set",
    ]
    assert table[6].startswith("  next larger patch")
    assert table[7].startswith("  with exact gradients")
    run = tmp_path / "run"
    trained = said("train", data, "--run", run, "--set", "plan.memory=3MiB")
    assert set(lines) <= set(trained.splitlines())
    plan = yaml.safe_load((run / "plan.yaml").read_text())
    assert patch.startswith(f"  patch {' × '.join(map(str, plan['patch_size']))} voxels")
    changed = said("train", data, "--run", run, "--resume", "--set", "plan.memory=4MiB", status=2)
    assert "plan.memory cannot change when a run is resumed" in changed


def test_a_plan_is_written_changed_and_trained_by(data: Path, tmp_path: Path) -> None:
    mine, run = tmp_path / "mine.yaml", tmp_path / "run"
    shown = said("plan", data, "--set", "patch.size=[32,32,16]", "--output", mine)
    assert "  patch 32 × 32 × 16 voxels, 2 levels, batch 1\nmemory of a training step" in shown
    assert str(mine) in shown
    text = mine.read_text()
    mine.write_text(
        text.replace("patch_size: [32, 32, 16]", "patch_size: [16, 16, 8]")
        .replace("batch_size: 1", "batch_size: 3")
        .replace("features: [4, 8]", "features: [2, 6]")
    )
    by_mine = ("--set", f"plan.file={mine}")
    assert "Note: batch_size of the plan has no effect" in said("plan", data, *by_mine)
    auto = ("--set", "train.batch_size=auto")
    trained = said("train", data, "--run", run, *by_mine, *auto)
    assert "  patch 16 × 16 × 8 voxels, 2 levels, batch 3" in trained and "Note:" not in trained
    kept = run / "plan.yaml"
    assert kept.read_text() == mine.read_text()
    mine.unlink()
    said("train", data, "--run", run, "--resume", "--set", "train.epochs=2")
    kept.write_text(kept.read_text().replace("patch_size: [16,", "patch_size: [17,"))
    refused = said("plan", data, "--set", f"plan.file={kept}", status=2)
    assert f"error: patch_size in {kept} is not divisible" in refused
    assert "to do: use [16, 16, 8] or [18, 16, 8]" in refused
    assert "is a folder" in said("plan", data, "--output", tmp_path, status=2)


@pytest.mark.parametrize(
    "memory, words",
    [
        ("1KiB", "plan.memory is too small for any patch\n  given: 1.00 KiB\n  legal: "),
        ("much", "plan.memory"),
        ("-1GiB", "plan.memory"),
    ],
)
def test_impossible_memories(data: Path, memory: str, words: str) -> None:
    refused = said("plan", data, f"--memory={memory}", status=2)
    assert words in refused and refused.count("error:") == 1
