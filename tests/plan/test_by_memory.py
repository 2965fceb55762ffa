"""The patch that a memory allows: it fits, the next larger does not, and few trials find it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
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
    typical_shape,
)
from seg3d.plan.by_memory import largest
from seg3d.plan.network import padded, plan_network
from tests.plan.test_plan import config, dataset, survey

MIB = 2**20
CPU = torch.device("cpu")
SMALL = {"channels": [8, 16, 32]}
THIN = {"channels": [4, 8]}


def planned(
    settings: Config,
    shape: Shape3,
    spacing: tuple[float, float, float] = (1, 1, 1),
    labels: int = 2,
) -> tuple[Plan, Shape3]:
    found = {"a": survey(shape, spacing, tuple(range(labels)))}
    plan = make_plan(settings, dataset(), found)
    return plan, typical_shape(settings, plan, found)


def chosen(
    memory: float,
    shape: Shape3 = (100, 100, 70),
    spacing: tuple[float, float, float] = (1, 1, 1),
    labels: int = 2,
    cases: int = 1,
    fits: Callable[[Plan], bool] | None = None,
    **sections: Any,
) -> Choice:
    settings = config(**{"network": THIN, "plan": {"memory": memory}, **sections})
    plan, typical = planned(settings, shape, spacing, labels)
    return plan_for_memory(settings, plan, typical, cases, memory, torch.float32, fits)


@pytest.mark.parametrize(
    "memory, shape, spacing, labels",
    [
        (12 * MIB, (100, 100, 70), (1, 1, 1), 2),
        (12 * MIB, (160, 160, 12), (0.5, 0.5, 4), 2),
        (90 * MIB, (70, 100, 90), (1, 1, 1), 60),
    ],
)
def test_the_largest_patch_that_fits(
    memory: float, shape: Shape3, spacing: tuple[float, float, float], labels: int
) -> None:
    choice = chosen(memory, shape, spacing, labels)
    patch = choice.plan.patch_size
    assert choice.peak.total <= USABLE * memory
    assert all(side <= 2 * math.ceil(full / 2) for side, full in zip(patch, shape, strict=True))
    assert choice.larger is not None and choice.exact is not None
    assert choice.larger[1].total > USABLE * memory
    assert math.prod(choice.larger[0].patch_size) > math.prod(patch)
    assert choice.exact[1].total <= USABLE * memory
    assert math.prod(choice.exact[0].patch_size) <= math.prod(patch)
    # About equal sides in mm, where the volume allows it.
    sides = [
        side * step
        for side, step, full in zip(patch, spacing, shape, strict=True)
        if side < full - 16
    ]
    assert max(sides) <= 2 * min(sides)


def test_a_plan_for_memory_is_one_that_can_be_trained() -> None:
    choice = chosen(12 * MIB)
    again = config(network=THIN, patch={"size": list(choice.plan.patch_size)})
    assert planned(again, (100, 100, 70))[0] == choice.plan


def test_sketches_allow_more_than_exact_gradients_in_a_small_memory_too() -> None:
    """With 64 MiB to begin with, nearly all layers of such a network would be exact."""
    choice = chosen(100 * MIB, (300, 300, 200), network=SMALL)
    assert choice.peak.codes < 100 * MIB / 7
    assert choice.exact is not None
    assert math.prod(choice.plan.patch_size) >= 1.9 * math.prod(choice.exact[0].patch_size)


@pytest.mark.parametrize("shape", [(50, 45, 23), (33, 40, 9)])
def test_a_whole_volume_is_reached(shape: Shape3) -> None:
    choice = chosen(GIB, shape)
    assert choice.larger is None and choice.plan.batch_size == 2
    assert choice.plan.patch_size == tuple(2 * math.ceil(side / 2) for side in shape)


@given(
    shape=st.tuples(*[st.integers(1, 450)] * 3).filter(lambda shape: max(shape) >= 8),
    spacing=st.tuples(*[st.floats(0.3, 6)] * 3),
)
def test_padded_volumes_are_legal_and_no_larger_than_need_be(
    shape: Shape3, spacing: tuple[float, float, float]
) -> None:
    size = padded(config(), spacing, shape)
    strides = plan_network(config(patch={"size": size}), spacing, shape)[2]
    for side, full, factor in zip(size, shape, np.prod(strides, axis=0), strict=True):
        assert full <= side < full + 32 and side % factor == 0


AUTO = {"batch_size": "auto"}
WHOLE = (24, 20, 16)


def test_what_whole_volumes_leave_is_filled_with_a_larger_batch() -> None:
    how: dict[str, Any] = {"train": AUTO, "probing": {"bits": 1}}
    few = chosen(GIB, WHOLE, cases=30, **how)
    assert few.plan.batch_size == 2 and few.larger is None  # 5 % of 30 volumes
    many = chosen(GIB, WHOLE, cases=100, **how)
    assert many.plan.batch_size == 5 and many.larger is None
    scarce = chosen(0.99 * many.peak.total / USABLE, WHOLE, cases=100, **how)
    assert scarce.plan.batch_size == 4 and scarce.plan.patch_size == WHOLE
    assert scarce.larger is not None and scarce.larger[0].batch_size == 5
    assert chosen(GIB, WHOLE, cases=100).plan.batch_size == 2
    assert chosen(GIB, WHOLE, cases=100, train={"batch_size": 3}).plan.batch_size == 3


def test_single_patches_where_no_two_fit() -> None:
    size, bits = {"size": [32, 32, 32]}, {"bits": 1}
    single = config(network=THIN, patch=size, probing=bits, train={"batch_size": 1})
    plan, _ = planned(single, WHOLE)
    memory = 1.2 * predicted_peak(single, plan, torch.float32).total / USABLE
    choice = chosen(memory, patch=size, probing=bits, train=AUTO)
    assert choice.plan.batch_size == 1
    with pytest.raises(UserError, match="for 2 patches of"):
        chosen(memory, patch=size, probing=bits)


def test_a_plan_that_is_out_of_memory_when_tried_gives_way_to_the_next_smaller() -> None:
    untried = chosen(12 * MIB)
    most = math.prod(untried.plan.patch_size)
    tried: list[Shape3] = []

    def fits(plan: Plan) -> bool:
        tried.append(plan.patch_size)
        return math.prod(plan.patch_size) < most

    choice = chosen(12 * MIB, fits=fits)
    assert choice.tried and not untried.tried
    assert tried == [untried.plan.patch_size, choice.plan.patch_size]
    assert choice.larger is not None and choice.larger[0] == untried.plan
    with pytest.raises(UserError, match="too small for any patch"):
        chosen(12 * MIB, patch={"size": [16, 16, 16]}, fits=lambda plan: False)


def test_what_the_peak_is_made_of() -> None:
    peaks = {}
    for name, train in {
        "sgd": {},
        "plain": {"momentum": 0},
        "adamw": {"optimizer": "adamw"},
        "accumulated": {"accumulate": 2},
    }.items():
        settings = config(network=SMALL, patch={"size": [32, 32, 32]}, train=train)
        plan, _ = planned(settings, (100, 100, 100), labels=3)
        peaks[name] = predicted_peak(settings, plan, torch.float32)
        if name == "sgd":
            shared = predicted_peak(settings, plan, torch.float32, shared=True)
    parameters = peaks["plain"].weights
    assert shared.total == peaks["sgd"].total + parameters
    assert peaks["sgd"].weights == 2 * parameters
    assert peaks["adamw"].weights == 3 * parameters
    assert peaks["adamw"].total == peaks["sgd"].total + parameters
    assert peaks["accumulated"].total == peaks["sgd"].total + parameters
    # In float32: the eight features of which three classes' scores are made, and those at half the
    # resolution.
    voxels = 2 * 32**3
    assert peaks["sgd"].scores == pytest.approx(4 * (8 * voxels + 3 * voxels // 8), rel=1e-3)


def test_the_optimisers_own_step_may_be_the_peak() -> None:
    settings = config(network={"channels": [8, 512]}, patch={"size": [8, 8, 8]})
    plan, _ = planned(settings, (100, 100, 100))
    peak = predicted_peak(settings, plan, torch.float32)
    assert peak.total >= 2 * peak.weights


def test_a_patch_that_is_given_is_kept_or_refused() -> None:
    size = {"size": [32, 32, 32]}
    choice = chosen(GIB, patch=size)
    assert choice.plan.patch_size == (32, 32, 32) and choice.larger is None
    with pytest.raises(
        UserError, match=r"too small for any patch\n.*5.00 MiB\n.*or more, for 2 pat"
    ):
        chosen(5 * MIB, patch=size)


def test_less_than_the_smallest_patch_takes() -> None:
    with pytest.raises(UserError, match=r"plan.memory is too small(.|\n)*128.00 KiB(.|\n)*or more"):
        chosen(MIB / 8)


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


def test_a_preset_keeps_its_blocks_whatever_patch_the_memory_allows() -> None:
    plan = chosen(40 * MIB, network={"preset": "resenc-xl", **SMALL}).plan
    assert math.prod(plan.patch_size) < 128**3
    assert plan.blocks == [1, 3, 4]


def test_the_encoder_is_residual_where_there_is_room_for_it_beside_the_largest_patch() -> None:
    def of(memory: float, **sections: Any) -> Choice:
        return chosen(memory, network={"preset": "auto", **SMALL}, **sections)

    whole = of(400 * MIB)
    assert whole.plan.blocks == [1, 3, 4] and whole.residual is None and whole.larger is None
    assert whole.peak.total <= USABLE * 400 * MIB

    # No more than the plain network takes with its largest patch.
    memory = chosen(20 * MIB, network=SMALL).peak.total / USABLE + 1
    tight, plain = of(memory), chosen(memory, network=SMALL)
    assert (tight.plan, tight.peak) == (plain.plan, plain.peak)
    assert tight.residual is not None
    residual, peak = tight.residual
    assert residual == tight.plan.model_copy(update={"blocks": [1, 3, 4]})
    assert peak.total > USABLE * memory

    refused = of(400 * MIB, fits=lambda plan: plan.blocks is None)
    assert refused.plan.blocks is None and refused.residual is not None
    assert of(400 * MIB, probing={"streamed": True}).plan.blocks is None
