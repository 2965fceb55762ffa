"""The benchmark of step times: both allocators are measured, and both are shown."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch

from seg3d.benchmarks import speed
from seg3d.benchmarks.allocators import KEPT, SETTINGS, SYSTEM, legal_allocators
from tests.conftest import ROOT

METHODS = ("plain", "seg3d, 1 bit")


@pytest.mark.skipif(len(legal_allocators(torch.device("cpu"))) < 2, reason="needs glibc")
def test_times_with_both_allocators(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script, output = ROOT / "scripts" / "bench_speed", tmp_path / "speed.json"
    toy = [
        "--device",
        "cpu",
        "--size",
        "8",
        "--batch",
        "1",
        "--channels",
        "2",
        "4",
        "--rounds",
        "1",
    ]
    monkeypatch.setattr(sys, "argv", [str(script), *toy, "--methods", *METHODS])
    sys.argv += ["--output", str(output)]
    # What is set already does not reach the run that shows the system as it comes.
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    runpy.run_path(str(script), run_name="__main__")
    results = json.loads(output.read_text())
    assert results["size"] == 8 and "bench_speed" in results["command"]
    assert {name: one["environment"] for name, one in results["allocators"].items()} == {
        KEPT: SETTINGS,
        SYSTEM: {},
    }
    for found in results["allocators"].values():
        # With the kernels for CPUs, and the same again without.
        assert list(found["network"]) == [*METHODS, "seg3d, 1 bit, no kernels"]
        assert found["network"]["plain"]["times_plain"] == 1
        assert all(one["seconds"] > 0 for one in found["network"].values())
        assert set(found["units"]) == {"2 channels, 8³", "4 channels, 4³"}
    assert capsys.readouterr().out.count(f"{SYSTEM}: seconds") == 3


def test_the_worse_of_both_ratios_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    def found(plain: float, sketched: float) -> dict[str, object]:
        times = {
            "plain": {"seconds": plain, "times_plain": 1.0},
            "seg3d": {"seconds": sketched, "times_plain": sketched / plain},
            "alone": {"seconds": 7.0, "times_plain": None},
        }
        return {"network": times, "units": {}}

    allocators = {KEPT: found(2, 3.5), SYSTEM: found(5, 4)}
    speed.show({"size": 64, "batch": 2, "channels": [4, 8], "allocators": allocators})
    shown = capsys.readouterr().out
    rows = [line.replace("│", " ").split() for line in shown.splitlines() if "│" in line]
    assert rows == [
        ["plain", "2.000", "1.00", "5.000", "1.00", "1.00"],
        ["seg3d", "3.500", "1.75", "4.000", "0.80", "1.75"],
        ["alone", "7.000", "7.000"],
    ]


def test_what_is_compared_unless_others_are_asked_for() -> None:
    cpu = torch.device("cpu")
    assert set(speed.usual_methods(cpu, amp=False)) == set(speed.USUAL_ON_CPU)
    assert set(speed.usual_methods(cpu, amp=True)) < set(speed.USUAL_ON_CPU)
    gpu = torch.device("cuda")
    assert speed.usual_methods(gpu, amp=False) == speed.legal_methods(gpu, amp=False)
