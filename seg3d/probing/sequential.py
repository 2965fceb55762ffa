"""A Sequential whose layers write over what nobody else can have need of."""

from __future__ import annotations

from torch import Tensor, nn

from seg3d.common.private import is_alone
from seg3d.probing.activations import ProbedLeakyReLU, ProbedReLU
from seg3d.probing.convolutions import ProbedConv3d
from seg3d.probing.norms import ProbedNorm
from seg3d.probing.probed_layer import is_watched

# A tuple, which torch.compile of PyTorch 2.8 understands.
InPlace = (ProbedConv3d, ProbedNorm, ProbedReLU, ProbedLeakyReLU)


class ProbedSequential(nn.Sequential):
    """:class:`torch.nn.Sequential` that takes one tensor where there are usually two.

    What one of its layers puts out goes to the next and to nobody else, unless a hook, an
    attribute or the graph keeps it, which is found out by counting the references. So the next
    layer may write over it.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Apply all layers, one after the other."""
        held = [input]
        self.apply_to(held)
        return held.pop()

    def apply_to(self, held: list[Tensor]) -> None:
        """Replace the one tensor in ``held``; a list of ours is no second holder of it."""
        for module in self:
            apply_to(module, held)


def apply_to(module: nn.Module, held: list[Tensor]) -> None:
    """Replace the one tensor in ``held``, which nobody else need hold, by ``module``'s output."""
    if isinstance(module, ProbedSequential) and not is_watched(module, held[0]):
        module.apply_to(held)
        return
    x = held.pop()
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
