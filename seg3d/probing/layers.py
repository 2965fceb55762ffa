"""Convolutions that keep a sketch of their input, instead of it, for the weight gradient."""

from __future__ import annotations

from itertools import count
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seg3d.probing.keys import ProbeKey
from seg3d.probing.names import make_sketch
from seg3d.probing.probes import ProbeSketch
from seg3d.probing.sketches import Sketch

_construction_order = count()


class ProbedLayer(nn.Module):
    """What :class:`ProbedConv3d` and :class:`ProbedConvTranspose3d` have in common.

    In training mode, and if a gradient with respect to the weight is wanted, the output and the
    gradients with respect to input and bias are exactly those of the ordinary layer, while the
    weight gradient comes from a sketch of the input: it is random, with the exact one as its
    mean. In all other cases, and with the sketch ``exact``, this *is* the ordinary layer.
    The state_dict is the ordinary layer's.

    Every forward pass draws new probes. :func:`set_probe_step` makes them reproducible; torch's
    global random generators are neither used nor touched.

    Attributes:
        sketch: name of the sketch, one of ``seg3d.probing.SKETCHES``.
        rank: number of probes of ``independent``, ``multichannel`` and ``orthogonal``.
        probe_key: names the next draw.
    """

    sketch: str
    rank: int
    probe_key: ProbeKey
    weight: Tensor
    bias: Tensor | None
    _sketch: Sketch | None

    def __init__(self, *args: Any, sketch: str = "onebit", rank: int = 64, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._become_probed(sketch, rank)

    @classmethod
    def adopt(cls, layer: nn.Module, sketch: str, rank: int) -> None:
        """Turn the ordinary ``layer`` into a probed one where it stands.

        It stays the same object, so that its parameters, hooks and every name and optimiser
        that refers to it remain as they are.
        """
        layer.__class__ = cls
        assert isinstance(layer, ProbedLayer)
        layer._become_probed(sketch, rank)

    def _become_probed(self, sketch: str, rank: int) -> None:
        self.set_sketch(sketch, rank)
        self.probe_key = ProbeKey(layer=next(_construction_order))

    def set_sketch(self, sketch: str, rank: int = 64) -> None:
        """Choose the sketch by name; see :func:`seg3d.probing.make_sketch`."""
        self._sketch = make_sketch(sketch, rank)
        self.sketch = sketch
        self.rank = rank

    def extra_repr(self) -> str:
        """The ordinary layer's description and the sketch."""
        rank = f", rank={self.rank}" if isinstance(self._sketch, ProbeSketch) else ""
        return f"{super().extra_repr()}, sketch={self.sketch}{rank}"

    def _is_probing(self) -> bool:
        return (
            self._sketch is not None
            and self.training
            and torch.is_grad_enabled()
            and self.weight.requires_grad
        )

    def _probed_convolution(self, x: Tensor, *geometry: Any) -> Tensor:
        """``torch.convolution`` with the weight and bias of this layer, x being sketched."""
        key, self.probe_key = self.probe_key, self.probe_key.next_call()
        batched = x.dim() == 5
        y = _ProbedConvolution.apply(
            _autocast(x if batched else x.unsqueeze(0)),
            _autocast(self.weight),
            None if self.bias is None else _autocast(self.bias),
            geometry,
            self._sketch,
            key,
        )
        return y if batched else y.squeeze(0)


class ProbedConv3d(ProbedLayer, nn.Conv3d):
    """:class:`torch.nn.Conv3d` with a sketched weight gradient; see :class:`ProbedLayer`.

    Args:
        *args, **kwargs: those of :class:`torch.nn.Conv3d`.
        sketch: name of the sketch, one of ``seg3d.probing.SKETCHES``.
        rank: number of probes of ``independent``, ``multichannel`` and ``orthogonal``; the other
            sketches have no use for it.

    Raises:
        UserError: the sketch is unknown, or the rank is not positive.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Convolve ``(B, C, D, H, W)`` or ``(C, D, H, W)``."""
        if not self._is_probing():
            return super().forward(input)
        x, padding = self._padded(input)
        no_output_padding = (0, 0, 0)
        return self._probed_convolution(
            x, self.stride, padding, self.dilation, False, no_output_padding, self.groups
        )

    def _padded(self, x: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """Pad x where the convolution itself cannot; returns it and the padding left to do."""
        both_sides = self._reversed_padding_repeated_twice  # (W, W, H, H, D, D)
        if self.padding_mode != "zeros":
            return F.pad(x, both_sides, mode=self.padding_mode), (0, 0, 0)
        if not isinstance(self.padding, str):
            return x, self.padding
        # "same" with an even kernel wants one voxel more behind than before.
        before, behind = both_sides[0::2], both_sides[1::2]
        excess = [n for b, e in zip(before, behind, strict=True) for n in (0, e - b)]
        return (F.pad(x, excess) if any(excess) else x), tuple(reversed(before))


class ProbedConvTranspose3d(ProbedLayer, nn.ConvTranspose3d):
    """:class:`torch.nn.ConvTranspose3d` with a sketched weight gradient.

    Arguments and errors are as for :class:`ProbedConv3d`.
    """

    padding: tuple[int, ...]  # never a word, as it can be in a Conv3d

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Convolve ``(B, C, D, H, W)`` or ``(C, D, H, W)``."""
        if not self._is_probing():
            return super().forward(input, output_size)
        spatial_axes = 3
        output_padding = self._output_padding(
            input,
            output_size,
            list(self.stride),
            list(self.padding),
            list(self.kernel_size),
            spatial_axes,
            list(self.dilation),
        )
        return self._probed_convolution(
            input, self.stride, self.padding, self.dilation, True, output_padding, self.groups
        )


def set_probe_step(network: nn.Module, seed: int, step: int) -> None:
    """Make the probes of all probed layers of ``network`` a function of seed and step alone.

    Call it before the forward pass of every step, and a resumed run draws what the
    uninterrupted one would have drawn. Layers are told apart by their order in
    ``network.modules()``, several forward passes within a step by counting them.

    Args:
        network: any module; layers that are not probed are passed over.
        seed: the run's seed, taken modulo 2^63. Processes that share a network but not the data
            (DistributedDataParallel) should each give another, lest their errors add up.
        step: the optimiser step, not negative.
    """
    layers = (module for module in network.modules() if isinstance(module, ProbedLayer))
    for index, layer in enumerate(layers):
        layer.probe_key = ProbeKey(seed % 2**63, step, index)


class _ProbedConvolution(torch.autograd.Function):
    """``torch.convolution`` that remembers a sketch of x.

    ``geometry`` is its stride, padding, dilation, transposed, output_padding and groups.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        geometry: tuple[Any, ...],
        sketch: Sketch,
        key: ProbeKey,
    ) -> Tensor:
        y = torch.convolution(x, weight, bias, *geometry)
        ctx.save_for_backward(weight, key.to_tensor(), *sketch.compress(x, key))
        ctx.geometry, ctx.sketch = geometry, sketch
        ctx.shape, ctx.strides, ctx.dtype = x.shape, _dense_strides(x), x.dtype
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "A probed convolution can be differentiated only once: its input is not kept. "
                "For second derivatives (create_graph=True) choose the sketch 'exact'."
            )
        weight, key, *kept = ctx.saved_tensors
        wanted = list(ctx.needs_input_grad[:3])
        # The input's values matter to the weight gradient only, its layout to the others too.
        x = torch.empty_strided(ctx.shape, ctx.strides, dtype=ctx.dtype, device=dy.device)
        if wanted[1]:
            ctx.sketch.fill(x, tuple(kept), ProbeKey.from_tensor(key))
        bias_shape = [dy.shape[1]]
        gradients = torch.ops.aten.convolution_backward(
            dy, x, weight, bias_shape, *ctx.geometry, wanted
        )
        return *gradients, None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> NoReturn:
        raise RuntimeError(
            "Probed convolutions have no forward-mode derivative; use eval mode or 'exact'."
        )


def _autocast(tensor: Tensor) -> Tensor:
    """Cast as autocast casts the arguments of a convolution; outside autocast do nothing."""
    device = tensor.device.type
    if torch.is_autocast_enabled(device) and tensor.dtype != torch.float64:
        return tensor.to(torch.get_autocast_dtype(device))
    return tensor


def _dense_strides(x: Tensor) -> tuple[int, ...]:
    """The strides of x if it is contiguous or channels-last, or else those that it would have."""
    if x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last_3d):
        return x.stride()
    return torch.empty(x.shape, device="meta").stride()
