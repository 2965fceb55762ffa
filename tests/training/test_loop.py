"""Training in this process: what may go wrong in it, and what may change when it goes on."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from seg3d.common.errors import RunFailed, UserError
from seg3d.config import config_from_tree, load_config
from seg3d.data import cache as cache_module
from seg3d.data.transforms import IMAGE, LABEL
from seg3d.plan import predicted_peak
from seg3d.probing import SKETCHES
from seg3d.probing.bits import rotated_layers
from seg3d.probing.probed_layer import ProbedLayer
from seg3d.runs.checkpoint import load_checkpoint
from seg3d.runs.run_folder import Run, resume_run
from seg3d.training.loop import Trainer, train_prepared
from seg3d.training.preparation import prepare
from tests.plans import only, small_config, small_plan
from tests.volumes import save_nifti

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def cubes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three noisy volumes with a cube in each."""
    folder = tmp_path_factory.mktemp("cubes")
    random = np.random.default_rng(0)
    for case in range(3):
        label = np.zeros((18, 17, 16), np.uint8)
        label[5 : 11 + case, 4:11, 3:12] = 1
        image = (50 * label + random.normal(0, 20, label.shape)).astype(np.int16)
        save_nifti(folder / "images" / f"case_{case}.nii.gz", image)
        save_nifti(folder / "labels" / f"case_{case}.nii.gz", label)
    return folder


def start(folder: Path, data: Path, *overrides: str) -> str:
    """Train one step, with validation; returns what was printed."""
    tree = {
        "data": {"folder": str(data), "workers": 0, "folds": 2},
        "augment": only(),
        "preprocess": {"spacing": "none"},
        "patch": {"size": [16, 16, 16]},
        "network": {"channels": [3, 4]},
        "train": {"epochs": 1, "iterations_per_epoch": 1},
        "validation": {"overlap": 0.0},
    }
    return go(folder, config_from_tree(tree, overrides), resume=False)


def go_on(folder: Path, *overrides: str) -> str:
    """Resume for another step."""
    epochs = load_checkpoint(Run(folder).last)[2]["position"]["epochs_done"]
    overrides = (*overrides, f"train.epochs={epochs + 1}")
    config, _ = resume_run(Run(folder), small_config(), overrides)
    return go(folder, config, resume=True)


def go(folder: Path, config: Any, *, resume: bool) -> str:
    console = Console(file=io.StringIO(), width=200)
    run = Run(folder)
    ending = train_prepared(
        prepare(config, run, resume, console, torch.device("cpu")), run, "cpu", resume, console
    )
    assert ending == "finished"
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_loss_that_is_not_finite_stops_the_run_which_can_go_on(
    tmp_path: Path, cubes: Path
) -> None:
    run = Run(tmp_path / "run")
    message = "(?s)became (nan|inf) in step 2\n  cases: case_.*lower train.learning_rate"
    with pytest.raises(RunFailed, match=message):
        start(
            run.folder,
            cubes,
            "train.learning_rate=1e30",
            "train.iterations_per_epoch=3",
            "probing.bits=1",
        )
    content = load_checkpoint(run.last)[2]
    assert content["position"]["step"] == 0
    assert all(weight.isfinite().all() for weight in content["network"].values())
    go_on(run.folder, "train.learning_rate=0.01")
    assert load_checkpoint(run.last)[2]["position"]["step"] == 3


def test_a_run_goes_on_with_the_settings_that_it_is_given(tmp_path: Path, cubes: Path) -> None:
    folder = tmp_path / "run"
    start(folder, cubes, "train.learning_rate=0.5", "probing.sketch=exact")
    config, plan, content = load_checkpoint(Run(folder).last)
    changed = config.train.model_copy(
        update={"learning_rate": 0.25, "momentum": 0.5, "weight_decay": 0.125, "epochs": 4}
    )
    trainer = Trainer(config.model_copy(update={"train": changed}), plan, Run(folder), CPU)
    trainer.load(content)
    (group,) = trainer.optimizer.param_groups
    assert (group["momentum"], group["weight_decay"]) == (0.5, 0.125)
    for step in range(1, 4):  # of four, the first of which is done
        assert group["lr"] == 0.25 * (1 - step / 4) ** 0.9
        trainer.optimizer.step()
        trainer.schedule.step()
    for parameter in trainer.network.parameters():
        assert "momentum_buffer" in trainer.optimizer.state[parameter]


