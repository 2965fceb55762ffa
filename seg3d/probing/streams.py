"""Volumes that are never there as a whole: chunks of rows that are made one after the other.

A chunk is ``(1, C, rows, H, W)``, some rows along depth of one sample. Convolutions read windows
of rows, and so run ahead of each other by their halos; nothing is computed twice in one stream. Who
needs a volume once more starts its stream again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from seg3d.probing.bricks import BrickGrid
from seg3d.probing.records import KeptSketch
from seg3d.probing.slabs import Geometry, Slab, added, copy_rows, rows_of
from seg3d.probing.work_sizes import chunk_elements, least_rows

Chunks = Iterator[Tensor]
# Gives rows, first to last, with zeros beyond the volume; windows are asked for in order.
Window = Callable[[int, int], Tensor]
SHOWN = 4  # chunks of a fake volume


@dataclass(frozen=True)
class Course:
    """How a stream goes through a volume, chunk by chunk.

    Attributes:
        places: the rows of every chunk. Chunks hold whole bricks.
    """

    places: tuple[slice, ...]

    @classmethod
    def of(cls, x: Tensor, channels: int, dtype: torch.dtype) -> Course:
        """That of volumes of so many channels and this type, of the size and device of x."""
        depth, *plane = x.shape[2:]
        planes = BrickGrid.of(torch.Size((1, channels, depth, *plane)), KeptSketch.voxels).planes
        row = channels * plane[0] * plane[1]
        rows = max(chunk_elements(x) // row, least_rows(x, channels, dtype))
        return cls.by(max(1, rows // planes) * planes, depth, x)

    @classmethod
    def by(cls, rows: int, depth: int, x: Tensor) -> Course:
        """So many rows at a time."""
        # Fake tensors, with which memory is measured, have no values: a few chunks tell all.
        depth = min(depth, SHOWN * rows) if isinstance(x, FakeTensor) else depth
        starts = range(0, depth, rows)
        return cls(tuple(slice(start, min(start + rows, depth)) for start in starts))

    @property
    def depth(self) -> int:
        """Rows of the volume."""
        return self.places[-1].stop

    @property
    def rows(self) -> int:
        """Of a chunk."""
        return self.places[0].stop


class Windows:
    """Windows of the rows of a stream."""

    def __init__(self, chunks: Chunks, depth: int) -> None:
        self._chunks, self._depth = chunks, depth
        self._held: deque[Tensor] = deque()
        self._first = self._last = 0

    def __call__(self, first: int, last: int) -> Tensor:
        """Rows ``first`` to ``last``, with zeros beyond the volume; those before are let go."""
        self._let_go(first)
        while self._last < min(last, self._depth):
            self._held.append(next(self._chunks))
            self._last += self._held[-1].shape[2]
            self._let_go(first)
        if len(self._held) == 1:
            return rows_of(self._held[0], slice(None), first - self._first, last - self._first)
        batch, channels, _, *plane = self._held[0].shape
        rows = self._held[0].new_empty(batch, channels, last - first, *plane)
        rows[:, :, : max(0, -first)] = 0
        rows[:, :, max(0, self._last - first) :] = 0
        start = self._first - first
        for chunk in self._held:
            stop = start + chunk.shape[2]
            inside = slice(max(0, start), max(0, min(stop, last - first)))
            part = chunk[:, :, inside.start - start : inside.stop - start]
            copy_rows(rows[:, :, inside], part)
            start = stop
        return rows

    def _let_go(self, first: int) -> None:
        # The last one tells of what kind the rows are, even if none of it is needed.
        while len(self._held) > 1 and self._first + self._held[0].shape[2] <= first:
            self._first += self._held.popleft().shape[2]


@dataclass(frozen=True)
class Kernel:
    """A convolution, weights and all.

    Attributes:
        weight: ``(C_out, C_in, ...)``, in the type of what is convolved.
        bias: ``(C_out,)`` or None.
        geometry: not transposed, groups of one.
    """

    weight: Tensor
    bias: Tensor | None
    geometry: Geometry

    @classmethod
    def of(
        cls, weight: Tensor, bias: Tensor | None, geometry: Geometry, dtype: torch.dtype
    ) -> Kernel:
        """With weights in this type."""
        return cls(weight.to(dtype), None if bias is None else bias.to(dtype), geometry)

    def window(self, place: slice) -> tuple[int, int]:
        """The first and the last row of what these rows of the output are made of."""
        slab = Slab(slice(0, 1), place.start, place.stop)
        return self.geometry.window(slab, self.weight.shape[2])

    def convolved(self, x: Window, course: Course) -> Chunks:
        """The convolution of x, chunk by chunk of what it puts out."""
        inner = self.geometry.without_depth_padding()
        for place in course.places:
            yield inner.convolve(x(*self.window(place)), self.weight, self.bias)

    def adjoint(self) -> Kernel:
        """From the gradient with respect to the output to that of the input; strides of 1."""
        sizes, geometry = self.weight.shape[2:], self.geometry
        padding = tuple(
            step * (size - 1) - before
            for size, step, before in zip(sizes, geometry.dilation, geometry.padding, strict=True)
        )
        flipped = self.weight.flip(2, 3, 4).transpose(0, 1).contiguous()
        return Kernel(flipped, None, replace(geometry, padding=padding))

    def input_gradient(self, dy: Tensor, place: slice, plane: torch.Size) -> Tensor:
        """Some rows of the gradient with respect to the input, whatever the stride.

        Args:
            dy: with respect to the output, one sample.
            place: the rows.
            plane: height and width of the input.
        """
        geometry, reach = self.geometry, self.weight.shape[2]
        (stride, *strides), (before, *edges) = geometry.stride, geometry.padding
        first = max(0, -((reach - 1 - place.start - before) // stride))
        last = min(dy.shape[2], (place.stop - 1 + before) // stride + 1)
        if last <= first:
            return dy.new_zeros(1, self.weight.shape[1], place.stop - place.start, *plane)
        # What the strides leave over of the plane.
        missing = (
            size - ((count - 1) * step - 2 * edge + kernel)
            for size, count, step, edge, kernel in zip(
                plane, dy.shape[3:], strides, edges, self.weight.shape[3:], strict=True
            )
        )
        back = replace(geometry, padding=(0, *edges), transposed=True, output_padding=(0, *missing))
        rows = back.convolve(rows_of(dy, slice(None), first, last), self.weight, None)
        start = first * stride - before
        return rows_of(rows, slice(None), place.start - start, place.stop - start)


def store(out: Tensor, place: slice, rows: Tensor) -> None:
    """Write some rows where they belong."""
    copy_rows(out[:, :, place], rows)


def exhaust(stream: Iterable[object]) -> None:
    """Let a stream run to its end, for the sake of what is done on the way."""
    deque(stream, maxlen=0)


class WeightGradient:
    """Adds up the gradient with respect to a kernel's weight and bias, chunk by chunk."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._sums: list[Tensor | None] = [None, None]

    def add(self, x: Window, place: slice, dy: Tensor) -> Tensor:
        """Take in some rows of the gradient with respect to the output, and return them.

        Args:
            x: the input, or a surrogate.
            place: of the rows.
            dy: the rows.
        """
        kernel = self._kernel
        wanted = [False, True, kernel.bias is not None]
        inner = kernel.geometry.without_depth_padding()
        _, *parts = inner.backward(dy, x(*kernel.window(place)), kernel.weight, wanted)
        self._sums = [added(*pair) for pair in zip(self._sums, parts, strict=True)]
        return dy

    @property
    def found(self) -> list[Tensor]:
        """Those of weight and bias, in float32 or better; without a bias the first only."""
        return [total for total in self._sums if total is not None]
