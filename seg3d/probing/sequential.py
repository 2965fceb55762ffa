"""A Sequential whose norms and activations write over what nobody else can have need of."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

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
        held = [input]
        self.apply_to(held)
        return held.pop()

    def apply_to(self, held: list[Tensor]) -> None:
        """Replace the one tensor in ``held``; a list of ours is no second holder of it."""
        for module in self:
            if isinstance(module, ProbedSequential) and not is_watched(module, held[0]):
                module.apply_to(held)
                continue
            x = held.pop()
            if (
                isinstance(module, ProbedNorm | ProbedReLU | ProbedLeakyReLU)
                and module.is_probing()
                and not is_watched(module, x)
                and _is_alone(x)
            ):
                asked, module.inplace = module.inplace, True
                try:
                    held.append(module(x))
                finally:
                    module.inplace = asked
            else:
                held.append(module(x))
            del x

    def __reduce_ex__(self, protocol: Any) -> Any:
        # The classes that `as_probed` makes have no place where pickle would find them.
        return _unborn, (type(self).__bases__[-1],), self.__dict__


def as_probed(module: nn.Sequential) -> None:
    """Turn any kind of Sequential, in place, into one that is a :class:`ProbedSequential` too."""
    module.__class__ = _probed_kind(type(module))


_kinds: dict[type[nn.Sequential], type[ProbedSequential]] = {}


def _probed_kind(kind: type[nn.Sequential]) -> type[ProbedSequential]:
    if kind not in _kinds:
        _kinds[kind] = type(f"Probed{kind.__name__}", (ProbedSequential, kind), {})
    return _kinds[kind]


def _unborn(kind: type[nn.Sequential]) -> nn.Sequential:
    probed = _probed_kind(kind)
    return probed.__new__(probed)


def is_watched(module: nn.Module, x: Tensor) -> bool:
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
    if torch.compiler.is_compiling():
        return False
    return x._base is None and _holders(x) == _holders_of_a_fresh_tensor()


@lru_cache(maxsize=1)
def _holders_of_a_fresh_tensor() -> tuple[int, int, int] | str:
    with torch.enable_grad():
        fresh = torch.zeros(2, requires_grad=True).clone()
        return _counted(fresh) or "unknown"


def _counted(x: Tensor) -> tuple[int, int, int] | None:
    """As deep in the stack as :func:`_is_alone` is when it counts."""
    return _holders(x)
