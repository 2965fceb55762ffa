"""The largest patch, and batch, with which a training step fits into a given memory.

Peaks are predicted with fake tensors, so that a network is planned for any card on any machine.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from seg3d.common.errors import UserError
from seg3d.common.free_ram import free_ram
from seg3d.common.sizes import readable
from seg3d.config import Config, TrainConfig
from seg3d.config.values import MOST_PATCHES
from seg3d.geometry import Shape3
from seg3d.memory import fake_copy, step_memory
from seg3d.plan.build import build_loss, build_network
from seg3d.plan.make import passes_per_step
from seg3d.plan.network import (
    features_of,
    padded,
    padded_for_strides,
    patch_for_strides,
    plan_network,
)
from seg3d.plan.plan import Plan
from seg3d.plan.presets import blocks_of, with_residual_encoder
from seg3d.probing import first_bits, set_bits
from seg3d.probing.bits import LITTLE

# Of a memory, what is planned for. An allocator cannot use all of it, and peaks are predicted to
# within some per cent.
USABLE = 0.9
# Of the RAM that is free, what `auto` takes on a CPU: the data want some too.
SHARE_OF_RAM = 0.5
# Patches are tried whose voxels differ by about this factor, a few per cent along each side.
FINENESS = 2 ** (1 / 8)
FEWEST_VOXELS = 8**3
# Where the search begins: what a voxel of the batch takes, and how many times that with exact
# gradients.
BYTES_OF_VOXEL = 150
TIMES_EXACT = 6
# nnU-Net: a batch has no more than this share of all voxels of the dataset.
SHARE_OF_DATASET = 0.05
# Of a small memory, what layers may keep that would do with less.
SHARE_OF_LITTLE = 1 / 8
# After so many guesses by a straight line, halving is quicker.
MOST_GUESSES = 4


@dataclass(frozen=True)
class Peak:
    """The worst moment of training, in bytes.

    Attributes:
        weights: parameters, and what the optimiser keeps for each.
        codes: what the layers keep for the backward pass.
        scores: what the loss keeps for it.
        working: all else: the layers at work, gradients, the batch.
    """

    weights: int
    codes: int
    scores: int
    working: int

    @property
    def total(self) -> int:
        return self.weights + self.codes + self.scores + self.working


@dataclass(frozen=True)
class Choice:
    """A plan for a memory, and what lies beside it.

    Attributes:
        plan: the largest that fits.
        peak: of training with it.
        memory: bytes that there are, or None if nobody asked.
        larger: the next larger plan and its peak, or None if there is none.
        residual: the plan with a residual encoder and its peak, if there was no room for that.
        exact: the largest plan that fits with exact gradients, and its peak; None if none does.
        tried: whether steps were done by this plan, and those by the larger one, where its peak
            should fit, were out of memory.
    """

    plan: Plan
    peak: Peak
    memory: float | None = None
    larger: tuple[Plan, Peak] | None = None
    residual: tuple[Plan, Peak] | None = None
    exact: tuple[Plan, Peak] | None = None
    tried: bool = False


def memory_to_plan_for(memory: Literal["auto"] | float, device: torch.device) -> float:
    """Bytes from ``plan.memory``: ``auto`` is what is free on a GPU, or half of the free RAM."""
    if memory != "auto":
        return memory
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    return SHARE_OF_RAM * free_ram()


def little_of(config: Config, plan: Plan) -> float:
    """Bytes of a patch that layers may keep where one bit in each takes less: 64 MiB at most."""
    memory = config.plan.memory
    if memory is None or memory == "auto":
        return LITTLE
    return min(LITTLE, SHARE_OF_LITTLE * memory / plan.batch_size)


def plan_for_memory(
    config: Config,
    plan: Plan,
    typical_shape: Shape3,
    cases: int,
    memory: float,
    dtype: torch.dtype,
    fits: Callable[[Plan], bool] | None = None,
    *,
    shared: bool = False,
) -> Choice:
    """Give a plan the largest patch that can be trained with.

    The patches are those of :func:`seg3d.plan.network.auto_patch`: of about equal sides in mm, and
    never larger than a typical volume, padded. If ``train.batch_size`` is ``auto``, batches of two
    such volumes are followed by larger ones, and single patches are taken where no two fit. If
    ``network.preset`` is ``auto``, the encoder is residual where that fits with what was found.

    Args:
        config: of the run; a patch size that it gives is kept, and so is a batch size.
        plan: of the run.
        typical_shape: voxels of a typical volume.
        cases: in the dataset.
        memory: bytes that training may take.
        dtype: that training computes in.
        fits: tries a plan for which there should be room; while it does not fit, the next smaller
            one is taken.
        shared: as for `predicted_peak`.

    Raises:
        UserError: if not even the smallest patch fits, or the config asks for what cannot be.
    """
    limit = USABLE * memory
    ladder = _Ladder(config, _plans(config, plan, typical_shape, cases), dtype, shared)
    best = ladder.highest(limit, limit / BYTES_OF_VOXEL)
    while best >= 0 and fits is not None and not fits(ladder.plans[best]):
        best -= 1
    if best < 0 and config.train.batch_size == "auto" and plan.batch_size > 1:
        single = plan.model_copy(update={"batch_size": 1})
        return plan_for_memory(
            config, single, typical_shape, cases, memory, dtype, fits, shared=shared
        )
    if best < 0:
        smallest, peak = ladder.rung(0)
        raise UserError(
            "plan.memory is too small for any patch",
            given=readable(memory),
            legal=f"{readable(peak.total / USABLE)} or more, for {smallest.batch_size} patches of "
            f"{list(smallest.patch_size)} voxels",
            fix="a smaller train.batch_size, fewer network.channels, or more memory",
        )
    chosen, residual = ladder.rung(best), None
    if wanted := with_residual_encoder(config, chosen[0]):
        residual = wanted, predicted_peak(config, wanted, dtype, shared=shared)
        if residual[1].total <= limit and (fits is None or fits(wanted)):
            chosen, residual = residual, None
    blocks = {"blocks": chosen[0].blocks}
    smaller = [one.model_copy(update=blocks) for one in ladder.plans[:best]]
    probing = config.probing.model_copy(update={"sketch": "exact", "streamed": False})
    exact_config = config.model_copy(update={"probing": probing})
    exact = _Ladder(exact_config, [*smaller, chosen[0]], dtype, shared)
    best_exact = exact.highest(limit, limit / BYTES_OF_VOXEL / TIMES_EXACT)
    return Choice(
        *chosen,
        memory,
        ladder.rung(best + 1) if best + 1 < len(ladder.plans) else None,
        residual,
        exact.rung(best_exact) if best_exact >= 0 else None,
        tried=fits is not None,
    )


class _Ladder:
    """Plans of growing size, and the peaks of training with them."""

    def __init__(
        self, config: Config, plans: Sequence[Plan], dtype: torch.dtype, shared: bool
    ) -> None:
        self.plans = plans
        self.peak = cache(lambda index: predicted_peak(config, plans[index], dtype, shared=shared))

    def rung(self, index: int) -> tuple[Plan, Peak]:
        return self.plans[index], self.peak(index)

    def highest(self, limit: float, first: float) -> int:
        sizes = [one.batch_size * math.prod(one.patch_size) for one in self.plans]
        return largest(sizes, lambda index: self.peak(index).total, limit, first)


def largest(
    sizes: Sequence[float], cost: Callable[[int], float], limit: float, first: float
) -> int:
    """The index of the largest size whose cost is within the limit, found with few calls.

    Args:
        sizes: growing.
        cost: of the size with an index; it grows with the size, about linearly.
        limit: of the cost.
        first: the size to begin with, as near as one can say.

    Returns:
        -1 if the cost of the smallest is beyond the limit.
    """
    low, high = -1, len(sizes)
    known: list[tuple[float, float]] = []
    guess = _at_most(sizes, first)
    while high - low > 1:
        guess = min(max(guess, low + 1), high - 1)
        found = cost(guess)
        known.append((found, sizes[guess]))
        low, high = (guess, high) if found <= limit else (low, guess)
        guess = (low + high) // 2
        if len(known) <= MOST_GUESSES:
            guess = _at_most(sizes, _size_at(limit, known))
    return low


def _at_most(sizes: Sequence[float], size: float) -> int:
    return bisect_right(sizes, size) - 1


def _size_at(limit: float, known: Sequence[tuple[float, float]]) -> float:
    """On the line through the two costs nearest to the limit, or through one and the origin."""
    nearest = sorted(known, key=lambda one: abs(one[0] - limit))[:2]
    (cost, size), (other, at) = nearest if len(nearest) == 2 else (nearest[0], (0.0, 0.0))
    return size + (limit - cost) * (size - at) / (cost - other) if cost != other else size


def predicted_peak(config: Config, plan: Plan, dtype: torch.dtype, *, shared: bool = False) -> Peak:
    """The peak of training with a plan: probing and loss as configured, the optimiser's state too.

    Args:
        config: of the run.
        plan: of the run.
        dtype: that training computes in.
        shared: with other processes; there is always room then for the gradients that are sent.

    Raises:
        UserError: if the network cannot be built.
    """
    with torch.device("meta"):
        network = build_network(config, plan)
    loss = build_loss(config.loss, plan)
    shape = (plan.batch_size, len(plan.channels), *plan.patch_size)
    amp = dtype != torch.float32
    if config.probing.sketch == "rotated" and config.probing.bits == "auto":
        fakes = FakeTensorMode(allow_non_fake_inputs=True)
        fake = fake_copy(network, fakes, torch.float32, torch.device("cpu")).train()

        def run() -> None:
            with fakes, torch.autocast("cpu", dtype, enabled=amp):
                fake(torch.empty(1, *shape[1:]))

        # As training does, by a single patch.
        set_bits(network, first_bits(fake, run, little_of(config, plan)))

    step = step_memory(network, shape, dtype, loss=loss, amp=amp, workspaces=True)
    kept = _kept_by_optimiser(config.train)
    trained = sum(one.nbytes for one in network.parameters() if one.requires_grad)
    weights = step.parameters + kept * trained
    # Between the batches of one step the gradients stay.
    waiting = trained if shared or passes_per_step(config, plan) > 1 else 0
    scores = step.saved_by_layer.get("loss", 0)
    codes = step.saved - scores
    working = step.peak - step.parameters - codes - scores + waiting
    # The optimiser's own step needs the gradients, and a copy of them.
    update = 2 * trained
    return max(
        Peak(weights, codes, scores, working),
        Peak(weights, 0, 0, update),
        key=lambda peak: peak.total,
    )


def _kept_by_optimiser(train: TrainConfig) -> int:
    """Numbers for each parameter that is trained: the momentum of SGD, two moments of AdamW."""
    return 2 if train.optimizer == "adamw" else int(train.momentum > 0)


def _plans(config: Config, plan: Plan, typical_shape: Shape3, cases: int) -> list[Plan]:
    """The plan with every patch that there may be, smallest first, and then with larger batches."""
    plans = _patches(config, plan, typical_shape) if config.patch.size == "auto" else [plan]
    if config.train.batch_size == "auto" and not plan.whole:
        voxels = SHARE_OF_DATASET * math.prod(typical_shape) * cases
        most = min(round(voxels / math.prod(plans[-1].patch_size)), MOST_PATCHES)
        plans += [
            plans[-1].model_copy(update={"batch_size": size})
            for size in range(plan.batch_size + 1, most + 1)
        ]
    return plans


def _patches(config: Config, plan: Plan, typical_shape: Shape3) -> list[Plan]:
    if config.train.init_from is not None:
        return _patches_of_network(plan, typical_shape)
    spacing = plan.typical_spacing
    whole = padded(config, spacing, typical_shape)
    budgets = _budgets(math.prod(whole))
    settings = [{"voxels": math.ceil(voxels)} for voxels in budgets] + [{"size": whole}]
    found: dict[Shape3, Plan] = {}
    refused: UserError | None = None
    for setting in settings:
        patch = config.patch.model_copy(update=setting)
        try:
            size, kernels, strides = plan_network(
                config.model_copy(update={"patch": patch}), spacing, whole
            )
        except UserError as error:
            refused = error
            continue
        if any(side > length for side, length in zip(size, whole, strict=True)):
            continue
        found[size] = plan.model_copy(
            update={
                "patch_size": size,
                "kernels": kernels,
                "strides": strides,
                "features": features_of(config, len(strides)),
                "blocks": blocks_of(config, len(strides)),
            }
        )
    if not found and refused:
        raise refused
    return sorted(found.values(), key=lambda one: math.prod(one.patch_size))


def _patches_of_network(plan: Plan, typical_shape: Shape3) -> list[Plan]:
    """Likewise, of the plan's own strides: what its weights have been trained with stays."""
    found: dict[Shape3, Plan] = {}
    whole = padded_for_strides(plan, typical_shape)
    smaller = [
        patch_for_strides(math.ceil(voxels), plan, typical_shape)
        for voxels in _budgets(math.prod(whole))
    ]
    for size in (*smaller, whole):
        if size != plan.divisors:
            found[size] = plan.model_copy(update={"patch_size": size})
    return sorted(found.values(), key=lambda one: math.prod(one.patch_size))


def _budgets(most: int) -> np.ndarray:
    """Voxels of patches to be tried, up to the most."""
    count = 2 + math.ceil(math.log(max(most / FEWEST_VOXELS, 1), FINENESS))
    return np.geomspace(min(FEWEST_VOXELS, most), most, count)
