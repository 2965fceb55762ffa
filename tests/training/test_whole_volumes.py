"""Training on whole volumes: each as it is, padded to what the network takes."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from seg3d.common.errors import UserError
from seg3d.config import Config, config_from_tree
from seg3d.data.cache import training_cache
from seg3d.data.loaders import patch_batches, patch_stream
from seg3d.data.transforms import IMAGE, LABEL
from seg3d.losses import IGNORE
from seg3d.plan import passes_per_step, with_patch
from seg3d.prediction.predictor import Predictor
from seg3d.runs.run_folder import Run, resume_run
from seg3d.training.loop import train_prepared
from seg3d.training.preparation import Prepared, prepare
from seg3d.training.trainer import Trainer
from tests.plans import only
from tests.volumes import save_nifti

CPU = torch.device("cpu")
SHAPES = [(18, 17, 16), (20, 9, 30), (7, 24, 12)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("volumes")
    random = np.random.default_rng(0)
    for case, shape in enumerate(SHAPES):
        label = np.zeros(shape, np.uint8)
        label[2:6, 4:8, 3:9] = 1
        image = (50 * label + random.normal(0, 20, shape)).astype(np.int16)
        save_nifti(folder / "images" / f"case_{case}.nii.gz", image)
        save_nifti(folder / "labels" / f"case_{case}.nii.gz", label)
    return folder


def config_of(folder: Path, *overrides: str) -> Config:
    tree = {
        "data": {"folder": str(folder), "workers": 0, "folds": 3},
        "augment": only(),
        "preprocess": {"spacing": "none"},
        "patch": {"size": "whole"},
        "network": {"channels": [3, 4, 5]},
        "train": {"epochs": 1, "iterations_per_epoch": 2, "batch_size": 3},
    }
    return config_from_tree(tree, overrides)


def prepared(config: Config, run: Path, resume: bool = False) -> Prepared:
    return prepare(config, Run(run), resume, Console(file=io.StringIO()), CPU)


def test_volumes_come_whole_and_one_by_one(folder: Path, tmp_path: Path) -> None:
    config = config_of(folder)
    ready = prepared(config, tmp_path)
    plan = ready.plan
    # Of each axis the longest; multiples of four.
    assert plan.whole and plan.patch_size == (20, 24, 32) and plan.batch_size == 1
    assert passes_per_step(config, plan) == 3
    cases = [*ready.train, *ready.val]
    cache = training_cache(cases, config, plan, tmp_path / "cache")
    cache.fill()
    stream = patch_stream(cache, config, plan)
    with patch_batches(stream, config, plan, 0, 3) as batches:
        seen = {one["name"][0]: one for one in batches}
    shapes = {name: tuple(one[IMAGE].shape) for name, one in seen.items()}
    # Seven voxels become eight: one alone at the coarsest level would have no variance.
    expected = [(1, 1, 20, 20, 16), (1, 1, 20, 12, 32), (1, 1, 8, 24, 12)]
    assert shapes == {f"case_{number}": shape for number, shape in enumerate(expected)}
    for number, shape in enumerate(SHAPES):
        label = seen[f"case_{number}"][LABEL]
        assert int((label != IGNORE).sum()) == np.prod(shape)
        assert int((label == 1).sum()) == 4 * 4 * 6


def test_a_step_sums_up_what_single_volumes_say(folder: Path, tmp_path: Path) -> None:
    config = config_of(folder, "probing.sketch=exact", "train.clip=null", "train.momentum=0")
    ready = prepared(config, tmp_path)
    trainer = Trainer(config, ready.plan, Run(tmp_path), CPU)
    batches = [
        {
            IMAGE: torch.randn(1, 1, *shape),
            LABEL: torch.randint(2, (1, 1, *shape)),
            "name": ["one"],
        }
        for shape in ((8, 8, 12), (16, 8, 8), (8, 20, 8))
    ]
    gradients = []
    for batch in batches:
        trainer.network.zero_grad()
        trainer.losses(batch)["loss"].backward()
        gradients.append([one.grad.clone() for one in trainer.network.parameters()])  # type: ignore[union-attr]
    trainer.network.zero_grad()
    found: list[torch.Tensor] = []
    update = trainer._update
    trainer._update = lambda: (  # type: ignore[method-assign, assignment]
        found.extend(one.grad.clone() for one in trainer.network.parameters()),  # type: ignore[union-attr]
        update(),
    )
    trainer.step(iter(batches))
    for mean, parts in zip(found, zip(*gradients, strict=True), strict=True):
        torch.testing.assert_close(mean, sum(parts) / 3, rtol=1e-4, atol=1e-6)


def test_train_predict_and_go_on_with_patches(folder: Path, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    config = config_of(folder)
    console = Console(file=io.StringIO())
    assert train_prepared(prepared(config, run.folder), run, "cpu", False, console) == "finished"
    predictor = Predictor.from_checkpoint(run.folder, "cpu")
    counted: list[int] = []
    predictor.segment(folder / "images" / "case_1.nii.gz", counted.append)
    assert counted == [1]
    smaller = Predictor.from_checkpoint(run.folder, "cpu", ("predict.windows=patch",))
    assert smaller.segment(folder / "images" / "case_1.nii.gz").shape == SHAPES[1]
    settings = ("patch.size=[8,8,8]", "train.epochs=2")
    resumed, _ = resume_run(run, config, settings)
    ready = prepared(resumed, run.folder, resume=True)
    assert not ready.plan.whole and ready.plan.patch_size == (8, 8, 8)
    with pytest.raises(UserError, match="needs a plan for whole volumes"):
        with_patch(config, ready.plan)


def test_networks_that_take_one_shape_only_are_refused(folder: Path, tmp_path: Path) -> None:
    config = config_from_tree(
        {
            "data": {"folder": str(folder), "workers": 0},
            "patch": {"size": "whole"},
            "network": {"name": "monai.UNet", "channels": [4, 8], "strides": [2]},
        }
    )
    with pytest.raises(UserError, match=r"patch.size: whole is for networks that take volumes"):
        prepared(config, tmp_path)
