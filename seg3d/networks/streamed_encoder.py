"""The encoder of the finest level of a U-Net, of which no tensor is ever there as a whole.

Its two blocks are made from the image, chunk by chunk, as often as somebody reads them: by the
strided convolution to the next level, by the decoder, and again in the backward pass. Nothing is
kept of them but the statistics of the norms, and their gradients are exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import repeat
from typing import Any

import torch
from torch import Tensor

from seg3d.probing.probed_layer import ProbedFunction, refuse_second_derivatives
from seg3d.probing.records import Rebuilder
from seg3d.probing.slabs import Geometry
from seg3d.probing.streamed_blocks import Backward, Block, sums_of_gradient
from seg3d.probing.streams import Chunks, Course, Kernel, WeightGradient, Windows, exhaust, store


@dataclass(frozen=True)
class StreamedEncoder:
    """Image, convolution, norm, activation, convolution, norm, activation.

    Attributes:
        image: ``(B, C_in, D, H, W)``.
        dtype: of the computation.
        course: through all tensors of this level.
        blocks: none, one or two, whose statistics are known.
    """

    image: Tensor
    dtype: torch.dtype
    course: Course
    blocks: tuple[Block, ...] = ()

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All there are, for ``save_for_backward``."""
        return self.image, *(tensor for block in self.blocks for tensor in block.tensors)

    def with_tensors(self, tensors: tuple[Tensor, ...]) -> StreamedEncoder:
        """This encoder with :attr:`tensors` as autograd gives them back."""
        image, *rest = tensors
        share = len(rest) // len(self.blocks)
        blocks = (
            block.with_tensors(tuple(rest[index * share : (index + 1) * share]))
            for index, block in enumerate(self.blocks)
        )
        return replace(self, image=image, blocks=tuple(blocks))

    def without_tensors(self) -> StreamedEncoder:
        """What is left of it for :meth:`with_tensors` to complete."""
        blocks = tuple(block.without_tensors() for block in self.blocks)
        return replace(self, image=torch.empty(0), blocks=blocks)

    @property
    def voxels(self) -> int:
        """Of one channel of a sample."""
        return self.image[0, 0].numel()

    def with_block(self, block: Block, eps: float) -> StreamedEncoder:
        """The same with one more block, whose statistics are still to be found."""
        index = len(self.blocks)
        longer = replace(self, blocks=(*self.blocks, block))
        streams = [partial(longer.convolved, index, sample) for sample in range(len(self.image))]
        return replace(self, blocks=(*self.blocks, block.observed(streams, eps)))

    def rows(self, sample: int) -> Chunks:
        """The image of a sample."""
        one = slice(sample, sample + 1)
        return (self.image[one, :, place].to(self.dtype) for place in self.course.places)

    def convolved(self, index: int, sample: int) -> Chunks:
        """What the convolution of a block puts out, for whoever likes to write over it."""
        below = self.activated(index - 1, sample) if index else self.rows(sample)
        return self.blocks[index].kernel.convolved(Windows(below, self.course.depth), self.course)

    def activated(self, index: int, sample: int) -> Chunks:
        """What a block puts out."""
        return map(partial(self.blocks[index].activate, sample), self.convolved(index, sample))


@dataclass
class Link:
    """What the decoder's backward pass leaves for the encoder's, which comes later.

    Attributes:
        skip_gradient: with respect to the encoder's output, of a sample; None before.
    """

    skip_gradient: Callable[[int], Chunks] | None = field(default=None)

    def take(self) -> Callable[[int], Chunks] | None:
        """It is needed once."""
        gradient, self.skip_gradient = self.skip_gradient, None
        return gradient


def descended(encoder: StreamedEncoder, down: Kernel) -> Tensor:
    """The strided convolution of what the encoder puts out: ``(B, C', D', H', W')``."""
    image, channels = encoder.image, down.weight.shape[1]
    shape = torch.Size((len(image), channels, *image.shape[2:]))
    out = image.new_empty(down.geometry.output_shape(shape, down.weight.shape), dtype=encoder.dtype)
    course = _behind(encoder, down, out)
    for sample in range(len(image)):
        features = Windows(encoder.activated(1, sample), encoder.course.depth)
        rows = down.convolved(features, course)
        exhaust(map(partial(store, out[sample : sample + 1]), course.places, rows))
    return out


