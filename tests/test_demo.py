"""The demo makes room for itself without touching what is not its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from seg3d import demo
from seg3d.data.cohort import write_cohort
from seg3d.errors import UserError
from tests.conftest import ROOT


def test_somebody_elses_data_are_left_alone(tmp_path: Path) -> None:
    """A folder with a ``data/dataset.json`` that no demo wrote is refused, not replaced."""
    (tmp_path / "data").mkdir()
    dataset = tmp_path / "data" / "dataset.json"
    dataset.write_text(json.dumps({"name": "years of work", "training": []}))
    with pytest.raises(UserError, match="not an empty folder"):
        demo.run_brain_demo(tmp_path, "cpu", Console(quiet=True))
    assert json.loads(dataset.read_text())["name"] == "years of work"


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

    monkeypatch.setattr(demo, "prepare", stop)
    with pytest.raises(Enough):
        demo.run_brain_demo(tmp_path, "cpu", Console(quiet=True))
    assert not (tmp_path / "checkpoints").exists()
    assert len(list((tmp_path / "data" / "imagesTr").iterdir())) == demo.SUBJECTS
    assert (tmp_path / "notes.txt").read_text() == "mine"
