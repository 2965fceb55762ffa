"""The benchmark for GPUs, tried out on a CPU at toy size."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from seg3d.benchmarks.gpu.agreement import agreement
from seg3d.benchmarks.gpu.blocks import blocks
from seg3d.benchmarks.gpu.check import check_gpu
from seg3d.benchmarks.gpu.largest import _largest
from seg3d.benchmarks.gpu.scale import TOY, UNET
from tests.conftest import ROOT, Cli, environment

CPU = torch.device("cpu")
PLAIN, OURS, AUTO = "plain", "seg3d, 1 bit", "seg3d, auto"


def test_every_block_runs_and_leaves_its_results(tmp_path: Path) -> None:
    output = tmp_path / "gpu.json"
    command = [sys.executable, ROOT / "scripts" / "bench_gpu", "--device", "cpu", "--toy"]
    done = subprocess.run(
        [*command, "--output", output], capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(output.read_text(encoding="utf-8"))
    blocks_found = {name: block for name, block in found.items() if isinstance(block, dict)}
    assert not [name for name, block in blocks_found.items() if "failed" in block]
    steps = found["steps"]
    tiny = steps["a tiny network, 16³, batch of 1"]["rows"]
    assert [row["method"] for row in tiny] == [PLAIN, OURS, AUTO, "checkpoint-stages"]
    assert all(row["seconds"] >= row["queued_seconds"] > 0 for row in tiny)
    assert tiny[0]["times_plain"] == 1
    residual = steps["a tiny residual network, 16³, batch of 1"]["rows"]
    assert [row["times_plain"] > 0 for row in residual] == [True, True]
    peaks = {name: row["predicted_gib"] for name, row in found["peaks"].items() if "³" in name}
    title = "a tiny network, 16³, batch of 1: "
    assert peaks[title + OURS] < peaks[title + PLAIN]
    assert all(
        row["seconds"] > 0 for name, row in found["inference"].items() if name != "block_seconds"
    )
    scan = found["scan"]
    assert scan["seg3d, scores on the GPU"]["voxels_that_differ"] == 0
    # In bf16 the two networks round otherwise; scores of an untrained one are nearly equal.
    assert scan["MONAI, scores in RAM"]["voxels_that_differ"] < 0.01 * TOY.scan[0] ** 3
    assert found["passes"].keys() > {"statistics, 1 bits", "surrogate, 4 bits"}
    assert found["profile"][OURS]["functions"]
    for name in ("agreement", "agreement of all"):
        assert found[name]["right"] and found[name]["cases"]


def test_a_block_that_fails_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("no such kernel")

    scale = replace(TOY, steps=TOY.steps[:2])
    monkeypatch.setattr("seg3d.benchmarks.gpu.blocks.profiled", broken)
    found = {}
    for name, block in blocks(CPU, scale):
        found[name] = block
        if name == "passes":
            break
    assert found["profile"]["failed"] == "RuntimeError: no such kernel"
    assert found["passes"]["statistics, 1 bits"] > 0


@pytest.mark.parametrize("wrong", ["output", "second run"])
def test_wrong_kernels_are_found(wrong: str) -> None:
    """Of a pass that adds a thousandth, always or at every other call."""
    from seg3d.probing.kernels.cpu import passes

    calls = 0
    right = passes.normalise

    def normalise(encoder: Any, y: Any, z: Any, columns: Any) -> None:
        nonlocal calls
        calls += 1
        right(encoder, y, z, columns)
        if wrong == "output" or calls % 2:
            z += 0.1 if wrong == "output" else 0.001

    with mock.patch.object(passes, "normalise", normalise):
        found = agreement(CPU, TOY, short=True)
    assert not found["right"]
    usual = next(iter(found["cases"].values()))
    assert usual[wrong] > 1


@pytest.mark.parametrize("limit", [0, 7, 8, 31, 40])
def test_the_largest_cube_is_found(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "seg3d.benchmarks.gpu.largest.trains", lambda device, net, name, edge: edge <= limit
    )
    assert _largest(CPU, UNET, PLAIN, (8, 32)) == min(limit // 8 * 8, 32)


def test_what_a_user_is_told() -> None:
    right, words = check_gpu(CPU, TOY, TOY.first)
    assert right
    assert words[0].startswith("The kernels compute what PyTorch does")
    assert "times as long as plainly" in words[1]


def test_without_a_gpu_there_is_nothing_to_check(cli: Cli) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    done = cli("check-gpu", status=2)
    assert "there is no GPU to be checked" in done.stderr
