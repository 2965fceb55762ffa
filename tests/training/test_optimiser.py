"""Learning rates over a run, and which optimiser works with what."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW

from seg3d.training.optimiser import make_optimizer, make_schedule, require_fitting_state
from tests.plans import small_config


def rates(**train: Any) -> list[float]:
    """The learning rate of every step of a run of 10 epochs of 10 steps, and of the one after."""
    config = small_config(train={"epochs": 10, "iterations_per_epoch": 10} | train).train
    optimizer = make_optimizer(nn.Linear(2, 2), config)
    schedule = make_schedule(optimizer, config)
    found = []
    for _ in range(101):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_polynomial_decay() -> None:
    found = rates(optimizer="sgd", learning_rate=0.2)
    assert found == pytest.approx([0.2 * (1 - step / 100) ** 0.9 for step in range(101)])


def test_warm_up_and_cosine() -> None:
    found = rates(optimizer="adamw", learning_rate=0.2, warmup=0.1)
    assert found[:11] == pytest.approx([0.02 * step for step in range(1, 11)] + [0.2])
    assert found[55] == pytest.approx(0.1) and found[100] == pytest.approx(0, abs=1e-12)
    assert all(one > other for one, other in zip(found[10:], found[11:], strict=False))


@pytest.mark.parametrize("warmup", [0.0, 1.0])
def test_no_warm_up_and_nothing_else(warmup: float) -> None:
    found = rates(optimizer="adamw", learning_rate=0.2, warmup=warmup)
    assert max(found) == pytest.approx(0.2)
    assert found[0] == pytest.approx(0.2 if warmup == 0 else 0.002)


def test_settings_reach_the_optimiser() -> None:
    sgd = make_optimizer(nn.Linear(2, 2), small_config(train={"optimizer": "sgd"}).train)
    assert isinstance(sgd, SGD)
    group = sgd.param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (0.01, 3e-5)
    assert group["momentum"] == 0.99 and group["nesterov"]
    plain = small_config(train={"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.1}).train
    group = make_optimizer(nn.Linear(2, 2), plain).param_groups[0]
    assert group["weight_decay"] == 0.1 and not group["nesterov"]
    adamw = make_optimizer(nn.Linear(2, 2), small_config(train={"optimizer": "adamw"}).train)
    assert isinstance(adamw, AdamW)
    assert (adamw.defaults["lr"], adamw.defaults["weight_decay"]) == (3e-4, 0.01)


@pytest.mark.parametrize(
    "train", [{"optimizer": "adamw"}, {"optimizer": "sgd"}, {"optimizer": "sgd", "momentum": 0}]
)
def test_a_state_is_what_the_optimiser_keeps(train: dict[str, Any]) -> None:
    network = nn.Linear(2, 3)
    optimizer = make_optimizer(network, small_config(train=train).train)
    require_fitting_state(optimizer)
    network(torch.ones(2)).sum().backward()
    optimizer.step()
    require_fitting_state(optimizer)
    state = optimizer.state[network.weight]
    wrong = [5.0, torch.zeros(7), torch.full((3, 2), torch.nan), torch.zeros(3, 2, dtype=int), "x"]
    for name, value in [(name, value) for name in state for value in wrong] + [("more", None)]:
        optimizer.state[network.weight] = {**state, name: value}
        with pytest.raises(ValueError, match="of the optimiser"):
            require_fitting_state(optimizer)
