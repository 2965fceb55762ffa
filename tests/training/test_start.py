"""Training from a program: the same run as the command line's."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from rich.console import Console

import seg3d
from seg3d.common.errors import UserError
from seg3d.runs.checkpoint import load_checkpoint
from tests.conftest import Cli
from tests.plans import only
from tests.volumes import save_nifti


@pytest.fixture(scope="module")
def cubes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two noisy volumes with a cube in each."""
    folder = tmp_path_factory.mktemp("cubes")
    random = np.random.default_rng(0)
    for case in range(2):
        label = np.zeros((16, 17, 16), np.uint8)
        label[5 : 11 + case, 4:11, 3:12] = 1
        image = (50 * label + random.normal(0, 20, label.shape)).astype(np.int16)
        save_nifti(folder / "images" / f"case_{case}.nii.gz", image)
        save_nifti(folder / "labels" / f"case_{case}.nii.gz", label)
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "small.yaml"
    tree = {
        "data": {"workers": 0, "folds": 2},
        "augment": only(),
        "patch": {"size": [16, 16, 16]},
        "network": {"channels": [3, 4]},
        "train": {"epochs": 1, "iterations_per_epoch": 1},
    }
    path.write_text(yaml.safe_dump(tree))
    return path


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(run / "checkpoints" / "last.pt")[2]["network"]


def test_a_program_trains_what_the_command_line_trains(
    tmp_path: Path, cli: Cli, cubes: Path, small: Path
) -> None:
    done = cli(
        "train", small, "--data", cubes, "--run", tmp_path / "line", "--set", "train.epochs=2"
    )
    console = Console(file=io.StringIO(), width=200)
    trained = seg3d.train(
        str(small),
        data=str(cubes),
        run=str(tmp_path / "program"),
        overrides=["train.epochs=2"],
        console=console,
    )
    assert trained.ending == "finished" and trained.run.folder == tmp_path / "program"
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert printed and done.stdout.startswith(printed)
    torch.testing.assert_close(weights(tmp_path / "line"), weights(tmp_path / "program"))
    names = {path.name for path in (tmp_path / "line").iterdir()}
    assert {path.name for path in trained.run.folder.iterdir()} == names


def test_a_config_may_be_an_object_and_goes_on_as_itself(
    tmp_path: Path, cubes: Path, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = seg3d.load_config(small)
    console = Console(file=io.StringIO(), width=200)
    with pytest.raises(UserError, match=r"no folder is given for the run\n  to do: run=FOLDER"):
        seg3d.train(config, data=cubes, console=console)
    seg3d.train(config, data=cubes, run=tmp_path / "run", console=console)
    with pytest.raises(UserError, match="already holds a run"):
        seg3d.train(config, data=cubes, run=tmp_path / "run", console=console)
    seg3d.train(
        config,
        run=tmp_path / "run",
        resume=True,
        overrides=("train.epochs=2",),
        console=console,
    )
    stored, _, content = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt")
    assert content["position"]["epochs_done"] == 2
    assert stored.data.folder == cubes
    assert "differs" not in console.file.getvalue()  # type: ignore[attr-defined]

    other = seg3d.load_config(small, ("train.iterations_per_epoch=3",))
    seg3d.train(
        other, run=tmp_path / "run", resume=True, overrides=("train.epochs=3",), console=console
    )
    note = "differs from the one given in train.iterations_per_epoch."
    assert note in console.file.getvalue()  # type: ignore[attr-defined]

    # Named after its file where a file is given.
    monkeypatch.chdir(tmp_path)
    trained = seg3d.train(small, data=cubes, overrides=("data.fold=1",), console=console)
    assert trained.run.folder == Path("runs/small_fold_1")


def test_training_may_run_beside_the_main_thread(tmp_path: Path, cubes: Path, small: Path) -> None:
    """Where a program cannot listen to signals, as in a window's own thread."""
    console = Console(file=io.StringIO(), width=200)
    with ThreadPoolExecutor(1) as pool:
        trained = pool.submit(
            seg3d.train, small, data=cubes, run=tmp_path / "run", console=console
        ).result()
    assert trained.ending == "finished"
