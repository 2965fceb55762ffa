"""The benchmark of accuracy: its tasks, and that all methods are compared on equal terms."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

from seg3d.benchmarks import accuracy
from seg3d.benchmarks.accuracy_picture import draw
from seg3d.benchmarks.brain import BRAIN
from seg3d.benchmarks.phantom import KIDNEYS, LESIONS, LIVER, PHANTOM, WINDOW, make_phantom
from seg3d.benchmarks.tables import add_results
from seg3d.benchmarks.training import Subject, Task, after, cube, draw_batch, held_out_dice, train
from tests.conftest import ROOT


def balls(number: int) -> Subject:
    """Bright balls in noise: a task that is learnt in a few steps."""
    rng = np.random.default_rng(number)
    distance = np.linalg.norm(np.indices((16, 20, 16)).T - rng.uniform(6, 10, 3), axis=-1).T
    labels = distance < 5
    return Subject.of_arrays(labels + 0.3 * rng.standard_normal(labels.shape), labels)


BALLS = Task(("ball",), balls)


@pytest.mark.parametrize("task", [BRAIN, PHANTOM], ids=["brain", "phantom"])
def test_a_subject_is_a_function_of_its_number(task: Task) -> None:
    first, again, other = (task.subject(number) for number in (3, 3, 4))
    assert torch.equal(first.image, again.image) and torch.equal(first.labels, again.labels)
    assert not torch.equal(first.labels, other.labels)
    assert first.image.shape == first.labels.shape and first.image.shape[:2] == (1, 1)
    assert abs(float(first.image.mean())) < 1e-4
    assert float(first.image.std()) == pytest.approx(1, abs=1e-3)
    assert first.labels.unique().tolist() == list(range(task.classes))


@pytest.mark.parametrize("number", range(5))
def test_organs_of_the_phantom(number: int) -> None:
    image, labels = make_phantom(number)
    sizes = np.bincount(labels.flat)
    assert 3000 < sizes[LIVER] < 8000
    assert 800 < sizes[KIDNEYS] < 2500
    assert 50 < sizes[LESIONS] < 1200
    assert image.min() == WINDOW[0] and image.max() <= WINDOW[1]
    # Lesions grow inside the liver, and there are two kidneys.
    liver = ndimage.binary_fill_holes(np.isin(labels, (LIVER, LESIONS)))
    assert ndimage.label(liver)[1] == 1
    assert ndimage.label(labels == KIDNEYS)[1] == 2


def test_brightness_alone_does_not_segment_the_phantom() -> None:
    """The best threshold that knows the answer is far from it, for every organ."""
    image, labels = make_phantom(0)
    for organ in (LIVER, KIDNEYS, LESIONS):
        low, high = np.percentile(image[labels == organ], (10, 90))
        taken = (image >= low) & (image <= high)
        assert 2 * (taken & (labels == organ)).sum() < 0.8 * (taken.sum() + (labels == organ).sum())


def test_patches_lie_in_the_volume_and_one_is_about_a_foreground_voxel() -> None:
    subject = balls(0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        (image, labels), (_, around) = draw_batch([subject], cube(8), generator)
        assert image.shape == labels.shape == around.shape == (1, 1, 8, 8, 8)
        assert around.any()


def test_all_methods_begin_with_the_same_weights() -> None:
    exact = accuracy.make_network("exact", BALLS, [2, 4], 7).state_dict()
    for name in accuracy.METHODS:
        for key, tensor in accuracy.make_network(name, BALLS, [2, 4], 7).state_dict().items():
            assert torch.equal(tensor, exact[key]), f"{name}: {key}"


def test_training_learns_and_is_a_function_of_the_seed() -> None:
    cohort, held_out = BALLS.subjects(range(4)), BALLS.subjects(range(10, 12))
    found = []
    for _ in range(2):
        network = accuracy.make_network("1 bit everywhere", BALLS, [4, 8], 0)
        before = held_out_dice(network, held_out, BALLS, cube(16))["ball"]
        losses = train(network, BALLS, cohort, after(25), 0, cube(16))
        found.append((losses, held_out_dice(network, held_out, BALLS, cube(16))["ball"]))
    assert found[0] == found[1]
    assert found[0][1] > max(0.7, before + 0.2)


def test_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Results are complete, are kept beside those of other tasks, and can be drawn."""
    path, picture = tmp_path / "accuracy.json", tmp_path / "accuracy.png"
    add_results(path, "older", {"steps": 7})
    counts = []

    def store(results: dict[str, Any]) -> None:
        counts.append(sum(map(len, results["runs"].values())))
        add_results(path, "balls", results)

    methods = ["exact", "auto", "independent, r = 8"]
    accuracy.compare(BALLS, [2, 4], 20, 2, methods, 16, {}, store)
    assert counts == [1, 2, 3, 4, 5, 6]
    known = json.loads(path.read_text())["balls"]
    accuracy.compare(BALLS, [2, 4], 20, 2, ["1 bit everywhere"], 16, known, store)
    methods.insert(2, "1 bit everywhere")
    stored = json.loads(path.read_text())
    assert list(stored) == ["older", "balls"] and stored["older"]["steps"] == 7
    assert {"date", "hardware", "torch", "command"} <= stored["balls"].keys()
    assert list(stored["balls"]["runs"]) == methods
    for method in methods:
        for run in stored["balls"]["runs"][method]:
            assert len(run["losses"]) == 2
            assert bool(run["bits"]) == (method == "auto")
            assert run["mean"] == run["dice"]["ball"]
    draw({"balls": stored["balls"]}, picture)
    assert picture.read_bytes().startswith(b"\x89PNG")
    shown = capsys.readouterr().out
    for run in stored["balls"]["runs"]["exact"]:
        assert f"{run['mean']:.4f}" in shown


def test_published_results_are_whole() -> None:
    """Every method has as many runs as the task says, all of the same length."""
    published = json.loads((ROOT / "docs" / "benchmarks" / "accuracy.json").read_text())
    assert set(published) == {"brain, 120 steps", "phantom, 120 steps", "brain, 360 steps"}
    assert list(published["brain, 120 steps"]["runs"]) == list(accuracy.METHODS)
    for results in published.values():
        assert {"exact", "auto"} <= set(results["runs"]) <= set(accuracy.METHODS)
        points = -(-results["steps"] // accuracy.STEPS_PER_POINT)
        for runs in results["runs"].values():
            assert [len(run["losses"]) for run in runs] == results["seeds"] * [points]
