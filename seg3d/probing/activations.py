"""Activations that keep a few bits, or nothing at all if a norm layer has kept them already."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seg3d.common.device import telling
from seg3d.common.private import is_private
from seg3d.probing.keys import ProbeKey
from seg3d.probing.names import make_norm_sketch
from seg3d.probing.probed_layer import (
    ProbedFunction,
    ProbedLayer,
    lowered_under_autocast,
    plain,
    refuse_second_derivatives,
    uncompiled,
)
from seg3d.probing.records import KeptSketch, Record, attach, is_one, keeps, record_of
from seg3d.probing.rotated import Encoder, RotatedSketch
from seg3d.probing.work_sizes import rows_of_a_lot


class ProbedActivation(ProbedLayer):
    """What the probed activations have in common: piecewise linear, with a kink at 0.

    If a norm layer's record travels with the input, its signs are used; otherwise the input is
    sketched, with its signs, for this layer and for the convolutions behind it. The gradient
    with respect to the input is exact.
    """

    inplace: bool = False

    @uncompiled
    def forward(self, input: Tensor) -> Tensor:
        """Activate ``(B, C, D, H, W)``."""
        if not (self.is_probing() and input.requires_grad and _are_volumes(input)):
            return super().forward(input)
        record, input = record_of(input), plain(input)
        if record is None or not is_one(record.slope):
            self.about_to_sketch(input)
            record = sketched_with_signs(
                input.detach(), make_norm_sketch(self.sketch, self.bits), self.next_key()
            )
        z = _Activate.apply(input, self._slope(), record, self.inplace)
        attach(replace(record, slope=self._detached_slope()), z)
        return z

    def _slope(self) -> float | Tensor:
        raise NotImplementedError

    def _detached_slope(self) -> float | Tensor:
        slope = self._slope()
        return slope.detach() if isinstance(slope, Tensor) else slope


class ProbedReLU(ProbedActivation, nn.ReLU):
    """:class:`torch.nn.ReLU` in few bits."""

    def _slope(self) -> float:
        return 0.0


class ProbedLeakyReLU(ProbedActivation, nn.LeakyReLU):
    """:class:`torch.nn.LeakyReLU` in few bits."""

    def _slope(self) -> float:
        return self.negative_slope


class ProbedPReLU(ProbedActivation, nn.PReLU):
    """:class:`torch.nn.PReLU` in few bits; the gradient of its slope is random."""

    @uncompiled
    def forward(self, input: Tensor) -> Tensor:
        """Activate ``(B, C, D, H, W)``; torch itself does not do so in place."""
        x = plain(input)
        if self.inplace and self.is_lean() and _are_volumes(x) and _keeps_type(x):
            return _prelu_(x, self.weight)
        return super().forward(input)

    def _slope(self) -> Tensor:
        return self.weight


class _Activate(ProbedFunction):
    """The activation, with the record of its input for the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, slope: float | Tensor, record: Record, inplace: bool
    ) -> Tensor:
        inplace = inplace and not keeps(record.kept, x)
        if isinstance(slope, Tensor):
            inplace = inplace and _keeps_type(x)
            z = _prelu_(x, slope) if inplace else F.prelu(x, slope.to(x.dtype))
        else:
            z = F.leaky_relu_(x, slope) if inplace else F.leaky_relu(x, slope)
        if inplace:
            ctx.mark_dirty(x)
        activated = replace(record, slope=slope)
        ctx.save_for_backward(*activated.tensors)
        ctx.record = activated.without_tensors()
        return z

    @staticmethod
    def backward(ctx: Any, dz: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivatives()
        dx = dz if is_private(dz) else torch.empty_like(dz)
        record = ctx.record.with_tensors(ctx.saved_tensors)
        with torch.autocast(dz.device.type, enabled=False):
            dslope = activate_backward(dz, dx, record, ctx.needs_input_grad[1])
        return dx, dslope, None, None


def _are_volumes(x: Tensor) -> bool:
    return x.dim() == 5 and x.numel() > 0


def _keeps_type(x: Tensor) -> bool:
    """Whether torch's PReLU, which is cast by autocast as convolutions are, leaves x's type."""
    return lowered_under_autocast(x) is x


def _prelu_(x: Tensor, slope: Tensor) -> Tensor:
    """:func:`torch.nn.functional.prelu` in place."""
    for rows in telling(x.split(rows_of_a_lot(x), dim=2), x):
        rows.copy_(F.prelu(rows, slope.to(x.dtype)))
    return x


def sketched_with_signs(
    x: Tensor, sketch: RotatedSketch | KeptSketch | None, key: ProbeKey
) -> Record:
    """The record of ``x = v``, with what is positive in it."""
    assert sketch is not None
    if isinstance(sketch, KeptSketch):
        return Record(sketch, x.shape, 1.0, key.to_tensor(), (), key.layer, (x,))
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        encoder = Encoder(sketch, x, key, signed=True)
        encoder.put_all(x)
    return Record(sketch, x.shape, 1.0, key.to_tensor(), (), key.layer, encoder.kept)


def activate_backward(dz: Tensor, dx: Tensor, record: Record, with_slope: bool) -> Tensor | None:
    """Write the gradient with respect to the input into dx, which may be dz.

    Args:
        dz: gradient with respect to the output, ``(B, C, D, H, W)``.
        dx: of the same shape.
        record: of the input, with the slope of the activation.
        with_slope: whether the gradient with respect to the slope, a tensor, is wanted.

    Returns:
        That gradient, or None.
    """
    rebuilder = record.open(dz.dtype)
    dslope = None
    if with_slope:
        assert isinstance(record.slope, Tensor)
        parts, products, _ = rebuilder.sums(dz, below=1.0, above=0.0)
        if record.affine:
            gain, shift = record.affine
            products = gain * products + shift * parts
        per_channel = products.sum(0)
        dslope = per_channel if record.slope.numel() > 1 else per_channel.sum(0, keepdim=True)
        dslope = dslope.to(record.slope.dtype)
    rebuilder.gradient(dz, dx)
    return dslope
