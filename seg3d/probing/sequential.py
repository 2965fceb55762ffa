"""A Sequential whose norms and activations write over what nobody else can have need of."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.modules.module import _has_any_global_hook

from seg3d.probing.activations import ProbedLeakyReLU, ProbedReLU
from seg3d.probing.norms import ProbedNorm
from seg3d.probing.private import _holders


class ProbedSequential(nn.Sequential):
    """:class:`torch.nn.Sequential` that takes one tensor less between convolution and norm.

    What one of its layers puts out goes to the next and to nobody else, unless a hook, an
    attribute or the graph keeps it, which is found out by counting the references. So a norm
    may write over the output of the convolution before it.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Apply all layers, one after the other."""
        for module in self:
            if (
                isinstance(module, ProbedNorm | ProbedReLU | ProbedLeakyReLU)
                and module.is_probing()
                and not _is_watched(module, input)
                and _is_alone(input)
            ):
                asked, module.inplace = module.inplace, True
                try:
                    input = module(input)
                finally:
                    module.inplace = asked
            else:
                input = module(input)
        return input


def _is_watched(module: nn.Module, x: Tensor) -> bool:
    """Whether hooks see what goes into ``module``."""
    # Those of whoever measures memory see fake tensors, which have no values.
    return not isinstance(x, FakeTensor) and bool(
        module._forward_pre_hooks
        or module._forward_hooks
        or module._backward_pre_hooks
        or module._backward_hooks
        or _has_any_global_hook()
    )


def _is_alone(x: Tensor) -> bool:
    """Whether x is a tensor of its own and held by a variable of the caller and nothing else."""
    return x._base is None and _holders(x) == _holders_of_a_fresh_tensor()


@lru_cache(maxsize=1)
def _holders_of_a_fresh_tensor() -> tuple[int, int, int] | str:
    with torch.enable_grad():
        fresh = torch.zeros(2, requires_grad=True).clone()
        return _counted(fresh) or "unknown"


def _counted(x: Tensor) -> tuple[int, int, int] | None:
    """As deep in the stack as :func:`_is_alone` is when it counts."""
    return _holders(x)
