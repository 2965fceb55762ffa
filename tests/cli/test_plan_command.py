"""``seg3d plan``, and training with the plan that it shows."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.conftest import Cli

SMALL = {
    "network": {"channels": [4, 8]},
    "train": {"epochs": 1, "iterations_per_epoch": 1, "batch_size": 1},
    "validation": {"overlap": 0.0},
}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "small.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    return path


def test_the_largest_patch_for_a_memory_is_shown_and_trained_with(
    cli: Cli, config: Path, brain: Path, tmp_path: Path
) -> None:
    shown = cli("plan", config, "--data", brain, "--memory", "12MiB", "--device", "cpu")
    assert shown.stderr == ""
    lines = shown.stdout.splitlines()
    patch = next(line for line in lines if line.startswith("  patch "))
    table = lines[lines.index(patch) + 1 :]
    assert table[0].startswith("memory: 12.00 MiB, of which 10.80 MiB may be filled; predicted:")
    assert patch.removeprefix("  patch ").partition(" voxels")[0] in table[1]
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
    arguments = ["train", config, "--data", brain, "--run", run, "--device", "cpu"]
    trained = cli(*arguments, "--set", "plan.memory=12MiB")
    assert set(lines) <= set(trained.stdout.splitlines())
    plan = yaml.safe_load((run / "plan.yaml").read_text())
    assert patch.startswith(f"  patch {' × '.join(map(str, plan['patch_size']))} voxels")
    changed = cli(*arguments, "--resume", "--set", "plan.memory=24MiB", status=2)
    assert "plan.memory cannot change when a run is resumed" in changed.stderr


def test_without_a_memory_the_plan_is_as_ever_and_its_peak_is_shown(
    cli: Cli, config: Path, brain: Path
) -> None:
    shown = cli("plan", config, "--data", brain, "--set", "patch.size=[32,32,32]")
    assert "  patch 32 × 32 × 32 voxels, 2 levels\nmemory of a training step" in shown.stdout


@pytest.mark.parametrize(
    "memory, said",
    [
        ("1KiB", "plan.memory is too small for any patch\n  given: 1.00 KiB\n  legal: "),
        ("much", "plan.memory"),
        ("-1GiB", "plan.memory"),
    ],
)
def test_impossible_memories(cli: Cli, config: Path, brain: Path, memory: str, said: str) -> None:
    refused = cli("plan", config, "--data", brain, f"--memory={memory}", status=2)
    assert said in refused.stderr and refused.stderr.count("error:") == 1