class Descend(ProbedFunction):
    """:func:`descended`, and a token that ties the decoder's backward pass to this one's."""

    @staticmethod
    def forward(
        ctx: Any,
        encoder: StreamedEncoder,
        geometry: Geometry,
        link: Link,
        down_weight: Tensor,
        down_bias: Tensor,
        *parameters: Tensor,
    ) -> tuple[Tensor, Tensor]:
        down = Kernel.of(down_weight, down_bias, geometry, encoder.dtype)
        ctx.save_for_backward(down.weight, down_bias, *encoder.tensors)
        ctx.encoder, ctx.geometry, ctx.link = encoder.without_tensors(), geometry, link
        ctx.parameter_dtype = down_weight.dtype
        ctx.set_materialize_grads(False)
        with torch.autocast(encoder.image.device.type, enabled=False):
            return descended(encoder, down), down_weight.new_empty(0)

    @staticmethod
    def backward(ctx: Any, dy: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
        refuse_second_derivatives()
        weight, bias, *tensors = ctx.saved_tensors
        encoder = ctx.encoder.with_tensors(tuple(tensors))
        down = Kernel(weight, bias, ctx.geometry)
        with torch.autocast(dy.device.type, enabled=False):
            found = _gradients(encoder, down, dy, ctx.link.take())
        return None, None, None, *(one.to(ctx.parameter_dtype) for one in found)


def _gradients(
    encoder: StreamedEncoder,
    down: Kernel,
    dy: Tensor,
    skip_gradient: Callable[[int], Chunks] | None,
) -> list[Tensor]:
    """With respect to weight and bias of ``down``, and to the four of each block."""
    course, (first, second), plane = encoder.course, encoder.blocks, encoder.image.shape[3:]

    def from_below(sample: int, place: slice) -> Tensor:
        return down.input_gradient(dy[sample : sample + 1], place, plane)

    def arriving(sample: int) -> Chunks:
        below = map(partial(from_below, sample), course.places)
        return map(torch.Tensor.add_, below, skip_gradient(sample)) if skip_gradient else below

    def told(index: int, sample: int) -> Any:
        block = encoder.blocks[index]
        return map(partial(block.told_by_input, sample), encoder.convolved(index, sample))

    back = Backward((first, second), course, arriving, told)
    downs, seconds, firsts = (WeightGradient(one) for one in (down, second.kernel, first.kernel))
    behind = _behind(encoder, down, dy)
    for sample in range(len(dy)):
        # One stream finds the sums of the second norm, and the features that `down` has read.
        features = _Summed(second, sample)
        stream = map(features.take, encoder.convolved(1, sample), arriving(sample))
        window = Windows(stream, course.depth)
        rows = (dy[sample : sample + 1, :, place] for place in behind.places)
        exhaust(map(downs.add, repeat(window), behind.places, rows))
        exhaust(stream)  # rows that the strides leave out
        back.settle(1, sample, features.sums, encoder.voxels)
        window = Windows(encoder.activated(0, sample), course.depth)
        back.settle_with(
            0, sample, back.dz(0, sample, partial(seconds.add, window)), encoder.voxels
        )
        window = Windows(encoder.rows(sample), course.depth)
        exhaust(map(partial(firsts.add, window), course.places, back.dy(0, sample)))
    return [*downs.found, *firsts.found, *back.norms(0), *seconds.found, *back.norms(1)]


class _Summed:
    """The sums that the gradient of a norm needs, found while its output is made."""

    sums: Tensor

    def __init__(self, block: Block, sample: int) -> None:
        self._block, self._sample = block, sample

    def take(self, y: Tensor, dz: Tensor) -> Tensor:
        """Rows of the norm's input, and of the gradient behind it; returns those of the output."""
        told: Rebuilder = self._block.told_by_input(self._sample, y)
        sums = sums_of_gradient(told, dz)
        self.sums = self.sums + sums if hasattr(self, "sums") else sums
        return self._block.activate(self._sample, y)


def _behind(encoder: StreamedEncoder, down: Kernel, y: Tensor) -> Course:
    """The course through what ``down`` puts out, at the same pace."""
    rows = max(1, encoder.course.rows // down.geometry.stride[0])
    return Course.by(rows, y.shape[2], y)
