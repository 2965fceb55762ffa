"""The benchmark of a fixed memory: tasks that need context, equal terms, results that go on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seg3d.benchmarks import fixed_memory
from seg3d.benchmarks.fixed_memory import ARMS, CHECKPOINTING, EXACT, NO_LIMIT, SEG3D, Setting
from seg3d.benchmarks.fixed_memory_picture import draw
from seg3d.benchmarks.numbered import MAKERS, make_bands, make_formations, numbered
from seg3d.benchmarks.tables import add_results, read_results
from seg3d.benchmarks.training import pooled_dice
from seg3d.synth.model import draw_model
from tests.conftest import ROOT

SHAPE = (96, 12, 12)
TOY = Setting("bands", (32, 8, 8), (16, 16), 0.2, "float32")


@cache
def bands(number: int) -> tuple[np.ndarray, np.ndarray]:
    return make_bands(number, SHAPE)


# --- the tasks ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MAKERS)
def test_a_volume_is_a_function_of_its_number(name: str) -> None:
    task = numbered(name, SHAPE)
    first, again, other = (task.subject(number) for number in (3, 3, 4))
    assert torch.equal(first.image, again.image) and torch.equal(first.labels, again.labels)
    assert not torch.equal(first.labels, other.labels)
    assert first.image.shape == first.labels.shape == (1, 1, *SHAPE)
    every = {number for one in task.subjects(range(8)) for number in one.foreground}
    assert every == set(range(1, task.classes))


@pytest.mark.parametrize("number", range(12))
def test_bands_are_numbered_from_the_top_however_they_are_bent(number: int) -> None:
    _, labels = bands(number)
    count = labels.max()
    assert 4 <= count <= 6
    bent = 0
    for column in labels.reshape(len(labels), -1).T:
        changes = column[np.flatnonzero(np.diff(column, prepend=-1))]
        expected = [value for band in range(1, count + 1) for value in (0, band)]
        assert changes.tolist() == [*expected, 0]
        bent += not np.array_equal(column, labels[:, 0, 0])
    assert bent > 50


def profiles(band: int, reach: int) -> np.ndarray:
    """Means across ``reach`` voxels above and below the middle of a band, a row per volume.

    Zeros outside, as a network sees it.
    """
    found = []
    for number in range(40):
        image, labels = bands(number)
        places = np.flatnonzero(labels[:, 6, 6] == band)
        middle = round(places.mean())
        line = np.pad(image[:, 4:9, 4:9].mean((1, 2)), reach)
        found.append(line[middle : middle + 2 * reach + 1])
    return np.array(found)


def distance(first: np.ndarray, second: np.ndarray) -> float:
    """The largest difference of means along the profile, in standard errors."""
    variance = (first.var(0, ddof=1) + second.var(0, ddof=1)) / len(first)
    return float(np.abs((first.mean(0) - second.mean(0)) / np.sqrt(variance)).max())


def test_a_small_patch_does_not_tell_one_band_from_the_other() -> None:
    # 29 places: by chance 5 standard errors are met once in 50,000 times.
    assert distance(profiles(2, 14), profiles(3, 14)) < 5
    # The first and the second differ only by what is further away: above the first there is none.
    assert distance(profiles(1, 4), profiles(2, 4)) < 5
    assert distance(profiles(3, 26), profiles(2, 26)) > 10


def test_depth_in_the_volume_tells_many_bands_but_not_all() -> None:
    seen = np.array([bands(number)[1] for number in range(40)])
    known, asked = seen[:30], seen[30:]
    at_depth = [(known == band).sum((0, 2, 3)) for band in range(1, 7)]
    guess = 1 + np.argmax(at_depth, axis=0)[None, :, None, None]
    right = (guess == asked)[asked > 0].mean()
    assert 0.6 < right < 0.9


@pytest.mark.parametrize("number", range(6))
def test_formations_are_units_of_one_facies_in_order(number: int) -> None:
    image, numbers = make_formations(number, SHAPE)
    rng = np.random.default_rng([7, number])
    survey = draw_model(rng, (12, 12, 96), units=True).render((12, 12, 96), rng)
    facies = np.moveaxis(survey.facies, 2, 0)
    assert np.array_equal(image, np.moveaxis(survey.image, 2, 0))
    assert numbers[0, 6, 6] == 0
    of_number = [np.unique(facies[numbers == one]) for one in (1, 2) if (numbers == one).any()]
    assert all(len(one) == 1 for one in of_number)
    assert len(of_number) < 2 or of_number[0] != of_number[1]


# --- equal terms -------------------------------------------------------------------------------


def test_no_arm_takes_more_than_seg3d_and_none_could_have_a_longer_patch() -> None:
    found = fixed_memory.patches(TOY)
    budget = found[SEG3D].predicted
    assert found[SEG3D].size == found[NO_LIMIT].size == TOY.shape
    assert found[NO_LIMIT].predicted > 1.3 * budget
    for arm in (EXACT, CHECKPOINTING):
        length, *across = found[arm].size
        assert across == [8, 8] and length % 2 == 0 and length < TOY.shape[0]
        assert found[arm].predicted <= budget
        assert fixed_memory.predicted_peak(arm, TOY, (length + 2, 8, 8)) > budget
    assert found[EXACT].size[0] < found[CHECKPOINTING].size[0]


def test_arms_begin_with_the_same_weights_and_compute_the_same() -> None:
    image = torch.randn(1, 1, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    scores = []
    for arm in ARMS:
        torch.manual_seed(5)
        network = fixed_memory.build(arm, TOY).eval()
        with torch.no_grad():
            scores.append(network(image))
    for one in scores:
        torch.testing.assert_close(one, scores[0], rtol=1e-4, atol=1e-4)


def test_pooled_dice_counts_the_voxels_of_all_volumes_together() -> None:
    class Sure(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([0.5 - x, x], dim=1)

    task = numbered("bands", (16, 8, 8))
    image = torch.zeros(1, 1, 16, 8, 8)
    image[:, :, :8] = 1
    empty, half = (
        type(task.subject(0))(image, labels.short()) for labels in (0 * image, image[:, :, :])
    )
    two = type(task)(("all",), task.subject)
    dice = pooled_dice(Sure(), [empty, half], two, (16, 8, 8), torch.float32)
    assert dice == {"all": pytest.approx(2 * 512 / (512 + 1024))}


def test_a_fresh_process_has_its_own_environment() -> None:
    with_name = fixed_memory.in_fresh_process({"SEG3D_TOY": "7"}, os.getenv, "SEG3D_TOY")
    assert with_name == "7" and "SEG3D_TOY" not in os.environ


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Few volumes, and all in this process; the names of functions that were called."""
    called = []

    def here(environment: dict[str, str], function: Callable[..., Any], *arguments: Any) -> Any:
        called.append(function.__name__)
        return function(*arguments) if function is fixed_memory.run else 2**20

    monkeypatch.setattr(fixed_memory, "in_fresh_process", here)
    monkeypatch.setattr(fixed_memory, "TRAINED_ON", range(3))
    monkeypatch.setattr(fixed_memory, "HELD_OUT", range(3, 5))
    return called


