"""The decoder of the finest level of a U-Net, of which no tensor is ever there as a whole.

The skip connection is made once more from the image (:mod:`seg3d.networks.streamed_encoder`),
whenever it is read; upsampling, two blocks and the head follow chunk by chunk. The norms keep their
records, since what lies below cannot be made again. In the backward pass the scores' gradient is
what is kept, and all others are made from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from seg3d.networks.streamed_encoder import Link, StreamedEncoder
from seg3d.probing.keys import ProbeKey
from seg3d.probing.probed_layer import ProbedFunction, refuse_second_derivatives
from seg3d.probing.records import KeptSketch, Rebuilder, Record, sketched
from seg3d.probing.rotated import RotatedSketch
from seg3d.probing.slabs import RollingRows, Slab
from seg3d.probing.streamed_blocks import Backward, Block, Recording, told_by_record
from seg3d.probing.streams import Chunks, Kernel, WeightGradient, Windows, exhaust, store
from seg3d.probing.upsampled import Passage, PassageGradients


@dataclass(frozen=True)
class StreamedDecoder:
    """What is done with the level below and the skip connection.

    Attributes:
        encoder: makes the skip connection.
        passage: from the level below to the first block's convolution.
        blocks: the first with the convolution of the skip connection.
        eps: of the norms of the blocks.
        head: scores the features.
    """

    encoder: StreamedEncoder
    passage: Passage
    blocks: tuple[Block, Block]
    eps: tuple[float, float]
    head: Kernel

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All there are but the encoder's, for ``save_for_backward``."""
        up_weight, up_bias, weight = self.passage.weights
        assert up_bias is not None and self.head.bias is not None
        parts = self.head.weight, self.head.bias, up_weight, up_bias, weight
        return *parts, *self.blocks[0].tensors, *self.blocks[1].tensors

    def with_tensors(self, tensors: tuple[Tensor, ...]) -> StreamedDecoder:
        """This decoder with :attr:`tensors` as autograd gives them back."""
        head_weight, head_bias, up_weight, up_bias, weight, *rest = tensors
        first, second = self.blocks
        share = len(rest) // 2
        blocks = first.with_tensors(tuple(rest[:share])), second.with_tensors(tuple(rest[share:]))
        passage = replace(self.passage, weights=(up_weight, up_bias, weight))
        head = replace(self.head, weight=head_weight, bias=head_bias)
        return replace(self, passage=passage, blocks=blocks, head=head)

    def without_tensors(self) -> StreamedDecoder:
        """What is left of it for :meth:`with_tensors` to complete, but for the encoder."""
        nothing = torch.empty(0)
        first, second = self.blocks
        return replace(
            self,
            encoder=self.encoder.without_tensors(),
            passage=replace(self.passage, weights=(nothing, nothing, nothing)),
            blocks=(first.without_tensors(), second.without_tensors()),
            head=replace(self.head, weight=nothing, bias=nothing),
        )

    def joined(self, x: Tensor, sample: int) -> Chunks:
        """What the first convolution puts out."""
        course, kernel = self.encoder.course, self.blocks[0].kernel
        skip = Windows(self.encoder.activated(1, sample), course.depth)

        def with_below(place: slice, y: Tensor) -> Tensor:
            self.passage.add_slab(_slab(sample, place), y, x)
            return y

        return map(with_below, course.places, kernel.convolved(skip, course))

    def convolved(self, features: Chunks) -> Chunks:
        """What the second convolution puts out, from what the first block does."""
        course = self.encoder.course
        return self.blocks[1].kernel.convolved(Windows(features, course.depth), course)

    def observed(self, x: Tensor) -> StreamedDecoder:
        """The same, with the statistics of the norms."""
        samples = range(len(x))
        streams = [partial(self.joined, x, sample) for sample in samples]
        first = self.blocks[0].observed(streams, self.eps[0])

        def second_stream(sample: int) -> Chunks:
            return self.convolved(map(partial(first.activate, sample), self.joined(x, sample)))

        streams = [partial(second_stream, sample) for sample in samples]
        return replace(self, blocks=(first, self.blocks[1].observed(streams, self.eps[1])))

    def scored(self, x: Tensor, recordings: tuple[Recording, Recording] | None) -> Tensor:
        """The scores, ``(B, K, D, H, W)``, the statistics being known.

        Args:
            x: of the level below, ``(B, C', D', H', W')``.
            recordings: told of what the norms read, if there are any.
        """
        encoder, course = self.encoder, self.encoder.course
        image, classes = encoder.image, len(self.head.weight)
        out = x.new_empty(len(image), classes, *image.shape[2:])
        for sample in range(len(image)):
            chunks = self._activated(0, sample, self.joined(x, sample), recordings)
            chunks = self._activated(1, sample, self.convolved(chunks), recordings)
            scores = self.head.convolved(Windows(chunks, course.depth), course)
            exhaust(map(partial(store, out[sample : sample + 1]), course.places, scores))
        return out

    def _activated(
        self, index: int, sample: int, y: Chunks, recordings: tuple[Recording, Recording] | None
    ) -> Chunks:
        if recordings is None:
            return map(partial(self.blocks[index].activate, sample), y)
        record = partial(recordings[index].activate, sample)
        return map(record, self.encoder.course.places, y)


