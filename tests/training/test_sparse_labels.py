"""Volumes of which only some slices are labelled: the rest says nothing, anywhere."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

import seg3d
from seg3d.data.augmentation import RandPatchd
from seg3d.data.cache import training_cache
from seg3d.data.cases import Case
from seg3d.data.loaders import PatchStream, patch_stream
from seg3d.data.transforms import CENTRES, IMAGE, LABEL
from seg3d.losses import IGNORE
from tests.plans import only, small_config, small_plan
from tests.volumes import save_nifti

SHAPE = (40, 36, 32)
IGNORED = 9


def volume(seed: int, every: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A noisy ball of label 1 around a core of 2: image, whole label, and that of some slices."""
    generator = np.random.default_rng(seed)
    centre = np.array(SHAPE) / 2 + generator.uniform(-5, 5, 3)
    distance = np.linalg.norm(np.indices(SHAPE).T - centre, axis=-1).T
    label = (distance < 11).astype(np.uint8) + (distance < 6)
    image = 30.0 * label + generator.normal(0, 3, SHAPE)
    sparse = np.full_like(label, IGNORED)
    sparse[..., every // 2 :: every] = label[..., every // 2 :: every]
    return image.astype(np.float32), label, sparse


def sparse_case(folder: Path, name: str, every: int, only_background: bool = False) -> Case:
    image, _, sparse = volume(ord(name), every)
    if only_background:
        sparse[sparse != IGNORED] = 0
    return Case(
        name,
        (save_nifti(folder / "images" / f"{name}.nii.gz", image),),
        save_nifti(folder / "labels" / f"{name}.nii.gz", sparse),
    )


def stream_of(cases: list[Case], folder: Path, **sections: Any) -> PatchStream:
    config, plan = small_config(**sections), small_plan(ignore=[IGNORED])
    cache = training_cache(cases, config, plan, folder)
    cache.fill()
    return patch_stream(cache, config, plan)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_patch_is_drawn_where_labels_are(data: st.DataObject) -> None:
    size = tuple(data.draw(st.integers(1, 8)) for _ in range(3))
    shape = tuple(data.draw(st.integers(side, 12)) for side in size)
    labelled = data.draw(st.lists(st.integers(0, np.prod(shape) - 1), min_size=1, max_size=4))
    numbers = np.zeros(np.prod(shape), np.uint8)
    numbers[labelled] = data.draw(st.lists(st.integers(1, 3), min_size=len(labelled),
                                           max_size=len(labelled)))  # fmt: skip
    volume = {
        IMAGE: numbers.reshape(1, *shape).astype(np.float32),
        LABEL: numbers.reshape(1, *shape),
        LABEL + CENTRES: [np.flatnonzero(numbers == kind) for kind in range(4)],
    }
    cut = RandPatchd(size, data.draw(st.sampled_from([0.0, 0.5, 1.0])), data.draw(st.booleans()))
    cut.set_random_state(seed=data.draw(st.integers(0, 1000)))
    assert cut(volume)[LABEL].any()


@pytest.mark.parametrize("only_background", [False, True])
def test_every_patch_has_labels_though_few_slices_have(
    tmp_path: Path, only_background: bool
) -> None:
    cases = [sparse_case(tmp_path, name, 31, only_background) for name in "abc"]
    stream = stream_of(cases, tmp_path, augment={})
    shares = []
    for number in range(24):
        known = stream[number][LABEL] != IGNORE
        shares.append(float(known.float().mean()))
    # Of slices of 16³ voxels one, and what turning it makes of it.
    assert min(shares) > 0 and max(shares) < 0.2


@pytest.mark.parametrize("cache", ["1GiB", "1KiB"])
def test_no_patch_is_drawn_from_a_volume_without_labels(tmp_path: Path, cache: str) -> None:
    data = tmp_path / "data"
    cases = [sparse_case(data, name, 100 if name == "b" else 4) for name in "abc"]
    stream = stream_of(cases, tmp_path / "cache", data={"workers": 0, "cache": cache})
    assert {stream[number]["name"] for number in range(12)} == {"a", "c"}


def test_labelled_slices_lie_anywhere_along_the_steps_of_the_network(tmp_path: Path) -> None:
    """Or it would know them by their place, and be at a loss between them."""
    cases = [sparse_case(tmp_path, name, 31) for name in "abc"]
    stream = stream_of(cases, tmp_path / "cache")
    places = set()
    for number in range(60):
        known = (stream[number][LABEL][0] != IGNORE).any(0).any(0)
        places |= set(np.flatnonzero(known.numpy()))
    assert {*range(4, 12)} <= places


def test_training_on_some_slices_and_the_scores_of_labelled_voxels(tmp_path: Path) -> None:
    """Validation says of the labelled slices what evaluation says of them."""
    data = tmp_path / "data"
    for name in "abcd":
        sparse_case(data, name, 7)
    tree = {
        "data": {
            "labels": {"rim": 1, "core": 2, "ignore": IGNORED}, "folds": 2, "workers": 0,
        },
        "augment": only(),
        "preprocess": {"spacing": "none"},
        "patch": {"size": [16, 16, 16]},
        "network": {"channels": [6, 12]},
        "train": {
            "epochs": 2, "iterations_per_epoch": 60, "learning_rate": 0.05, "momentum": 0.9,
            "amp": "off",
        },
        "validation": {"every": 2},
    }  # fmt: skip
    config = seg3d.Config.model_validate(tree)
    console = Console(file=io.StringIO())
    run = tmp_path / "run"
    seg3d.train(config, data=data, run=run, device="cpu", console=console)
    last = json.loads((run / "log.jsonl").read_text().splitlines()[-1])
    assert last["dice/rim"] > 0.7 and last["dice/core"] > 0.45, last

    predictor = seg3d.Predictor.from_checkpoint(run, "cpu", overrides=("predict.overlap=0.25",))
    splits = json.loads((run / "splits.json").read_text())
    dice = []
    for name in splits[0]["val"]:
        image, whole, sparse = volume(ord(name), 7)
        predicted = predictor.segment(image, spacing=(1, 1, 1))
        found = seg3d.compare_labels(predicted, sparse, spacing=(1, 1, 1), ignore=IGNORED)
        dice.append([found[value].dice for value in (1, 2)])
        # What was never labelled is found about as well. With the labelled slices in the middle
        # of all patches, the rim had 0.81 in them and 0.47 everywhere.
        everywhere = seg3d.compare_labels(predicted, whole, spacing=(1, 1, 1))
        assert all(everywhere[value].dice > 0.9 * found[value].dice for value in (1, 2))
    assert [last["dice/rim"], last["dice/core"]] == pytest.approx(np.mean(dice, 0), abs=2e-3)
    assert torch.isfinite(torch.tensor(dice)).all()
