"""Convolution, instance norm and leaky ReLU of streams: forwards and backwards.

A norm needs to know its whole input before it puts out the first row, and the sums over the whole
gradient before it passes on the first row of that: every norm takes a stream of its own. What the
norm's input was, the backward pass is told by a record, or by the input itself, if it can be made
once more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce

import torch
from torch import Tensor

from seg3d.probing.keys import ProbeKey
from seg3d.probing.norms import (
    Normalisation,
    affine_of,
    columns_of_gradient,
    moments_of_parts,
    normalise_and_put,
    normalise_only,
)
from seg3d.probing.records import KeptSketch, Rebuilder, Record
from seg3d.probing.rotated import Encoder, RotatedSketch
from seg3d.probing.slabs import added
from seg3d.probing.streams import Chunks, Course, Kernel, Windows

# Told the place of some rows, and the rows, it returns them.
Tap = Callable[[slice, Tensor], Tensor]


@dataclass(frozen=True)
class Block:
    """Convolution, instance norm and leaky ReLU, which keep the shape.

    Attributes:
        kernel: of the convolution.
        gamma: ``(C,)``.
        beta: ``(C,)``.
        slope: of the leaky ReLU.
        statistics: scale and offset, ``(B, C)`` each, v = y * scale + offset; empty before they
            are known.
    """

    kernel: Kernel
    gamma: Tensor
    beta: Tensor
    slope: float
    statistics: tuple[Tensor, ...] = ()

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All there are, for ``save_for_backward``."""
        assert self.kernel.bias is not None
        return self.kernel.weight, self.kernel.bias, self.gamma, self.beta, *self.statistics

    def with_tensors(self, tensors: tuple[Tensor, ...]) -> Block:
        """This block with :attr:`tensors` as autograd gives them back."""
        weight, bias, gamma, beta, *statistics = tensors
        kernel = Kernel(weight, bias, self.kernel.geometry)
        return Block(kernel, gamma, beta, self.slope, tuple(statistics))

    def without_tensors(self) -> Block:
        """What is left of it for :meth:`with_tensors` to complete."""
        nothing = torch.empty(0)
        return Block(Kernel(nothing, nothing, self.kernel.geometry), nothing, nothing, self.slope)

    def observed(self, streams: Sequence[Callable[[], Chunks]], eps: float) -> Block:
        """The same, with the statistics of what the convolution puts out, a stream per sample."""
        found = [moments_of_parts(stream()) for stream in streams]
        mean, variance = (torch.cat(one) for one in zip(*found, strict=True))
        scale = (variance + eps).rsqrt()
        return replace(self, statistics=(scale, -mean * scale))

    @property
    def affine(self) -> tuple[Tensor, Tensor]:
        """Gain and shift, ``(B, C)`` each."""
        return affine_of(self.gamma, self.beta, self.statistics[0])

    def activate(self, sample: int, y: Tensor) -> Tensor:
        """Normalise and activate some rows in place."""
        normalise_only(y, y, self.gamma, self.beta, self.normalisation(sample))
        return y

    def told_by_input(self, sample: int, y: Tensor) -> Rebuilder:
        """How these rows were normalised, which the convolution has put out."""
        scale, offset = (column[sample : sample + 1] for column in self.statistics)
        affine = tuple(column[sample : sample + 1] for column in self.affine)
        kept, key = (y, scale, offset), torch.empty(0)
        return Record(KeptSketch(), y.shape, self.slope, key, affine, 0, kept).open(y.dtype)

    def normalisation(self, sample: int) -> Normalisation:
        """Of a sample."""
        scale, offset = (column[sample : sample + 1] for column in self.statistics)
        return Normalisation(scale, offset, _of_itself, self.slope)


