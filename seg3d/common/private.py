"""Whether a tensor may be overwritten: only if it can be proved that nobody else holds it."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd.graph import saved_tensors_hooks


def is_private(gradient: Tensor) -> bool:
    """Whether the caller, the ``backward`` of an autograd Function, alone holds ``gradient``.

    Autograd hands one and the same tensor to all consumers of a sum, to hooks and to users, so
    that writing into it would corrupt what the others see. The references to the tensor, to its
    Python object and to its storage are counted, and compared with the counts in a graph in
    which there is no other holder. Whatever is not understood counts as not private.

    Args:
        gradient: a local variable of ``backward``, to which it has no second reference.
    """
    return (
        not torch.compiler.is_compiling()
        and _holders(gradient) == _holders_of_a_private_gradient()
        and gradient._base is None
        and gradient.untyped_storage().nbytes() == gradient.numel() * gradient.element_size()
        and (
            gradient.is_contiguous() or gradient.is_contiguous(memory_format=torch.channels_last_3d)
        )
    )


def is_private_though_saved(saved: Tensor) -> bool:
    """Whether the caller, the ``backward`` of an autograd Function, alone holds what it has saved.

    Counted as in :func:`is_private`. Where hooks for saved tensors stand between, their holders
    cannot be seen, and the answer is no; but fake tensors, whose memory is counted through such
    hooks, have no values that could be lost.

    Args:
        saved: of ``ctx.saved_tensors``, a local variable and nothing else; an input of the Function
            that another one has put out.
    """
    if torch._C._autograd._get_current_graph_task_keep_graph() or saved._base is not None:
        return False  # it will be needed again
    holders = _holders(saved)
    if isinstance(saved, FakeTensor) and holders == _holders_of_a_saved_tensor(hooked=True):
        return True
    return holders == _holders_of_a_saved_tensor(hooked=False)


def is_alone(x: Tensor) -> bool:
    """Whether ``x``, in a forward pass, is held by a local variable of the caller and nothing else.

    The graph does not hold it either; the same is counted as in :func:`is_private`.
    """
    if torch.compiler.is_compiling():
        return False
    return x._base is None and _holders(x) == _holders_of_a_fresh_tensor()


def _holders(tensor: Tensor) -> tuple[int, int, int] | None:
    try:
        storage = torch._C._storage_Use_Count(tensor.untyped_storage()._cdata)
        return tensor._use_count(), sys.getrefcount(tensor), storage  # type: ignore[attr-defined]
    except AttributeError:
        return None  # an older torch, which does not tell


@lru_cache(maxsize=1)
def _holders_of_a_private_gradient() -> tuple[int, int, int] | str:
    """The counts that a backward pass sees whose gradient comes straight from another one's."""
    seen: list[tuple[int, int, int] | None] = []

    class Witness(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            seen.append(_counted(gradient))
            return gradient.clone()

    with torch.enable_grad():
        x = torch.zeros(2, requires_grad=True)
        Witness.apply(Witness.apply(x)).sum().backward()
    return seen[-1] or "unknown"


@lru_cache(maxsize=2)
def _holders_of_a_saved_tensor(hooked: bool) -> tuple[int, int, int] | str:
    """The counts of an input that a Function has saved, seen from its backward pass."""
    seen: list[tuple[int, int, int] | None] = []

    class Witness(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x.sum()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            (x,) = ctx.saved_tensors
            seen.append(_counted(x))
            return x.clone()

    hooks = saved_tensors_hooks(lambda one: one, lambda one: one) if hooked else nullcontext()
    with torch.enable_grad(), hooks:
        total = Witness.apply(torch.zeros(2, requires_grad=True).clone())
    total.backward()
    return seen[-1] or "unknown"


def _counted(tensor: Tensor) -> tuple[int, int, int] | None:
    """As deep in the stack as :func:`is_private` and :func:`is_alone` are when they count."""
    return _holders(tensor)


@lru_cache(maxsize=1)
def _holders_of_a_fresh_tensor() -> tuple[int, int, int] | str:
    with torch.enable_grad():
        fresh = torch.zeros(2, requires_grad=True).clone()
        return _counted(fresh) or "unknown"
