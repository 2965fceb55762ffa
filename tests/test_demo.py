"""The demo makes room for itself without touching what is not its own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import pytest
import segyio
import yaml
from rich.console import Console

from seg3d import demo
from seg3d.common.errors import UserError
from seg3d.data.cohort import write_cohort
from tests.conftest import ROOT, environment
from tests.writers import another_writer


@pytest.mark.parametrize("sample", demo.SAMPLES.values(), ids=demo.SAMPLES)
def test_somebody_elses_data_are_left_alone(tmp_path: Path, sample: demo.Sample) -> None:
    """A folder with a ``data/dataset.json`` that no demo wrote is refused, not replaced."""
    (tmp_path / "data").mkdir()
    dataset = tmp_path / "data" / "dataset.json"
    dataset.write_text(json.dumps({"name": "years of work", "training": []}))
    with pytest.raises(UserError, match="not an empty folder"):
        demo.run_demo(sample, tmp_path, "cpu", Console(quiet=True))
    assert json.loads(dataset.read_text())["name"] == "years of work"


def test_a_demo_that_is_at_work_is_not_replaced(tmp_path: Path) -> None:
    write_cohort(ROOT / "data" / "brain", tmp_path / "data", subjects=1, seed=0)
    with (
        another_writer(tmp_path / "prediction.png"),
        pytest.raises(UserError, match="prediction.png is being written by another process"),
    ):
        demo.run_demo(demo.BRAIN, tmp_path, "cpu", Console(quiet=True))
    assert len(list((tmp_path / "data" / "imagesTr").iterdir())) == 1


def test_an_earlier_demo_is_replaced_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cohort(ROOT / "data" / "brain", tmp_path / "data", subjects=1, seed=0)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.pt").touch()
    (tmp_path / "notes.txt").write_text("mine")

    class Enough(Exception):
        pass

    def stop(*_: object, **__: object) -> None:
        raise Enough

    monkeypatch.setattr(demo, "train", stop)
    with pytest.raises(Enough):
        demo.run_demo(demo.BRAIN, tmp_path, "cpu", Console(quiet=True))
    assert not (tmp_path / "checkpoints").exists()
    assert len(list((tmp_path / "data" / "imagesTr").iterdir())) == demo.SUBJECTS
    assert (tmp_path / "notes.txt").read_text() == "mine"


TINY = """
import dataclasses
from pathlib import Path
from rich.console import Console
from seg3d import demo
from seg3d.synth.dataset import write_dataset


def make(folder):
    write_dataset(
        folder, "faults", count=3, test=1, shape=(24, 20, 32), seed=demo.SEED, workers=1,
        ending=".sgy",
    )


if __name__ == "__main__":
    sample = dataclasses.replace(demo.FAULTS, config=str(Path("tiny.yaml").absolute()), make=make)
    for _ in range(2):  # the second demo replaces the first
        demo.run_demo(sample, Path("run"), "cpu", Console(width=100))
"""


def test_the_demo_on_faults_from_beginning_to_end(tmp_path: Path) -> None:
    tree = yaml.safe_load((ROOT / demo.FAULTS.config).read_text())
    tree["patch"]["size"] = [16, 16, 16]
    tree["network"]["channels"] = [4, 8]
    tree["train"] |= {"epochs": 1, "iterations_per_epoch": 2}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tree))
    (tmp_path / "tiny.py").write_text(TINY)
    done = subprocess.run(
        [sys.executable, "tiny.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300,
        env=environment() | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("run folder") == 2 and "average precision" in done.stdout
    predictions = {path.name for path in (tmp_path / "run" / "predictions").iterdir()}
    assert predictions == {
        "faults_test_0001.sgy",
        "faults_test_0001_probabilities.sgy",
        "labels.json",
        "metrics.csv",
        "metrics.json",
        "precision_recall.csv",
        "precision_recall.png",
    }
    metrics = json.loads((tmp_path / "run" / "predictions" / "metrics.json").read_text())
    assert metrics["tolerance_voxels"] == 2 and 0 < metrics["average_precision"]["mean"] < 1
    image, label = (
        segyio.open(tmp_path / "run" / path, ignore_geometry=True)
        for path in ("data/imagesTs/faults_test_0001_0000.sgy", "predictions/faults_test_0001.sgy")
    )
    with image, label:
        assert label.text[0] == image.text[0] and len(label.trace) == 24 * 20
        assert segyio.tools.dt(image) == segyio.tools.dt(label) == 4000
        for one, other in zip(image.header, label.header, strict=True):
            assert dict(one) == dict(other)
    picture = matplotlib.image.imread(tmp_path / "run" / "prediction.png")
    assert picture.shape[1] == 900


def test_a_demo_that_its_time_limit_cut_short_says_so(tmp_path: Path) -> None:
    tree = yaml.safe_load((ROOT / demo.FAULTS.config).read_text())
    tree["patch"]["size"] = [16, 16, 16]
    tree["network"]["channels"] = [4, 8]
    tree["train"] |= {"epochs": 100_000, "iterations_per_epoch": 1, "max_time": "3s"}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tree))
    (tmp_path / "tiny.py").write_text(TINY.replace("range(2)", "range(1)"))
    done = subprocess.run(
        [sys.executable, "tiny.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300,
        env=environment() | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    behind_the_scores = done.stdout[done.stdout.index("average precision") :]
    words = " ".join(behind_the_scores.split())
    assert re.search(r"time limit after \d+ of 100000 epochs", words), words