def test_a_run_goes_on_with_every_other_sketch(tmp_path: Path, cubes: Path) -> None:
    folder = tmp_path / "run"
    start(folder, cubes, "probing.bits=1")
    for step, sketch in enumerate((*SKETCHES, "rotated"), start=2):
        go_on(folder, f"probing.sketch={sketch}", "probing.rank=4")
        config, plan, content = load_checkpoint(Run(folder).last)
        assert content["position"]["step"] == step
        assert all(weight.isfinite().all() for weight in content["network"].values())
        trainer = Trainer(config, plan, Run(folder), CPU)
        trainer.load(content)
        layers = [one for one in trainer.network.modules() if isinstance(one, ProbedLayer)]
        assert {one.sketch for one in layers} == {"exact", sketch}  # the first is always exact


def test_bits_are_chosen_when_a_run_goes_on_with_auto(tmp_path: Path, cubes: Path) -> None:
    folder = tmp_path / "run"
    printed = start(folder, cubes, "probing.bits=2")
    assert "bits per voxel" not in printed
    assert set(load_checkpoint(Run(folder).last)[2]["bits"].values()) == {2}
    assert "bits per voxel" in go_on(folder, "probing.bits=auto")
    measured = load_checkpoint(Run(folder).last)[2]["bits"]
    assert set(measured.values()) != {2}
    assert "bits per voxel" not in go_on(folder)
    assert load_checkpoint(Run(folder).last)[2]["bits"] == measured


def test_bits_and_noise_of_every_level_are_in_the_log(tmp_path: Path, cubes: Path) -> None:
    start(tmp_path / "run", cubes, "train.epochs=2")
    rows = [json.loads(line) for line in Run(tmp_path / "run").log.read_text().splitlines()]
    first, second = (row for row in rows if "loss/loss" in row)
    # They are measured after the first epoch; after the last one nobody would use them.
    measured = {tag for tag in first if tag.startswith("noise/")}
    assert measured == {f"noise/{one}" for one in ("encoder.0", "encoder.1", "up.0", "decoder.0",
                                                   "heads.0")}  # fmt: skip
    assert not any(tag.startswith("noise/") for tag in second)
    for row in (first, second):
        assert {"bits/encoder.0", "bits/encoder.1", "bits/decoder.0"} <= row.keys()
        # What a CPU's process takes is not what was planned.
        assert "memory/peak_gib" in row and "memory/planned_gib" not in row


def test_training_begins_with_the_bits_that_its_peak_was_predicted_with(tmp_path: Path) -> None:
    """Of each patch of a batch as much is kept as of the one by which the bits are chosen."""
    config = small_config(plan={"memory": "1MiB"})
    trainer = Trainer(config, small_plan(batch_size=4, patch_size=(8, 8, 8)), Run(tmp_path), CPU)
    trainer.choose_bits(lambda: patches(1))
    begun = {name: layer.bits for name, layer in rotated_layers(trainer.network).items()}
    given = small_config(plan={"memory": "1MiB"}, probing={"bits": begun})
    assert predicted_peak(given, trainer.plan, torch.float32) == predicted_peak(
        config, trainer.plan, torch.float32
    )
    assert "exact" in begun.values()  # room enough for some
    assert set(begun.values()) != {"exact"}


