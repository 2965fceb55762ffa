"""A step for which there is no memory: what is told, and how the run goes on."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result

from seg3d.cli import main
from tests.conftest import command, environment
from tests.volumes import save_nifti

resource = pytest.importorskip("resource")

SETTINGS = {
    "patch": {"size": [160, 160, 160]},
    "network": {"channels": [256, 8]},
    "augment": {},
    "data": {"workers": 0, "folds": 2},
    "probing": {"bits": 1},
    "train": {"epochs": 1, "iterations_per_epoch": 1},
    "validation": {"overlap": 0.0},
}
# More than importing PyTorch takes, and less than a tensor of the finest level.
SETTINGS_NAMED = ("patch.size=[120,120,120]", "probing.bits=0.125", "probing.streamed=true")
ADDRESSES = 6 * 2**30


def test_out_of_memory_tells_what_would_help_and_the_run_goes_on(tmp_path: Path) -> None:
    label = np.zeros((16, 12, 8), np.uint8)
    label[4:9, 4:9, 2:6] = 1
    for case in "ab":
        save_nifti(tmp_path / "images" / f"{case}.nii.gz", 9 * label.astype(np.int16))
        save_nifti(tmp_path / "labels" / f"{case}.nii.gz", label)
    config, run = tmp_path / "wide.yaml", tmp_path / "run"
    config.write_text(yaml.safe_dump(SETTINGS))
    arguments = ["train", config, "--data", tmp_path, "--run", run, "--device", "cpu"]
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
    named = [
        next(name for name in SETTINGS_NAMED if line.startswith(f"    --set {name}"))
        for line in lines[3:6]
    ]
    assert sorted(named) == sorted(SETTINGS_NAMED)
    assert all(re.fullmatch(rf"    --set \S+  {peak}", line) for line in lines[3:6])
    assert lines[6] == "  or a new run with:"
    assert re.fullmatch(rf"    --set train.batch_size=1  {peak}", lines[7])
    assert len(lines) == 8

    def resumed(size: str) -> Result:
        words = [*arguments, "--resume", "--set", f"patch.size={size}"]
        return CliRunner().invoke(main, list(map(str, words)))

    uneven = resumed("[31,32,32]")
    assert uneven.exit_code == 2 and "given: [31, 32, 32]" in uneven.output
    assert "use [30, 32, 32] or [32, 32, 32]" in uneven.output
    # Smaller than what was proposed, for the sake of the test's time.
    assert resumed("[8,8,8]").exit_code == 0
    assert yaml.safe_load((run / "plan.yaml").read_text())["patch_size"] == [8, 8, 8]
    assert "loss/loss" in json.loads((run / "log.jsonl").read_text().splitlines()[-1])
