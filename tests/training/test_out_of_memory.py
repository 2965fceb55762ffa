"""A step for which there is no memory: what is told, and how the run goes on."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.conftest import Cli, command, environment

resource = pytest.importorskip("resource")

SETTINGS = {
    "patch": {"size": [192, 192, 192]},
    "network": {"channels": [128, 8]},
    "augment": {},
    "data": {"workers": 0},
    "probing": {"bits": 1},
    "train": {"epochs": 1, "iterations_per_epoch": 1},
    "validation": {"overlap": 0.0},
}
# More than importing PyTorch takes, and less than a tensor of the finest level.
ADDRESSES = 6 * 2**30


def test_out_of_memory_tells_what_would_help_and_the_run_goes_on(
    brain: Path, tmp_path: Path, cli: Cli
) -> None:
    config, run = tmp_path / "wide.yaml", tmp_path / "run"
    config.write_text(yaml.safe_dump(SETTINGS))
    arguments = ["train", config, "--data", brain, "--run", run, "--device", "cpu"]
    failed = subprocess.run(
        command(*arguments),
        env=environment(),
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES)),
        timeout=300,
    )
    assert failed.returncode == 1, failed.stderr
    lines = failed.stderr.splitlines()
    assert lines[0] == "failed: out of memory in a training step"
    peak = r"(\d+\.\d\d) (MiB|GiB)"
    assert re.fullmatch(rf"  predicted to take {peak} at its peak; {peak} had been taken", lines[1])
    assert lines[2] == "  to do: --resume with one of these, each with its predicted peak:"
    assert re.fullmatch(rf"    --set probing.streamed=true  {peak}", lines[3])
    assert re.fullmatch(rf"    --set patch.size=\[144,144,144\]  {peak}", lines[4])
    assert re.fullmatch(rf"    --set probing.bits=0.125  {peak}", lines[5])
    assert lines[6] == "  or a new run with:"
    assert re.fullmatch(rf"    --set train.batch_size=1  {peak}", lines[7])
    assert len(lines) == 8
    uneven = cli(*arguments, "--resume", "--set", "patch.size=[31,32,32]", status=2)
    assert "given: [31, 32, 32]" in uneven.stderr
    assert "use [30, 32, 32] or [32, 32, 32]" in uneven.stderr
    # Smaller than what was proposed, for the sake of the test's time.
    cli(*arguments, "--resume", "--set", "patch.size=[16,16,16]")
    assert yaml.safe_load((run / "plan.yaml").read_text())["patch_size"] == [16, 16, 16]
    assert len((run / "log.jsonl").read_text().splitlines()) >= 1
    assert "loss/loss" in json.loads((run / "log.jsonl").read_text().splitlines()[-1])
