"""The benchmark for GPUs, tried out on a CPU at toy size."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT, environment


def test_every_block_runs_and_leaves_its_results(tmp_path: Path) -> None:
    output = tmp_path / "gpu.json"
    command = [sys.executable, ROOT / "scripts" / "bench_gpu", "--device", "cpu", "--toy"]
    done = subprocess.run(
        [*command, "--output", output], capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(output.read_text(encoding="utf-8"))
    rows = found["steps of 16³"]["rows"]
    assert [row["method"] for row in rows] == ["plain", "seg3d, 1 bit", "checkpoint-stages"]
    assert all(row["seconds"] > 0 for row in rows)
    assert rows[0]["times_plain"] == 1
    peaks = found["predicted peaks"]
    assert peaks["16³, batch 1, seg3d, 1 bit"] < peaks["16³, batch 1, plain"]
    assert set(found["inference"]) == {"plain", "seg3d, 1 bit"}
    assert "rivals" in found
    passes = found["passes"]
    assert passes.keys() > {"moments", "surrogate, 1 bits"} and all(x > 0 for x in passes.values())
    # Launches are counted on a GPU alone.
    assert found["profile"] == {}
