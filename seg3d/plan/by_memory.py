"""The largest patch with which a training step fits into a given memory.

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
from seg3d.geometry import Shape3
from seg3d.memory import fake_copy, step_memory
from seg3d.plan.build import build_loss, build_network
from seg3d.plan.network import features_of, plan_network
from seg3d.plan.plan import Plan
from seg3d.probing import first_bits, set_bits

# Of a memory, what is planned for. An allocator cannot use all of it, and peaks are predicted to
# within some per cent.
USABLE = 0.9
# Of the RAM that is free, what `auto` takes on a CPU: the data want some too.
SHARE_OF_RAM = 0.5
# Patches are tried whose voxels differ by about this factor, a few per cent along each side.
FINENESS = 2 ** (1 / 8)
FEWEST_VOXELS = 8**3
# Where the search begins: what a voxel of the patch takes with a batch of two, and how many times
# that with exact gradients.
BYTES_OF_VOXEL = 300
TIMES_EXACT = 6
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
        plan: with the largest patch that fits.
        peak: of training with it.
        memory: bytes that there are, or None if nobody asked.
        larger: the next larger patch and its peak, or None if the patch is a typical volume.
        exact: the largest patch that fits with exact gradients, with its peak; None if none does.
    """

    plan: Plan
    peak: Peak
    memory: float | None = None
    larger: tuple[Shape3, Peak] | None = None
    exact: tuple[Shape3, Peak] | None = None


def memory_to_plan_for(memory: Literal["auto"] | float, device: torch.device) -> float:
    """Bytes from ``plan.memory``: ``auto`` is what is free on a GPU, or half of the free RAM."""
    if memory != "auto":
        return memory
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    return SHARE_OF_RAM * free_ram()


def plan_for_memory(
    config: Config, plan: Plan, typical_shape: Shape3, memory: float, dtype: torch.dtype
) -> Choice:
    """Give a plan the largest patch that can be trained with.

    The patches are those of :func:`seg3d.plan.network.auto_patch`: of about equal sides in mm, and
    never larger than a typical volume, padded.

    Args:
        config: of the run; a patch size that it gives is kept.
        plan: of the run.
        typical_shape: voxels of a typical volume.
        memory: bytes that training may take.
        dtype: that training computes in.

    Raises:
        UserError: if not even the smallest patch fits, or the config asks for what cannot be.
    """
    plans = _plans(config, plan, typical_shape)
    sizes = [math.prod(one.patch_size) for one in plans]
    peak_of = cache(lambda index: predicted_peak(config, plans[index], dtype))
    limit = USABLE * memory
    best = largest(sizes, lambda index: peak_of(index).total, limit, limit / BYTES_OF_VOXEL)
    if best < 0:
        least = readable(peak_of(0).total / USABLE)
        raise UserError(
            "plan.memory is too small for any patch",
            given=readable(memory),
            legal=f"{least} or more, for patches of {list(plans[0].patch_size)} voxels",
            fix="a smaller train.batch_size, fewer network.channels, or more memory",
        )
    larger = (plans[best + 1].patch_size, peak_of(best + 1)) if best + 1 < len(plans) else None
    exact = _exactly(config, plans[: best + 1], dtype, limit)
    return Choice(plans[best], peak_of(best), memory, larger, exact)


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


def predicted_peak(config: Config, plan: Plan, dtype: torch.dtype) -> Peak:
    """The peak of training with a plan: probing and loss as configured, the optimiser's state too.

    Args:
        config: of the run.
        plan: of the run.
        dtype: that training computes in.

    Raises:
        UserError: if the network cannot be built.
    """
    with torch.device("meta"):
        network = build_network(config, plan)
    loss = build_loss(config.loss, plan.class_names)
    shape = (config.train.batch_size, len(plan.channels), *plan.patch_size)
    amp = dtype != torch.float32
    if config.probing.sketch == "rotated" and config.probing.bits == "auto":
        fakes = FakeTensorMode(allow_non_fake_inputs=True)
        fake = fake_copy(network, fakes, torch.float32, torch.device("cpu")).train()

        def run() -> None:
            with fakes, torch.autocast("cpu", dtype, enabled=amp):
                fake(torch.empty(shape))

        set_bits(network, first_bits(fake, run))

    step = step_memory(network, shape, dtype, loss=loss, amp=amp, workspaces=True)
    kept = _kept_by_optimiser(config.train)
    weights = step.parameters * (1 + kept)
    # Between the batches of one step the gradients stay.
    waiting = step.parameters if config.train.accumulate > 1 else 0
    scores = step.saved_by_layer.get("loss", 0)
    codes = step.saved - scores
    working = step.peak - step.parameters - codes - scores + waiting
    # The optimiser's own step needs the gradients, and a copy of them.
    update = 2 * step.parameters
    return max(
        Peak(weights, codes, scores, working),
        Peak(weights, 0, 0, update),
        key=lambda peak: peak.total,
    )


def _kept_by_optimiser(train: TrainConfig) -> int:
    """Numbers for each parameter: the momentum of SGD, two moments of AdamW."""
    return 2 if train.optimizer == "adamw" else int(train.momentum > 0)


def _exactly(
    config: Config, plans: Sequence[Plan], dtype: torch.dtype, limit: float
) -> tuple[Shape3, Peak] | None:
    probing = config.probing.model_copy(update={"sketch": "exact", "streamed": False})
    exact = config.model_copy(update={"probing": probing})
    peak_of = cache(lambda index: predicted_peak(exact, plans[index], dtype))
    sizes = [math.prod(one.patch_size) for one in plans]
    first = limit / BYTES_OF_VOXEL / TIMES_EXACT
    best = largest(sizes, lambda index: peak_of(index).total, limit, first)
    return None if best < 0 else (plans[best].patch_size, peak_of(best))


def _plans(config: Config, plan: Plan, typical_shape: Shape3) -> list[Plan]:
    """The plan with every patch there may be, smallest first."""
    found: dict[Shape3, Plan] = {}
    most = math.prod(32 * math.ceil(side / 32) for side in typical_shape)
    count = 2 + math.ceil(math.log(max(most / FEWEST_VOXELS, 1), FINENESS))
    refused: UserError | None = None
    for voxels in np.geomspace(min(FEWEST_VOXELS, most), most, count):
        patch = config.patch.model_copy(update={"voxels": math.ceil(voxels)})
        try:
            size, kernels, strides = plan_network(
                config.model_copy(update={"patch": patch}), plan.typical_spacing, typical_shape
            )
        except UserError as error:
            refused = error
            continue
        found[size] = plan.model_copy(
            update={
                "patch_size": size,
                "kernels": kernels,
                "strides": strides,
                "features": features_of(config, len(strides)),
            }
        )
    if not found and refused:
        raise refused
    return sorted(found.values(), key=lambda one: math.prod(one.patch_size))