def test_comparison_stores_every_run_and_goes_on(
    tmp_path: Path, small: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "fixed_memory.json"
    counts = []

    def store(results: dict[str, Any]) -> None:
        counts.append(sum(map(len, results["runs"].values())))
        add_results(path, "bands", results)

    fixed_memory.compare(TOY, range(1), {}, store)
    results = fixed_memory.compare(TOY, range(2), read_results(path)["bands"], store)
    assert counts == [0, 1, 2, 3, 4, 4, 5, 6, 7, 8]
    assert small.count("measured_ram") == 4 and small.count("run") == 8
    stored = json.loads(path.read_text())["bands"]
    assert stored["runs"] == results["runs"]
    for seed in ("0", "1"):
        runs = {arm: stored["runs"][arm][seed] for arm in ARMS}
        assert runs[NO_LIMIT]["steps"] == runs[SEG3D]["steps"]
        for arm in (EXACT, CHECKPOINTING, SEG3D):
            assert runs[arm]["cpu_seconds"] >= TOY.seconds
        assert all(len(one["dice"]) == 6 for one in runs.values())
    draw({"bands": stored}, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    fixed_memory.show(stored)
    shown = capsys.readouterr().out
    for arm in ARMS:
        dice = np.mean([one["mean"] for one in stored["runs"][arm].values()])
        assert f"{dice:.3f}" in shown


def test_a_limit_of_time_is_the_share_of_it_that_this_process_has_used() -> None:
    done = fixed_memory._until(0.05)
    shares = [done(0)]
    while shares[-1] < 1:
        sum(range(10000))
        shares.append(done(0))
    assert shares == sorted(shares) and shares[0] < 0.5 and len(shares) > 3


def test_published_results_are_whole() -> None:
    """Every arm has the same seeds, within the memory, and the reference made seg3d's steps."""
    published = json.loads((ROOT / "docs" / "benchmarks" / "fixed_memory.json").read_text())
    assert published and set(published) <= set(MAKERS)
    for results in published.values():
        patches, runs = results["patches"], results["runs"]
        assert list(patches) == list(results["ram"]) == list(runs) == list(ARMS)
        for arm in (EXACT, CHECKPOINTING):
            assert patches[arm]["predicted"] <= patches[SEG3D]["predicted"]
            assert runs[arm].keys() == runs[SEG3D].keys() == runs[NO_LIMIT].keys()
        assert runs[SEG3D]
        for seed, one in runs[NO_LIMIT].items():
            assert one["steps"] == runs[SEG3D][seed]["steps"]
