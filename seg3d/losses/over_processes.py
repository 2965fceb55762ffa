"""Sums over the processes that share a batch, with the gradients that their mean needs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed
from torch.autograd.function import once_differentiable


def sum_over_processes(x: Tensor, group: distributed.ProcessGroup) -> Tensor:
    """The sum of what the processes of a group have, the same for all.

    `DistributedDataParallel` takes the mean of the processes' gradients, where the gradient of one
    loss of all of them is the sum of what each contributes: so each contributes as many times more
    as there are processes.
    """
    total: Tensor = _Sum.apply(x, group)
    return total


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: distributed.ProcessGroup) -> Tensor:
        ctx.processes = group.size()
        total = x.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total, group=group)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_total: Tensor) -> tuple[Tensor, None]:
        return ctx.processes * by_total, None
