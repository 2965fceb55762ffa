"""Optimisers and their learning-rate schedules."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from seg3d.config import TrainConfig
from seg3d.plan import by_factor

LEARNING_RATE = {"sgd": 0.01, "adamw": 3e-4}
WEIGHT_DECAY = {"sgd": 3e-5, "adamw": 0.01}
# What is kept for each parameter.
STATE = {"SGD": {"momentum_buffer"}, "AdamW": {"step", "exp_avg", "exp_avg_sq"}}


def make_optimizer(network: nn.Module, train: TrainConfig) -> Optimizer:
    """SGD with Nesterov momentum, or AdamW.

    Raises:
        UserError: if ``train.lr_factors`` does not fit the network.
    """
    rate = LEARNING_RATE[train.optimizer] if train.learning_rate == "auto" else train.learning_rate
    decay = WEIGHT_DECAY[train.optimizer] if train.weight_decay == "auto" else train.weight_decay
    groups = [
        {"params": parameters, "lr": factor * rate, "factor": factor}
        for factor, parameters in by_factor(network, train.lr_factors).items()
    ]
    if train.optimizer == "sgd":
        return SGD(
            groups,
            lr=rate,
            momentum=train.momentum,
            nesterov=train.momentum > 0,
            weight_decay=decay,
        )
    return AdamW(groups, lr=rate, weight_decay=decay)


def require_fitting_state(optimizer: Optimizer) -> None:
    """Require that what an optimiser was given to go on with is what it would have kept itself.

    Raises:
        ValueError: if it is not.
    """
    for parameter, state in optimizer.state.items():
        if state and (unknown := state.keys() ^ STATE[type(optimizer).__name__]):
            raise ValueError(f"{min(unknown)} of the optimiser is missing, or there without need")
        for name, value in state.items():
            shape = torch.Size() if name == "step" else parameter.shape
            # Without momentum none is kept.
            kept = value is None and name == "momentum_buffer"
            if not (kept or (_finite(value) and value.shape == shape)):
                raise ValueError(f"{name} of the optimiser does not fit the network")


def learning_rate(optimizer: Optimizer) -> float:
    """That of the next step, where it has no factor."""
    group = optimizer.param_groups[0]
    return float(group["lr"] / group["factor"])


def make_schedule(optimizer: Optimizer, train: TrainConfig, done: int = 0) -> LambdaLR:
    """Per optimiser step: polynomial decay of power 0.9 (nnU-Net), or warm-up and cosine.

    Args:
        optimizer: is given the rate of the next step.
        train: the settings.
        done: steps that have been made; if any, the optimizer has had a schedule before.
    """
    steps = train.epochs * train.iterations_per_epoch
    warmup = round(train.warmup * steps)

    def polynomial(step: int) -> float:
        return max(1 - step / steps, 0.0) ** 0.9

    def cosine(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * min((step - warmup) / max(steps - warmup, 1), 1.0)))

    return LambdaLR(optimizer, polynomial if train.optimizer == "sgd" else cosine, done - 1)


def _finite(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and bool(value.isfinite().all())
