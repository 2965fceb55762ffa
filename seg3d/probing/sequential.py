"""Tensors handed from layer to layer, so that each may write over what nobody else has need of.

They travel in a list, and whoever has need of one takes it off: a call of a module would hold on
to its arguments until it is done. A list of several stands for their concatenation along the
channels, which a convolution reads part by part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from seg3d.common.private import is_alone
from seg3d.probing.activations import ProbedLeakyReLU, ProbedPReLU, ProbedReLU
from seg3d.probing.convolutions import ProbedConv3d, ProbedConvTranspose3d
from seg3d.probing.norms import ProbedNorm
from seg3d.probing.probed_layer import is_watched
from seg3d.probing.upsampled import Upsampled

# Of tensors, of forks, and of those that are yet to be made.
Held = list[Any]
Layers = Iterable[Callable[[Tensor], Tensor]]
# Tuples, which torch.compile of PyTorch 2.8 understands.
InPlace = (ProbedConv3d, ProbedNorm, ProbedReLU, ProbedLeakyReLU, ProbedPReLU)
Convolution = (ProbedConv3d, ProbedConvTranspose3d)


class Fork:
    """A tensor that another reader will have need of, behind the one that is given it first.

    A convolution that reads it puts in its place what :meth:`ProbedConv3d.with_skip` hands on,
    whose gradient it will add to in place.
    """

    def __init__(self, x: Tensor) -> None:
        self.x = x


class Relay:
    """A module that only hands on what it is given to other modules, and lets go of it."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply all modules to the ordinary module's input."""
        held = [input]
        self.apply_to(held)
        return joined(held)

    def apply_to(self, held: Held) -> None:
        """Replace what is in ``held``; a list of ours is no second holder of it."""
        raise NotImplementedError


class ProbedSequential(Relay, nn.Sequential):
    """:class:`torch.nn.Sequential` that takes one tensor where there are usually two.

    What one of its layers puts out goes to the next and to nobody else, unless a hook, an
    attribute or the graph keeps it, which is found out by counting the references. So the next
    layer may write over it.
    """

    def apply_to(self, held: Held) -> None:
        """Apply all layers, one after the other."""
        apply_all(self, held)


def apply_all(modules: Layers, held: Held) -> None:
    """:func:`apply_to` for one module after the other."""
    for module in modules:
        apply_to(module, held)


def apply_to(module: Callable[[Tensor], Tensor], held: Held) -> None:
    """Replace what is in ``held``, which nobody else need hold, by ``module``'s output."""
    if isinstance(module, Relay) and not _is_watched(module, held):
        module.apply_to(held)
        return
    if (
        isinstance(module, Convolution)
        and module.is_sparing()
        and _last(held).dim() == 5
        and not _is_watched(module, held)
    ):
        if len(held) > 1 and module.takes_parts():
            held.append(module.of_parts(_taken_off(held)))
            return
        if isinstance(held[0], Fork) and isinstance(module, ProbedConv3d):
            fork = held.pop()
            y, fork.x = module.with_skip(fork.x)
            held.append(y)
            return
    x = joined(held)
    if (
        isinstance(module, InPlace)
        and module.is_sparing()
        and not is_watched(module, x)
        and is_alone(x)
    ):
        asked, module.inplace = module.inplace, True
        try:
            held.append(module(x))
        finally:
            module.inplace = asked
    else:
        held.append(module(x))


def joined(held: Held) -> Tensor:
    """Take everything off ``held``: the one tensor, or the concatenation of all."""
    if len(held) > 1:
        held[:] = [torch.cat([_made(part) for part in held], dim=1)]
    return _made(held.pop())


def _made(part: Tensor | Fork | Upsampled) -> Tensor:
    if isinstance(part, Fork):
        return part.x
    return part() if isinstance(part, Upsampled) else part


def _taken_off(held: Held) -> list[Callable[[], Tensor]]:
    """The parts that were in ``held``, as :meth:`ProbedConv3d.of_parts` wants them."""
    parts: list[Any] = [part if isinstance(part, Upsampled) else [_made(part)].pop for part in held]
    held.clear()
    return parts


def _last(held: Held) -> Tensor:
    last: Any = held[-1]
    x: Tensor = last.x if isinstance(last, Fork) else last
    return x


def _is_watched(module: nn.Module, held: Held) -> bool:
    return is_watched(module, _last(held))


def forked(held: Held) -> Fork:
    """The fork of what is in ``held``, which stays there, for another reader."""
    if not (len(held) == 1 and isinstance(held[0], Fork)):
        held.append(Fork(joined(held)))
    fork: Fork = held[0]
    return fork


def shared(held: Held) -> Tensor:
    """What is in ``held``, which stays there."""
    held.append(joined(held))
    x: Tensor = held[0]
    return x


def add_branches(main: Layers, past: Layers, held: Held, *, inplace: bool = False) -> None:
    """Replace x in ``held`` by main(x) + past(x).

    The branch past is done last, so that in the backward pass it comes first, and the gradient
    of the sum is left to the main one alone, which writes over it.

    Args:
        main: layers, one behind the other.
        past: likewise; none for x itself.
        held: of x.
        inplace: write the sum over main(x), as the ordinary module does; otherwise that is done
            where nobody else sees it.
    """
    shared_outside = isinstance(held[0], Fork)
    fork = forked(held)
    apply_all(main, held)
    other: Held = [fork if shared_outside else fork.x]
    del fork
    apply_all(past, other)
    add_to(held, joined(other), inplace=inplace)


def add_to(held: Held, past: Tensor, *, inplace: bool = False) -> None:
    """Add ``past`` to what is in ``held``: in place if asked to, or where nobody else sees it."""
    x = joined(held)
    if inplace or (is_alone(x) and _fits(past, x)):
        x += past
    else:
        x = x + past
    held.append(x)


def _fits(past: Tensor, x: Tensor) -> bool:
    """Whether the sum is of x's shape and type."""
    return x.shape == past.shape and torch.result_type(x, past) == x.dtype


def as_probed(module: nn.Sequential) -> None:
    """Turn any kind of Sequential, in place, into one that is a :class:`ProbedSequential` too."""
    module.__class__ = _probed_kind(type(module))


_kinds: dict[type[nn.Sequential], type[ProbedSequential]] = {}


def _probed_kind(kind: type[nn.Sequential]) -> type[ProbedSequential]:
    if kind not in _kinds:
        # Pickle would not find the class.
        members = {"__reduce_ex__": lambda module, _: (_unborn, (kind,), module.__dict__)}
        _kinds[kind] = type(f"Probed{kind.__name__}", (ProbedSequential, kind), members)
    return _kinds[kind]


def _unborn(kind: type[nn.Sequential]) -> nn.Sequential:
    probed = _probed_kind(kind)
    return probed.__new__(probed)
