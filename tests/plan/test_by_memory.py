"""The patch that a memory allows: it fits, the next larger does not, and few trials find it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seg3d.common.errors import UserError
from seg3d.common.free_ram import free_ram
from seg3d.common.sizes import GIB
from seg3d.config import Config
from seg3d.geometry import Shape3
from seg3d.plan import (
    USABLE,
    Choice,
    Plan,
    make_plan,
    memory_to_plan_for,
    plan_for_memory,
    predicted_peak,
    typical_volume,
)
from seg3d.plan.by_memory import largest
from tests.plan.test_plan import config, dataset, survey

MIB = 2**20
CPU = torch.device("cpu")
SMALL = {"channels": [8, 16, 32]}


def planned(
    settings: Config, shape: Shape3, spacing: tuple[float, float, float], labels: int
) -> tuple[Plan, Shape3]:
    found = {"a": survey(shape, spacing, tuple(range(labels)))}
    return make_plan(settings, dataset(), found), typical_volume(settings, found)[2]


def chosen(
    memory: float,
    shape: Shape3 = (300, 300, 200),
    spacing: tuple[float, float, float] = (1, 1, 1),
    labels: int = 2,
    **sections: Any,
) -> Choice:
    settings = config(**{"network": SMALL, **sections})
    plan, typical = planned(settings, shape, spacing, labels)
    return plan_for_memory(settings, plan, typical, memory, torch.float32)


@pytest.mark.parametrize("memory", [40 * MIB, 300 * MIB])
@pytest.mark.parametrize(
    "shape, spacing, labels",
    [
        ((300, 300, 200), (1, 1, 1), 2),
        ((400, 400, 24), (0.5, 0.5, 4), 2),
        ((70, 200, 90), (1, 1, 1), 60),
    ],
)
def test_the_largest_patch_that_fits(
    memory: float, shape: Shape3, spacing: tuple[float, float, float], labels: int
) -> None:
    try:
        choice = chosen(memory, shape, spacing, labels)
    except UserError:
        # Scores of 60 classes.
        assert labels == 60 and memory == 40 * MIB
        return
    patch = choice.plan.patch_size
    assert choice.peak.total <= USABLE * memory
    assert all(side <= 32 * math.ceil(full / 32) for side, full in zip(patch, shape, strict=True))
    if choice.larger is None:
        assert math.prod(patch) >= 0.7 * math.prod(shape)
    else:
        assert choice.larger[1].total > USABLE * memory
        assert math.prod(choice.larger[0]) > math.prod(patch)
    if choice.exact is not None:
        assert choice.exact[1].total <= USABLE * memory
        assert math.prod(choice.exact[0]) <= math.prod(patch)
    # About equal sides in mm, where the volume allows it.
    sides = [
        side * step
        for side, step, full in zip(patch, spacing, shape, strict=True)
        if side < full - 16
    ]
    if sides:
        assert max(sides) <= 2 * min(sides)


def test_a_plan_for_memory_is_one_that_can_be_trained() -> None:
    choice = chosen(60 * MIB)
    again = config(network=SMALL, patch={"size": list(choice.plan.patch_size)})
    assert planned(again, (300, 300, 200), (1, 1, 1), 2)[0] == choice.plan


def test_exact_gradients_allow_less() -> None:
    choice = chosen(GIB)
    assert choice.exact is not None
    assert math.prod(choice.exact[0]) < math.prod(choice.plan.patch_size) / 2


def test_what_the_peak_is_made_of() -> None:
    peaks = {}
    for name, train in {
        "sgd": {},
        "plain": {"momentum": 0},
        "adamw": {"optimizer": "adamw"},
        "accumulated": {"accumulate": 2},
    }.items():
        settings = config(network=SMALL, patch={"size": [64, 64, 64]}, train=train)
        plan, _ = planned(settings, (100, 100, 100), (1, 1, 1), 3)
        peaks[name] = predicted_peak(settings, plan, torch.float32)
    parameters = peaks["plain"].weights
    assert peaks["sgd"].weights == 2 * parameters
    assert peaks["adamw"].weights == 3 * parameters
    assert peaks["adamw"].total == peaks["sgd"].total + parameters
    assert peaks["accumulated"].total == peaks["sgd"].total + parameters
    # In float32: the eight features of which three classes' scores are made, and those at half the
    # resolution.
    voxels = 2 * 64**3
    assert peaks["sgd"].scores == pytest.approx(4 * (8 * voxels + 3 * voxels // 8), rel=1e-3)


def test_the_optimisers_own_step_may_be_the_peak() -> None:
    settings = config(network={"channels": [8, 512]}, patch={"size": [8, 8, 8]})
    plan, _ = planned(settings, (100, 100, 100), (1, 1, 1), 2)
    peak = predicted_peak(settings, plan, torch.float32)
    assert peak.total >= 2 * peak.weights


def test_a_patch_that_is_given_is_kept_or_refused() -> None:
    size = {"size": [64, 64, 64]}
    choice = chosen(2 * GIB, patch=size)
    assert choice.plan.patch_size == (64, 64, 64) and choice.larger is None
    with pytest.raises(
        UserError, match=r"too small for any patch\n.*50.00 MiB\n.*or more, for pat"
    ):
        chosen(50 * MIB, patch=size)


def test_less_than_the_smallest_patch_takes() -> None:
    with pytest.raises(UserError, match=r"plan.memory is too small(.|\n)*1.00 MiB(.|\n)*or more"):
        chosen(MIB)


@given(
    sizes=st.lists(st.integers(1, 10**9), min_size=1, max_size=150, unique=True).map(sorted),
    constant=st.floats(0, 1e9),
    power=st.floats(0.5, 2),
    limit=st.floats(1, 1e10),
    first=st.floats(1, 1e10),
)
def test_the_search_is_exact(
    sizes: list[int], constant: float, power: float, limit: float, first: float
) -> None:
    costs = [constant + size**power for size in sizes]
    asked: list[int] = []

    def cost(index: int) -> float:
        asked.append(index)
        return costs[index]

    found = largest(sizes, cost, limit, first)
    assert found == sum(one <= limit for one in costs) - 1
    assert len(asked) == len(set(asked)) <= 4 + math.ceil(math.log2(len(sizes) + 1))


def test_a_streamed_network_gets_the_larger_patch() -> None:
    whole, streamed = (
        chosen(300 * MIB, probing={"bits": 1, "streamed": one}) for one in (False, True)
    )
    assert math.prod(streamed.plan.patch_size) > 1.3 * math.prod(whole.plan.patch_size)
    assert streamed.exact == whole.exact


def test_few_trials_where_costs_are_on_a_line() -> None:
    sizes = [round(512 * 2 ** (step / 8)) for step in range(140)]
    for constant in (0, 1e6, 1e9):
        for limit in (2e9, 8e9, 8e10):
            asked: list[int] = []

            def cost(index: int) -> float:
                asked.append(index)  # noqa: B023
                return constant + 250 * sizes[index]  # noqa: B023

            largest(sizes, cost, limit, limit / 300)
            assert len(asked) <= 5


def test_what_there_is() -> None:
    assert memory_to_plan_for(5e9, CPU) == 5e9
    assert memory_to_plan_for("auto", CPU) == pytest.approx(free_ram() / 2, rel=0.2)
