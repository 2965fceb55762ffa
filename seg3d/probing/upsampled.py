"""The convolution of what a transposed convolution puts out, which need never be there as a whole.

In the last level of a U-Net's decoder the upsampled tensor u = up(x) is as large as the largest.
Here it is made slab by slab, when the convolution reads it. Nor is it sketched: u is linear in x,
so that up of a surrogate of x is one of u, whose mean is u.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from seg3d.common.device import telling
from seg3d.probing.keys import ProbeKey
from seg3d.probing.probed_layer import ProbedFunction, refuse_second_derivatives
from seg3d.probing.records import KeptSketch, NoRecord, Record, sketched
from seg3d.probing.rotated import RotatedSketch
from seg3d.probing.slabs import Geometry, OverlapAdd, RollingRows, Slab, added, rows_of
from seg3d.probing.work_sizes import slab_elements


class Upsampled:
    """A part of a concatenation: what ``up`` makes of the tensor that ``below`` returns.

    Attributes:
        up: a transposed convolution.
        below: is called once.
    """

    def __init__(self, up: nn.Module, below: Callable[[], Tensor]) -> None:
        self.up = up
        self.below = below

    def __call__(self) -> Tensor:
        u: Tensor = self.up(self.below())
        return u


@dataclass(frozen=True)
class Passage:
    """From x by ``up`` to u, and from u by ``conv`` to y, slab by slab of y.

    Attributes:
        up: windows of rows that lie side by side.
        conv: whatever it is.
        shape: of x, ``(B, C, D, H, W)``.
        weights: of ``up``, its bias or None, and of ``conv``.
    """

    up: Geometry
    conv: Geometry
    shape: torch.Size
    weights: tuple[Tensor, Tensor | None, Tensor]

    @classmethod
    def of(
        cls,
        shape: torch.Size,
        dtype: torch.dtype,
        geometries: tuple[Geometry, Geometry],
        weights: tuple[Tensor, Tensor | None, Tensor],
    ) -> Passage:
        """That of an x of this shape and type, the weights being of any."""
        up_weight, up_bias, weight = weights
        up_bias = None if up_bias is None else up_bias.to(dtype)
        return cls(*geometries, shape, (up_weight.to(dtype), up_bias, weight.to(dtype)))

    def slabs(self, y: Tensor) -> Iterator[Slab]:
        """Slabs of y."""
        u = self.up.output_shape(self.shape, self.weights[0].shape)
        return telling(self.conv.slabs(u, y.shape, slab_elements(y)), y)

    def reach(self, slab: Slab) -> tuple[slice, int, int]:
        """The rows of x of a slab, and its first and last row of u, counted from those rows."""
        stride = self.up.stride[0]
        first, last = self.conv.window(slab, self.weights[2].shape[2])
        start, stop = max(first, 0) // stride, -(-min(last, self.shape[2] * stride) // stride)
        return slice(start, stop), first - start * stride, last - start * stride

    def add_to(self, y: Tensor, x: Tensor) -> None:
        """Add conv(up(x))."""
        for slab in self.slabs(y):
            self.add_slab(slab, y[slab.samples, :, slab.first : slab.last], x)

    def add_slab(self, slab: Slab, y: Tensor, x: Tensor) -> None:
        """The same for the rows of a slab, which are y."""
        up_weight, up_bias, weight = self.weights
        rows, first, last = self.reach(slab)
        part = rows_of(x, slab.samples, rows.start, rows.stop)
        u = rows_of(self.up.convolve(part, up_weight, up_bias), slice(None), first, last)
        y.add_(self.conv.without_depth_padding().convolve(u, weight, None))

    def backward(self, dy: Tensor, x: RollingRows, wanted: list[bool]) -> list[Tensor | None]:
        """Gradients with respect to x, the weight and bias of ``up``, and the weight of ``conv``.

        Those of weights are in float32 or better.

        Args:
            dy: gradient with respect to y.
            x: gives the rows of x, or of its surrogate.
            wanted: which of the gradients.
        """
        gradients = PassageGradients(self, x, wanted)
        for slab in self.slabs(dy):
            gradients.add(slab, rows_of(dy, slab.samples, slab.first, slab.last))
        return gradients.finish()


class PassageGradients:
    """The gradients of :meth:`Passage.backward`, of which the slabs tell in order."""

    def __init__(self, passage: Passage, x: RollingRows, wanted: list[bool]) -> None:
        self.passage, self.x, self.wanted = passage, x, wanted
        out = x.allocate(list(passage.shape)) if wanted[0] else None
        self._total = None if out is None else OverlapAdd(out, empty=True)
        self._sums: list[Tensor | None] = [None, None, None]

    def add(self, slab: Slab, dy: Tensor) -> None:
        """Take in the rows dy of a slab."""
        up, (up_weight, up_bias, weight) = self.passage.up, self.passage.weights
        conv = self.passage.conv.without_depth_padding()
        rows, first, last = self.passage.reach(slab)
        part = self.x.rows(slab.samples, rows.start, rows.stop)
        u = up.convolve(part, up_weight, up_bias)
        count, u = u.shape[2], rows_of(u, slice(None), first, last)
        du, dweight, _ = conv.backward(dy, u, weight, [True, self.wanted[3], False])
        del u, dy  # which need not be there beside what follows
        du = rows_of(du, slice(None), -first, count - first)
        dx, *dups = up.backward(du, part, up_weight, self.wanted[:3])
        if self._total is not None:
            self._total.add(slab.samples, rows.start, rows.stop, dx)
        self._sums = [added(*pair) for pair in zip(self._sums, [*dups, dweight], strict=True)]

    def finish(self) -> list[Tensor | None]:
        """After the last slab."""
        if self._total is None:
            return [None, *self._sums]
        self._total.finish()
        return [self._total.out, *self._sums]


class ConvolveUpsampled(ProbedFunction):
    """Adds conv(up(x)) to ``onto``, in place, and remembers a record or sketch of x."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        up_weight: Tensor,
        up_bias: Tensor | None,
        weight: Tensor,
        onto: Tensor,
        geometries: tuple[Geometry, Geometry],
        source: Record | NoRecord | RotatedSketch | KeptSketch,
        key: ProbeKey,
    ) -> Tensor:
        record = source if isinstance(source, Record | NoRecord) else sketched(x, source, key)
        ctx.save_for_backward(up_weight, up_bias, weight, *record.tensors)
        ctx.record = record.without_tensors()
        ctx.geometries, ctx.shape, ctx.dtype = geometries, x.shape, x.dtype
        Passage.of(x.shape, x.dtype, geometries, (up_weight, up_bias, weight)).add_to(onto, x)
        ctx.mark_dirty(onto)
        return onto

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivatives()
        up_weight, up_bias, weight, *tensors = ctx.saved_tensors
        fill, step = ctx.record.with_tensors(tuple(tensors)).filler(ctx.dtype)
        x = RollingRows(ctx.shape, dy.new_empty, step, fill)
        weights = (up_weight, up_bias, weight)
        passage = Passage.of(ctx.shape, ctx.dtype, ctx.geometries, weights)
        with torch.autocast(dy.device.type, enabled=False):
            dx, *found = passage.backward(dy, x, list(ctx.needs_input_grad[:4]))
        dweights = (
            None if gradient is None else gradient.to(parameter.dtype)
            for gradient, parameter in zip(found, (up_weight, up_bias, weight), strict=True)
        )
        return dx, *dweights, dy, None, None, None