def test_on_a_gpu_the_planned_peak_stands_beside_the_measured_one(tmp_path: Path) -> None:
    trainer = Trainer(small_config(), small_plan(), Run(tmp_path), CPU)
    planned = predicted_peak(trainer.config, trainer.plan, torch.float32).total
    trainer.device = torch.device("cuda")
    trainer.position.sums = {"loss": 1.0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("seg3d.training.trainer.peak_gib", lambda device: 0.5)
        scalars = trainer.close_epoch({}, None)
    assert scalars["memory/planned_gib"] == planned / 2**30
    assert scalars["memory/peak_gib"] == 0.5


def in_half_precision(folder: Path, scale: float) -> Trainer:
    """A trainer as it is on a GPU without bf16."""
    trainer = Trainer(small_config(), small_plan(), Run(folder), CPU)
    trainer.dtype = torch.float16
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    return trainer


def patches(count: int) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(3)
    found = []
    for _ in range(count):
        label = torch.randint(0, 3, (1, 8, 8, 8), generator=generator, dtype=torch.int16)
        image = label + torch.randn(label.shape, generator=generator)
        found.append({IMAGE: image, LABEL: label, "name": "case"})
    return found


def test_bits_are_chosen_at_a_scale_at_which_nothing_overflows(tmp_path: Path) -> None:
    choices = []
    for scale in (2.0**10, 2.0**40):
        trainer = in_half_precision(tmp_path, scale)
        choices.append(trainer.choose_bits(lambda: patches(4)))
        assert 1 < trainer.scaler.get_scale() < 2.0**30
    assert choices[0] == choices[1]


def test_a_run_may_go_on_in_half_precision(tmp_path: Path) -> None:
    before = Trainer(small_config(), small_plan(), Run(tmp_path), CPU)
    before.save(tmp_path / "last.pt")
    after = in_half_precision(tmp_path, 2.0**10)
    after.load(load_checkpoint(tmp_path / "last.pt")[2])
    assert after.scaler.get_scale() == 2.0**10


def test_a_run_that_ended_in_preprocessing_goes_on_there(
    tmp_path: Path, cubes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = ("data.folds=3", "data.cache=1kib")
    start(tmp_path / "whole", cubes, *overrides)
    make, made = cache_module._on_disk, []

    def interrupted(case: Any, *arguments: Any) -> None:
        if made:
            raise KeyboardInterrupt
        made.append(case.name)
        make(case, *arguments)

    monkeypatch.setattr(cache_module, "THREADS", 1)
    monkeypatch.setattr(cache_module, "_on_disk", interrupted)
    run = Run(tmp_path / "broken")
    console = Console(file=io.StringIO(), width=200)
    config = load_config(tmp_path / "whole" / "config.yaml")
    prepared = prepare(config, run, False, console, torch.device("cpu"))
    assert train_prepared(prepared, run, "cpu", False, console) == "interrupted"

    def rest(case: Any, *arguments: Any) -> None:
        made.append(case.name)
        make(case, *arguments)

    monkeypatch.setattr(cache_module, "_on_disk", rest)
    printed = go(run.folder, config, resume=True)
    assert "reading the volumes" not in printed
    assert "(1 of 2 from before)" in printed
    assert len(made) == len(set(made)) == 2
    whole, broken = (load_checkpoint(Run(tmp_path / name).last)[2] for name in ("whole", "broken"))
    assert whole["bits"] == broken["bits"] and whole["bits_are_chosen"]
    for name, weight in whole["network"].items():
        assert torch.equal(weight, broken["network"][name]), name


def test_what_has_changed_since_the_plan_is_looked_at_again(tmp_path: Path, cubes: Path) -> None:
    data, folder = tmp_path / "data", tmp_path / "run"
    shutil.copytree(cubes, data)
    start(folder, data, "probing.bits=1")
    assert "Note" not in go_on(folder)
    label = np.zeros((18, 17, 16), np.uint8)
    label[2:4] = 1
    save_nifti(data / "labels" / "case_1.nii.gz", label)
    assert "Note: new or changed since the run was planned: case_1.\n" in go_on(folder)
    assert "Note" not in go_on(folder)
    label[4:6] = 7
    save_nifti(data / "labels" / "case_1.nii.gz", label)
    with pytest.raises(
        UserError, match=r"case_1\.nii\.gz holds label values that the dataset does"
    ):
        go_on(folder)
    label[4:6] = 0
    for kind in ("images", "labels"):
        save_nifti(data / kind / "case_1.nii.gz", label)
        save_nifti(data / kind / "extra.nii.gz", label)
    printed = go_on(folder)
    assert "changed since the run was planned: case_1, extra.\n" in printed
    assert "splits.json leaves out extra.\n" in printed
