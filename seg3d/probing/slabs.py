"""Cutting the backward pass of a convolution into slabs along depth: exact, and in little memory.

Every row of the gradient dy is used in exactly one slab, so that the weight gradients of the
slabs add up. The rows of x that a slab needs reach a little further (the halo), and there the
input gradients of neighbouring slabs are added.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass, replace
from math import prod

import torch
from torch import Tensor

LEAST_ROWS = 8


@dataclass(frozen=True)
class Slab:
    """A part of the samples, ``samples``, and of the coarse rows, ``first`` to ``last``."""

    samples: slice
    first: int
    last: int


@dataclass(frozen=True)
class Geometry:
    """The arguments of ``torch.convolution`` that are not tensors, in its order."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    transposed: bool
    output_padding: tuple[int, ...]
    groups: int

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """``torch.convolution``."""
        return torch.convolution(x, weight, bias, *astuple(self))

    def without_depth_padding(self) -> Geometry:
        """The same where the rows of x and y stand for nothing but themselves."""
        return replace(
            self,
            padding=(0, *self.padding[1:]),
            output_padding=(0, *self.output_padding[1:]),
        )

    def output_shape(self, x: torch.Size, weight: torch.Size) -> torch.Size:
        """Shape of y."""
        sizes = []
        for axis, (stride, padding, dilation) in enumerate(
            zip(self.stride, self.padding, self.dilation, strict=True)
        ):
            size, reach = x[2 + axis], dilation * (weight[2 + axis] - 1) + 1
            if self.transposed:
                edges = reach + self.output_padding[axis] - 2 * padding
                sizes.append((size - 1) * stride + edges)
            else:
                sizes.append((size + 2 * padding - reach) // stride + 1)
        channels = weight[1] * self.groups if self.transposed else weight[0]
        return torch.Size((x[0], channels, *sizes))

    def elements(self, x: torch.Size, weight: torch.Size) -> int:
        """Of x or of y, whichever has more (of y up to what the edges add)."""
        batch, channels, *size = x
        scale = prod(self.stride) if self.transposed else 1 / prod(self.stride)
        c_out = weight[1] * self.groups if self.transposed else weight[0]
        return int(batch * prod(size) * max(channels, c_out * scale))

    def keeps_shape(self, x: torch.Size, weight: torch.Size) -> bool:
        """Whether y is of x's shape, each row being in the middle of those that it is made of."""
        in_the_middle = not self.transposed and self.stride[0] == 1
        return in_the_middle and self.output_shape(x, weight) == x

    def windows_lie_side_by_side(self, kernel: int) -> bool:
        """Whether every fine row is touched by one coarse row: row r by row r // stride."""
        plain = not (self.padding[0] or self.output_padding[0])
        return plain and self.dilation[0] == 1 and kernel == self.stride[0]

    def backward(
        self, dy: Tensor, x: Tensor, weight: Tensor, wanted: list[bool]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The library's gradients with respect to x, weight and bias; None if not wanted."""
        half_on_cpu = dy.device.type == "cpu" and dy.dtype == torch.bfloat16
        if half_on_cpu and x.shape[2] < weight.shape[2]:
            # There oneDNN takes what lies beyond x, which may be NaN, times zero for zero.
            dx, dw, db = self.backward(dy.float(), x.float(), weight.float(), wanted)
            return dx if dx is None else dx.to(dy.dtype), dw, db
        bias_shape = [dy.shape[1]]
        return torch.ops.aten.convolution_backward(
            dy, x, weight, bias_shape, *astuple(self), wanted
        )

    def window(self, slab: Slab, kernel: int) -> tuple[int, int]:
        """The fine rows that the coarse rows of ``slab`` touch; may reach beyond the volume.

        Coarse are the rows of y, or of x if transposed, and the others are fine.
        """
        reach = (kernel - 1) * self.dilation[0] + 1
        start = slab.first * self.stride[0] - self.padding[0]
        return start, start + (slab.last - slab.first - 1) * self.stride[0] + reach

    def slabs(self, x: torch.Size, y: torch.Size, elements: int) -> list[Slab]:
        """Cut x and y into slabs of coarse rows with about so many elements."""
        batch, rows = x[0], (x if self.transposed else y)[2]
        volume = max(x.numel(), y.numel()) // max(1, batch)
        return list(cut(batch, rows, max(1, volume // max(1, rows)), elements))


def cut(batch: int, rows: int, row: int, elements: int) -> Iterator[Slab]:
    """Cut ``batch`` volumes of ``rows`` rows of ``row`` elements into slabs of ``elements``.

    A slab is larger than that if it were less than :data:`LEAST_ROWS` rows otherwise, so that
    the halo remains a small part of the work.

    Yields:
        One slab if everything fits in, or else slabs of one volume each.
    """
    if batch * rows * row <= elements:
        yield Slab(slice(0, batch), 0, rows)
        return
    parts = max(1, round(rows / max(elements // row, LEAST_ROWS)))
    for sample in range(batch):
        for part in range(parts):
            first, last = rows * part // parts, rows * (part + 1) // parts
            yield Slab(slice(sample, sample + 1), first, last)


def added(total: Tensor | None, part: Tensor | None) -> Tensor | None:
    """The sum so far of the slabs' parts, in float32 or better; None if there are none."""
    if part is None:
        return total
    if total is None:
        return part.to(torch.promote_types(part.dtype, torch.float32))
    return total.add_(part)


def rows_of(x: Tensor, samples: slice, first: int, last: int) -> Tensor:
    """Rows ``first`` to ``last`` along depth, with zeros for those beyond the volume."""
    part = x[samples, :, max(first, 0) : max(last, 0)]
    count = last - first
    before, behind = min(max(0, -first), count), min(max(0, last - x.shape[2]), count)
    if before or behind:
        part = torch.nn.functional.pad(part, (0, 0, 0, 0, before, behind))
    return part


class OverlapAdd:
    """Adds windows of rows that come in order and overlap.

    Attributes:
        out: ``(B, C, D, H, W)``.
        empty: ``out`` has no values yet; every row is set where it is first touched.
    """

    def __init__(self, out: Tensor, *, empty: bool) -> None:
        self.out = out
        self.empty = empty
        self._samples: slice | None = None
        self._done = 0
        self._held_back: tuple[int, Tensor] | None = None

    def add(
        self, samples: slice, first: int, last: int, window: Tensor, unread: int | None = None
    ) -> None:
        """Add rows ``first`` to ``last``; what lies beyond the volume is dropped.

        Rows of ``out`` from ``unread`` on, if given, still hold what the next windows are made
        of: what is to be added to them is held back until then.
        """
        if samples != self._samples:
            self.finish()
            self._samples, self._done, self._held_back = samples, 0, None
        if self._held_back is not None:
            row, rows = self._held_back
            window[:, :, row - first : row - first + rows.shape[2]] += rows
        start, stop = max(first, 0), min(last, self.out.shape[2])
        if unread is not None:
            self._held_back = unread, window[:, :, unread - first : stop - first].clone()
            stop = min(stop, unread)
        part = self.out[samples]
        fresh = min(max(start, self._done), stop) if self.empty else stop
        if self.empty and self._done < start:
            part[:, :, self._done : start] = 0
        if start < fresh:
            part[:, :, start:fresh] += window[:, :, start - first : fresh - first]
        if fresh < stop:
            part[:, :, fresh:stop] = window[:, :, fresh - first : stop - first]
        self._done = max(self._done, stop)

    def finish(self) -> None:
        """Call it after the last window: rows that none has touched are zero."""
        if self.empty and self._samples is not None and self._done < self.out.shape[2]:
            self.out[self._samples, :, self._done :] = 0


class RollingRows:
    """Reads windows of rows that come in order, filling every row but once.

    Args:
        shape: of the whole tensor, ``(B, C, D, H, W)``.
        allocate: makes an uninitialised tensor of a given shape.
        step: rows are filled in multiples of it.
        fill: called with where to write, the samples, and the range of rows in units of ``step``.
    """

    def __init__(
        self,
        shape: torch.Size,
        allocate: Callable[[list[int]], Tensor],
        step: int,
        fill: Callable[[Tensor, slice, slice], None],
    ) -> None:
        self.shape = shape
        self.allocate = allocate
        self.step = step
        self.fill = fill
        self._samples: slice | None = None
        self._buffer: Tensor | None = None
        self._start = self._stop = 0

    def rows(self, samples: slice, first: int, last: int) -> Tensor:
        """Rows ``first`` to ``last``, with zeros beyond the volume."""
        batch, channels, depth, *plane = self.shape
        start, wanted = max(first, 0), min(last, depth)
        if samples != self._samples or start >= self._stop:
            self._samples, self._buffer = samples, None
            self._start = self._stop = start // self.step * self.step
        if wanted > self._stop:
            stop = min(-(-wanted // self.step) * self.step, depth)
            keep = min(start, self._stop)
            count = samples.stop - samples.start
            buffer = self.allocate([count, channels, stop - keep, *plane])
            if self._buffer is not None and keep < self._stop:
                buffer[:, :, : self._stop - keep] = self._buffer[:, :, keep - self._start :]
            units = slice(self._stop // self.step, -(-stop // self.step))
            self.fill(buffer[:, :, self._stop - keep :], samples, units)
            self._buffer, self._start, self._stop = buffer, keep, stop
        if self._buffer is None:  # all of them lie beyond the volume
            return self.allocate(
                [samples.stop - samples.start, channels, last - first, *plane]
            ).zero_()
        return rows_of(self._buffer, slice(None), first - self._start, last - self._start)
