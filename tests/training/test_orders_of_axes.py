"""Labels and channels whose axes stand in another order than those of the first image."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from seg3d.config import config_from_tree
from seg3d.runs.run_folder import Run
from seg3d.training.loop import train_prepared
from seg3d.training.preparation import prepare
from tests.plans import only
from tests.volumes import ORIENTATIONS, affine_of, reorder, save_nifti

SHAPE = (20, 18, 17)
AFFINE = affine_of((0.9, 1, 1.4), (10, 40, -75), (-80, 12, 33))
NAMES = tuple("abc")


def write(folder: Path) -> Path:
    for seed, name in enumerate(NAMES):
        generator = np.random.default_rng(seed)
        label = generator.integers(0, 3, SHAPE).astype(np.uint8)
        for channel in range(2):
            image = generator.normal(30 * label, 5).astype(np.float32)
            save_nifti(folder / "images" / f"{name}_{channel:04}.nii", image, AFFINE)
        save_nifti(folder / "labels" / f"{name}.nii", label, AFFINE)
    return folder


def trained(data: Path) -> tuple[str, list[dict[str, Any]]]:
    """The plan, and what the log says but for time and memory."""
    tree = {
        "data": {"folder": str(data), "workers": 0, "folds": 3},
        "augment": only(),
        "preprocess": {"spacing": [1.0, 1.1, 1.2]},
        "patch": {"size": [16, 16, 16]},
        "network": {"channels": [3, 4]},
        "train": {"epochs": 1, "iterations_per_epoch": 2, "seed": 3},
    }
    run, console = Run(data.parent / f"{data.name} run"), Console(file=io.StringIO(), width=200)
    prepared = prepare(config_from_tree(tree), run, False, console, torch.device("cpu"))
    assert train_prepared(prepared, run, "cpu", False, console) == "finished"
    rows = [json.loads(line) for line in run.log.read_text().splitlines()]
    log = [
        {tag: value for tag, value in row.items() if not tag.startswith(("speed/", "memory/"))}
        for row in rows
    ]
    return (run.folder / "plan.yaml").read_text().replace(str(data), "DATA"), log


def test_training_does_not_depend_on_the_order(tmp_path: Path) -> None:
    plan, log = trained(write(tmp_path / "alike"))
    data = write(tmp_path / "other")
    for number, name in enumerate(NAMES):
        reorder(data / "labels" / f"{name}.nii", ORIENTATIONS[11 + 15 * number])
        reorder(data / "images" / f"{name}_0001.nii", ORIENTATIONS[29 - 8 * number])
    other_plan, other_log = trained(data)
    assert other_plan == plan
    assert other_log == log
    assert log[-1]["dice/mean"] > 0