class Recording:
    """Makes the record of what a block normalises, while it does so chunk by chunk."""

    def __init__(
        self, block: Block, sketch: RotatedSketch | KeptSketch, key: ProbeKey, like: Tensor
    ) -> None:
        """``like`` is a tensor of the shape and the type of what is normalised."""
        self._block, self._sketch, self._key, self._shape = block, sketch, key, like.shape
        self._encoder, self._kept = None, like
        if isinstance(sketch, RotatedSketch):
            self._encoder = Encoder(sketch, like, key, signed=True)
        else:
            self._kept = like.new_empty(like.shape)

    def activate(self, sample: int, place: slice, y: Tensor) -> Tensor:
        """Normalise and activate some rows in place, and keep what the record needs."""
        one, block = slice(sample, sample + 1), self._block
        if self._encoder is None:
            self._kept[one, :, place] = y
            return block.activate(sample, y)
        part = self._encoder.part(one, _layers(place, self._encoder.grid.planes))
        normalise_and_put(y, y, block.gamma, block.beta, block.normalisation(sample), part)
        return y

    def record(self) -> Record:
        """When all rows have been activated."""
        block, number = self._block, self._key.to_tensor()
        kept = (self._kept, *block.statistics) if self._encoder is None else self._encoder.kept
        what = self._sketch, self._shape, block.slope, number, block.affine, self._key.layer
        return Record(*what, kept)


class Backward:
    """The backward pass of two blocks, from the gradient with respect to what they put out."""

    def __init__(
        self,
        blocks: tuple[Block, Block],
        course: Course,
        dz: Callable[[int], Chunks],
        told: Callable[[int, int], Iterator[Rebuilder]],
    ) -> None:
        """Streams are asked for as often as they are needed.

        Args:
            blocks: one behind the other.
            course: through all tensors here.
            dz: gradient with respect to the last output, of a sample.
            told: how the chunks were normalised, by a block (0 or 1), of a sample.
        """
        self._blocks, self._course, self._told, self._last = blocks, course, told, dz
        self._columns: dict[tuple[int, int], tuple[Tensor, ...]] = {}
        self._sums: list[Tensor | None] = [None, None]

    def dz(self, index: int, sample: int, tap: Tap | None = None) -> Chunks:
        """With respect to what a block puts out; ``tap`` sees dy of the block behind on its way."""
        if index == 1:
            return self._last(sample)
        return self._into(1, sample, tap)

    def dx(self, sample: int) -> Chunks:
        """With respect to the first block's input."""
        return self._into(0, sample, None)

    def dy(self, index: int, sample: int) -> Chunks:
        """With respect to what a block's convolution puts out; the block has been settled."""
        write = partial(_write_gradient, self._columns[index, sample])
        return map(write, self._told(index, sample), self.dz(index, sample))

    def settle(self, index: int, sample: int, sums: Tensor, voxels: int) -> None:
        """Take in the sums of :func:`sums_of_gradient` over all rows of a sample."""
        one, block = slice(sample, sample + 1), self._blocks[index]
        gain, scale = block.affine[0][one], block.statistics[0][one]
        self._columns[index, sample] = columns_of_gradient(sums, voxels, gain, scale, _of_itself)
        self._sums[index] = added(self._sums[index], sums[:2, 0])

    def settle_with(self, index: int, sample: int, dz: Chunks, voxels: int) -> None:
        """The same, by a stream of dz."""
        parts = map(sums_of_gradient, self._told(index, sample), dz)
        self.settle(index, sample, reduce(torch.add, parts), voxels)

    def norms(self, index: int) -> tuple[Tensor, Tensor]:
        """Gradients with respect to gamma and beta of a block, when all samples are settled."""
        sums = self._sums[index]
        assert sums is not None
        return sums[1], sums[0]

    def _into(self, index: int, sample: int, tap: Tap | None) -> Chunks:
        dy, course = self.dy(index, sample), self._course
        if tap is not None:
            dy = map(tap, course.places, dy)
        kernel = self._blocks[index].kernel.adjoint()
        return kernel.convolved(Windows(dy, course.depth), course)


def told_by_record(record: Rebuilder, sample: int, course: Course) -> Iterator[Rebuilder]:
    """How the chunks of a sample were normalised."""
    one, planes = slice(sample, sample + 1), record.grid.planes
    return (record.part(one, _layers(place, planes)) for place in course.places)


def sums_of_gradient(told: Rebuilder, dz: Tensor) -> Tensor:
    """What some rows add to the sums that the gradient of a norm needs: ``(3, 1, C)``."""
    return told.sums(dz, told.record.slope, 1.0)


def _write_gradient(columns: tuple[Tensor, ...], told: Rebuilder, dz: Tensor) -> Tensor:
    told.gradient(dz, dz, columns)
    return dz


def _layers(place: slice, planes: int) -> slice:
    return slice(place.start // planes, -(-place.stop // planes))


def _of_itself(values: Tensor) -> Tensor:
    return values
