"""seg3d on systems other than the one that the tests run on, as far as can be told from here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from seg3d.runs.checkpoint import load_checkpoint
from tests.conftest import ROOT, Cli, environment
from tests.volumes import write_nifti

PROGRAM = [sys.executable, "-X", "warn_default_encoding", str(ROOT / "tests" / "without_unix.py")]
TINY = {
    "patch.size": "[16, 16, 16]",
    "network.channels": "[4, 8]",
    "data.workers": "2",
    "train.epochs": "1",
    "train.iterations_per_epoch": "2",
}


def without_unix(*commands: tuple[object, ...]) -> str:
    """What ``seg3d`` prints, in an old encoding, when it is given these commands one by one."""
    told = json.dumps([[str(word) for word in words] for words in commands])
    done = subprocess.run(
        [*PROGRAM, told], capture_output=True, encoding="latin-1", timeout=300,
        env=environment() | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "latin-1"},
    )  # fmt: skip
    assert done.returncode == 0, f"{done.args}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for number, name in enumerate(["images/a", "labels/a", "images/b", "labels/b"]):
        write_nifti(folder / f"{name}.nii.gz", (20, 24, 16), seed=number)
    return folder


def test_without_unix_and_with_workers_that_are_spawned(
    data: Path, tmp_path: Path, cli: Cli
) -> None:
    """A run's way is another one, over a cache on disk; its weights are the same."""
    settings = [word for key, value in TINY.items() for word in ("--set", f"{key}={value}")]
    train = ("train", "medical_ct", "--data", data, "--device", "cpu", *settings)
    run, other, predictions, volumes = (tmp_path / name for name in ("a", "b", "→", "d"))
    assert "in RAM" in cli(*train, "--run", run).stdout
    printed = without_unix(
        (*train, "--run", other),
        ("predict", other, data / "images", "--output", predictions),
        ("synth", "layers", "--out", volumes, "--count", 2, "--shape", 16, 16, 16, "--workers", 2),
        ("config", "list"),
        ("info", data / "images" / "a.nii.gz"),
    )
    assert f"on disk, in {other}" in printed and "seismic_layers" in printed
    # A character that a terminal lacks ends no command.
    assert "20 × 24 × 16" in printed and "\\u2192" in printed
    one, same = (
        load_checkpoint(path / "checkpoints" / "last.pt")[2]["network"] for path in (run, other)
    )
    assert all((one[name] == same[name]).all() for name in one | same)
    assert len([*predictions.glob("*.nii.gz")]) == len([*volumes.glob("imagesTr/*")]) == 2
