"""The benchmark of losses: what it trains on, and what it says of a network."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from seg3d.benchmarks import losses
from seg3d.benchmarks.surveys import FAULTS
from seg3d.benchmarks.training import Subject, Task
from seg3d.losses import DiceCrossEntropy
from seg3d.synth.dataset import make_volume


def small(number: int) -> Subject:
    survey = make_volume("faults", (16, 16, 20), [1, number])
    return Subject.of_arrays(survey.image, survey.faults)


class Sheet(nn.Module):
    """Where the image is 1, class 1 is three times as probable; else a fourth as probable."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(x), torch.where(x > 0.5, 3.0, 0.25).log()], 1)


def sheet(place: int) -> Tensor:
    plane = torch.zeros(1, 1, 16, 16, 16)
    plane[:, :, place] = 1
    return plane


@pytest.mark.parametrize(
    ("shift", "expected"),
    # Of 16 planes the predicted one ranks first, the others are equal.
    [(0, (1, 1, 1)), (2, (0, 1, 1 / 16)), (3, (0, 0, 1 / 16))],
)
def test_scores_of_a_sheet_that_is_off(shift: int, expected: tuple[float, ...]) -> None:
    survey = Subject(sheet(5 + shift), sheet(5).short())
    scores = losses.held_out_scores(Sheet(), [survey, survey], edge=16)
    assert scores == pytest.approx(dict(zip(losses.MEASURES, expected, strict=True)), abs=1e-6)


def test_surveys_are_functions_of_their_numbers() -> None:
    first, again, other = (FAULTS.subject(number) for number in (3, 3, 4))
    assert torch.equal(first.image, again.image) and torch.equal(first.labels, again.labels)
    assert not torch.equal(first.labels, other.labels)
    assert 0.005 < first.labels.float().mean() < 0.2
    assert not set(losses.TRAINED_ON) & set(losses.HELD_OUT)


def test_all_losses_begin_alike_and_every_run_is_stored(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(losses, "FAULTS", Task(("fault",), small))
    monkeypatch.setattr(losses, "TRAINED_ON", range(2))
    monkeypatch.setattr(losses, "HELD_OUT", range(2, 3))
    begun: list[tuple[DiceCrossEntropy, Tensor]] = []
    train = losses.train

    def watched(network: nn.Module, *arguments: Any) -> list[float]:
        begun.append((arguments[-1], next(network.parameters()).detach().clone()))
        return train(network, *arguments)

    monkeypatch.setattr(losses, "train", watched)
    stored: list[dict[str, Any]] = []
    methods = ["Dice + cross-entropy", "Tversky + focal"]
    losses.compare([2, 4], 2, 2, methods, 16, lambda found: stored.append(copy.deepcopy(found)))
    assert [[len(one) for one in found["runs"].values()] for found in stored] == [
        [1, 0], [1, 1], [2, 1], [2, 2],
    ]  # fmt: skip
    assert [(loss.tversky, loss.focal) for loss, _ in begun] == 2 * [
        ((0.5, 0.5), 0.0), ((0.3, 0.7), 2.0),
    ]  # fmt: skip
    weights = [weight for _, weight in begun]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    dice, focal = stored[-1]["runs"].values()
    assert dice[0] != focal[0] and set(dice[0]) == set(losses.MEASURES)
    assert "Tversky + focal" in capsys.readouterr().out
