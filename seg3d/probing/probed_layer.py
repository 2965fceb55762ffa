"""What all probed layers have in common: a sketch, and a key that names the next draw."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from itertools import count
from typing import Any, NamedTuple, NoReturn, TypeVar, cast

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.modules.module import _has_any_global_hook

from seg3d.probing.keys import ProbeKey, process_rank
from seg3d.probing.names import Bits, check_sketch

Method = TypeVar("Method", bound=Callable[..., Any])

_construction_order = count()


class Sketched(NamedTuple):
    """What a layer has sketched: shape, ``(B, C, D, H, W)``, and bytes of an element."""

    shape: torch.Size
    element_size: int


class ProbedLayer(nn.Module):
    """A layer that, in training, keeps a sketch for the backward pass and not its input.

    The output is that of the ordinary layer; the gradients are random, with the exact ones as
    their mean. In eval mode under ``no_grad`` nothing is kept at all, and the layer works in place
    and in slabs as in training. In between (eval mode with gradients, training mode without, the
    sketch ``exact``) this *is* the ordinary layer. The state_dict is the ordinary layer's.

    Every forward pass draws new probes. :func:`set_probe_step` makes them reproducible; torch's
    global random generators are neither used nor touched.

    Attributes:
        sketch: name of the sketch, one of ``seg3d.probing.SKETCHES``.
        rank: number of probes of ``independent``, ``multichannel`` and ``orthogonal``.
        bits: kept per voxel by the sketch ``rotated``, one of ``seg3d.probing.BITS``.
        probe_key: names the next draw, the rank of the process apart.
        sketched: last, or None if it has had no need to.
    """

    sketch: str
    rank: int
    bits: Bits
    probe_key: ProbeKey
    sketched: Sketched | None = None

    def __init__(
        self, *args: Any, sketch: str = "rotated", rank: int = 64, bits: Bits = 1, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._become_probed(sketch, rank, bits)

    @classmethod
    def adopt(cls, layer: nn.Module, sketch: str, rank: int, bits: Bits) -> None:
        """Turn the ordinary ``layer`` into a probed one where it stands.

        It stays the same object, so that its parameters, hooks and every name and optimiser
        that refers to it remain as they are.
        """
        layer.__class__ = cls
        assert isinstance(layer, ProbedLayer)
        layer._become_probed(sketch, rank, bits)

    def _become_probed(self, sketch: str, rank: int, bits: Bits) -> None:
        self.set_sketch(sketch, rank, bits)
        self.probe_key = ProbeKey(layer=next(_construction_order))

    def set_sketch(self, sketch: str, rank: int = 64, bits: Bits = 1) -> None:
        """Choose the sketch by name; see :func:`seg3d.probing.make_sketch`."""
        check_sketch(sketch, rank, bits)
        self.sketch, self.rank, self.bits = sketch, rank, bits

    def next_key(self) -> ProbeKey:
        """The key for a draw; the next one is another, and so is that of every other process.

        Processes that share a network have different data. Equal probes would make equal errors
        of them, which the mean over the processes keeps; independent ones partly cancel.
        """
        key, self.probe_key = self.probe_key, self.probe_key.next_call()
        return key.of_rank(process_rank())

    def about_to_sketch(self, x: Tensor) -> None:
        """Keep in mind what of: see :attr:`sketched`."""
        self.sketched = Sketched(x.shape, x.element_size())

    def is_probing(self) -> bool:
        """Whether a forward pass now would keep a sketch."""
        return self.sketch != "exact" and self.training and torch.is_grad_enabled()

    def is_lean(self) -> bool:
        """Whether a forward pass now keeps nothing: it may then work in place and in slabs."""
        recorded = torch.compiler.is_compiling() or torch.jit.is_tracing()
        return not (self.training or torch.is_grad_enabled() or recorded)

    def is_sparing(self) -> bool:
        """Whether a forward pass now is another than the ordinary layer's."""
        return self.is_probing() or self.is_lean()

    def extra_repr(self) -> str:
        """The ordinary layer's description and the sketch."""
        detail = {"rotated": f", bits={self.bits}"}.get(self.sketch, f", rank={self.rank}")
        sketch = f"sketch={self.sketch}{detail}"
        return ", ".join(part for part in (super().extra_repr(), sketch) if part)


def uncompiled(method: Method) -> Method:
    """Keep a method of a probed layer out of ``torch.compile``'s graphs while it is probing.

    Records are attributes of tensors and gradients are overwritten by counts of references,
    which mean nothing in a graph. When it is not probing the layer is compiled as usual.
    """
    # torch.compiler.disable would import the whole compiler now, for whoever has no use of it.
    outside = torch._disable_dynamo(method)

    @wraps(method)
    def choosing(self: ProbedLayer, *args: Any, **kwargs: Any) -> Any:
        return (outside if self.is_probing() else method)(self, *args, **kwargs)

    return cast(Method, choosing)


def set_probe_step(network: nn.Module, seed: int, step: int) -> None:
    """Make the probes of all probed layers of ``network`` a function of seed and step.

    Call it before the forward pass of every step, and a resumed run draws what the
    uninterrupted one would have drawn. Layers are told apart by their order in
    ``network.modules()``, several forward passes within a step by counting them, and processes
    (``torch.distributed``) by their ranks: give all of them the same seed.

    Args:
        network: any module; layers that are not probed are passed over.
        seed: the run's seed, taken modulo 2^63.
        step: the optimiser step, not negative.
    """
    layers = (module for module in network.modules() if isinstance(module, ProbedLayer))
    for index, layer in enumerate(layers):
        layer.probe_key = ProbeKey(seed % 2**63, step, index)


def refuse_second_derivatives() -> None:
    """To be called in every ``backward``."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            "A probed layer can be differentiated only once: its input is not kept. "
            "For second derivatives (create_graph=True) choose the sketch 'exact'."
        )


class ProbedFunction(torch.autograd.Function):
    """An autograd Function without a forward-mode derivative."""

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> NoReturn:
        raise RuntimeError(
            "Probed layers have no forward-mode derivative; use eval mode or 'exact'."
        )


def is_watched(module: nn.Module, x: Tensor) -> bool:
    """Whether hooks, or a ``forward`` of its own, see what goes into ``module``."""
    if "forward" in module.__dict__:
        return True
    # The hooks of whoever measures memory see fake tensors, which have no values.
    return not isinstance(x, FakeTensor) and bool(
        module._forward_pre_hooks
        or module._forward_hooks
        or module._backward_pre_hooks
        or module._backward_hooks
        or _has_any_global_hook()
    )


def single_under_autocast(x: Tensor) -> Tensor:
    """Cast as autocast casts the arguments of functions that it does in float32."""
    casts = torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64
    return x.float() if casts else x


def lowered_under_autocast(x: Tensor) -> Tensor:
    """Cast as autocast casts the arguments of convolutions; outside autocast do nothing."""
    casts = torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64
    return x.to(torch.get_autocast_dtype(x.device.type)) if casts else x


def plain(x: Tensor) -> Tensor:
    """Without what a subclass that only adds to a tensor, such as MONAI's MetaTensor, adds to x."""
    adds = type(x) is not Tensor and type(x).__torch_dispatch__ is Tensor.__torch_dispatch__
    return x.as_subclass(Tensor) if adds else x