@dataclass(frozen=True)
class Sketching:
    """How the decoder's inputs are remembered.

    Attributes:
        norms: sketches and keys of the two norms.
        below: record of the level below, or the sketch to be made of it.
        key: of that.
    """

    norms: tuple[tuple[RotatedSketch | KeptSketch, ProbeKey], ...]
    below: Record | RotatedSketch | KeptSketch
    key: ProbeKey


class Ascend(ProbedFunction):
    """The scores of the finest level; see :class:`StreamedDecoder`."""

    @staticmethod
    def forward(
        ctx: Any,
        decoder: StreamedDecoder,
        sketching: Sketching,
        link: Link,
        token: Tensor,
        x: Tensor,
        *parameters: Tensor,
    ) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            source, key = sketching.below, sketching.key
            below = source if isinstance(source, Record) else sketched(x, source, key)
            assert isinstance(below, Record)
            decoder = decoder.observed(x)
            shape = (len(x), len(decoder.blocks[0].gamma), *decoder.encoder.image.shape[2:])
            like = x.new_empty(()).expand(shape)
            first, second = (
                Recording(block, *choice, like)
                for block, choice in zip(decoder.blocks, sketching.norms, strict=True)
            )
            scores = decoder.scored(x, (first, second))
        ctx.link, ctx.parameter_dtypes = link, [one.dtype for one in parameters]
        holders = decoder.encoder, decoder, below, first.record(), second.record()
        ctx.save_for_backward(*(tensor for holder in holders for tensor in holder.tensors))
        ctx.holders = [(holder.without_tensors(), len(holder.tensors)) for holder in holders]
        return scores

    @staticmethod
    def backward(ctx: Any, dscores: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivatives()
        saved = iter(ctx.saved_tensors)
        encoder, decoder, *records = (
            holder.with_tensors(tuple(islice(saved, count))) for holder, count in ctx.holders
        )
        decoder = replace(decoder, encoder=encoder)
        with torch.autocast(dscores.device.type, enabled=False):
            back, found = _gradients(decoder, dscores, *records)
        ctx.link.skip_gradient = back.dx
        dx, *dparameters = found
        in_their_types = (
            one.to(dtype) for one, dtype in zip(dparameters, ctx.parameter_dtypes, strict=True)
        )
        return None, None, None, dscores.new_zeros(0), dx, *in_their_types


def _gradients(
    decoder: StreamedDecoder, dscores: Tensor, below: Record, *records: Record
) -> tuple[Backward, list[Tensor]]:
    """Those with respect to what is below, and to all parameters; and how to go on to the skip."""
    course, voxels, (first, second) = decoder.encoder.course, dscores[0, 0].numel(), decoder.blocks
    opened = [record.open(dscores.dtype) for record in records]

    def scores_gradient(sample: int) -> Chunks:
        return (dscores[sample : sample + 1, :, place] for place in course.places)

    def features_gradient(sample: int) -> Chunks:
        rows = Windows(scores_gradient(sample), course.depth)
        return decoder.head.adjoint().convolved(rows, course)

    def told(index: int, sample: int) -> Iterator[Rebuilder]:
        return told_by_record(opened[index], sample, course)

    def surrogate(record: Record) -> RollingRows:
        fill, step = record.filler(dscores.dtype)
        return RollingRows(record.shape, dscores.new_empty, step, fill)

    back = Backward((first, second), course, features_gradient, told)
    firsts, seconds, heads = (
        WeightGradient(one) for one in (first.kernel, second.kernel, decoder.head)
    )
    inputs, features = (surrogate(record) for record in records)
    passed = PassageGradients(decoder.passage, surrogate(below), [True] * 4)
    for sample in range(len(dscores)):
        one = slice(sample, sample + 1)
        exhaust(
            map(
                partial(heads.add, partial(features.rows, one)),
                course.places,
                scores_gradient(sample),
            )
        )
        back.settle_with(1, sample, features_gradient(sample), voxels)
        tap = partial(seconds.add, partial(inputs.rows, one))
        back.settle_with(0, sample, back.dz(0, sample, tap), voxels)
        skip = Windows(decoder.encoder.activated(1, sample), course.depth)
        dy = map(partial(firsts.add, skip), course.places, back.dy(0, sample))
        exhaust(map(passed.add, (_slab(sample, place) for place in course.places), dy))
    dx, up_weight, up_bias, weight_of_up = passed.finish()
    assert dx is not None and up_weight is not None and up_bias is not None
    assert weight_of_up is not None
    weight, bias = firsts.found
    joined = torch.cat([weight_of_up, weight], 1), bias, *back.norms(0)
    return back, [dx, up_weight, up_bias, *joined, *seconds.found, *back.norms(1), *heads.found]


def _slab(sample: int, place: slice) -> Slab:
    return Slab(slice(sample, sample + 1), place.start, place.stop)
