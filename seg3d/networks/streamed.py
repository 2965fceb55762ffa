"""The finest level of a U-Net in slabs, forwards and backwards: half the memory, more time.

With records instead of activations (:mod:`seg3d.probing.records`) the largest thing in training is
one tensor of the finest level, whichever is at work. Here there is none: every norm has a stream
of chunks of its own, for its moments and again for the sums of its gradient.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from seg3d.common.choices import BITS
from seg3d.networks.streamed_decoder import Ascend, Sketching, StreamedDecoder
from seg3d.networks.streamed_encoder import Descend, Link, StreamedEncoder, descended
from seg3d.probing import ProbedConv3d, ProbedConvTranspose3d, ProbedInstanceNorm3d
from seg3d.probing.names import make_norm_sketch
from seg3d.probing.probed_layer import (
    ProbedLayer,
    Sketched,
    is_watched,
    lowered_under_autocast,
    plain,
)
from seg3d.probing.records import KeptSketch, Record, record_of
from seg3d.probing.rotated import RotatedSketch
from seg3d.probing.streamed_blocks import Block
from seg3d.probing.streams import Course, Kernel
from seg3d.probing.upsampled import Passage

ConvNorm = tuple[ProbedConv3d, ProbedInstanceNorm3d]


class FinestLevel:
    """One forward pass of the finest level: down first, and up when the others are through."""

    def __init__(
        self,
        encoder: tuple[ConvNorm, ConvNorm],
        down: ProbedConv3d,
        up: ProbedConvTranspose3d,
        decoder: tuple[ConvNorm, ConvNorm],
        head: ProbedConv3d,
    ) -> None:
        """Of its layers; ``down`` and ``up`` lead to the next level and back."""
        self._encoder, self._down = encoder, down
        self._up, self._decoder, self._head = up, decoder, head
        self._link = Link()

    def can_stream(self, image: Tensor) -> bool:
        """Whether a forward pass now is the same in slabs, for whoever watches it, and lighter."""
        first, *rest = (layer for block in (*self._encoder, *self._decoder) for layer in block)
        # The first convolution keeps the image, and nothing of its own.
        keeping = [*rest, self._down, self._up, self._head]
        layers = [first, *keeping]
        return (
            image.dim() == 5
            and len(image) > 0
            and image.shape[2:].numel() > 1
            and not image.requires_grad
            and (all(one.is_probing() for one in keeping) or all(one.is_lean() for one in layers))
            and all(parameter.requires_grad for one in layers for parameter in one.parameters())
            and not any(is_watched(one, image) for one in layers)
            and not torch.compiler.is_compiling()
            # Or there is nothing to be saved, and much time to be lost.
            and len(self._course(image).places) > 1
        )

    def _course(self, image: Tensor) -> Course:
        return Course.of(image, self._encoder[0][0].out_channels, _dtype(image))

    def descend(self, image: Tensor) -> Tensor:
        """From the image ``(B, C_in, D, H, W)`` to the strided convolution's output."""
        image = plain(image)
        dtype = _dtype(image)
        encoder = StreamedEncoder(image, dtype, self._course(image))
        with torch.no_grad(), torch.autocast(image.device.type, enabled=False):
            for conv, norm in self._encoder:
                encoder = encoder.with_block(_block(conv, norm, dtype), norm.eps)
        self._streamed = encoder
        down, geometry = self._down, self._down.geometry()
        assert down.bias is not None
        if down.is_lean():
            with torch.autocast(image.device.type, enabled=False):
                return descended(encoder, Kernel.of(down.weight, down.bias, geometry, dtype))
        layers = down, *self._encoder[0], *self._encoder[1]
        _count_draws(*layers)
        parameters = (parameter for layer in layers for parameter in _of(layer))
        y, self._token = Descend.apply(encoder, geometry, self._link, *parameters)
        return y

    def ascend(self, held: list[Tensor]) -> Tensor:
        """From the level below, ``(B, C, D', H', W')``, taken off the list, to the scores."""
        x = lowered_under_autocast(plain(held[0]))
        record = record_of(held.pop())
        decoder = self._streamed_decoder(x)
        if self._head.is_lean():
            with torch.autocast(x.device.type, enabled=False):
                return decoder.observed(x).scored(x, None)
        layers = self._up, *self._decoder[0], *self._decoder[1], self._head
        parameters = (parameter for layer in layers for parameter in _of(layer))
        sketching = self._sketching(x, record)
        scores: Tensor = Ascend.apply(decoder, sketching, self._link, self._token, x, *parameters)
        return scores

    def _streamed_decoder(self, x: Tensor) -> StreamedDecoder:
        (first, second), up, head = self._decoder, self._up, self._head
        channels = up.out_channels
        geometries = up.geometry(), first[0].geometry()
        assert up.bias is not None and head.bias is not None
        weights = up.weight.detach(), up.bias.detach(), first[0].weight.detach()[:, :channels]
        return StreamedDecoder(
            self._streamed,
            Passage.of(x.shape, x.dtype, geometries, weights),
            (_block(*first, x.dtype, channels), _block(*second, x.dtype)),
            (first[1].eps, second[1].eps),
            Kernel.of(head.weight.detach(), head.bias.detach(), head.geometry(), x.dtype),
        )

    def _sketching(self, x: Tensor, record: Record | None) -> Sketching:
        """What is kept, and where the noise of the weight gradients comes from."""
        (join, first_norm), (conv, second_norm) = self._decoder
        up, head = self._up, self._head
        _count_draws(join)  # once for the skip, and once for what is below
        key = join.next_key()
        below = max((join, up), key=lambda one: BITS.index(one.bits)).source_of(record)
        assert isinstance(below, Record | RotatedSketch | KeptSketch)
        join.sources = ()
        join.note_source(x, below, key)
        up.sources = join.sources
        shape = torch.Size((len(x), conv.in_channels, *self._streamed.image.shape[2:]))
        norms = []
        for norm in (first_norm, second_norm):
            norm.sketched = Sketched(shape, x.element_size())
            sketch = make_norm_sketch(norm.sketch, norm.bits)
            assert sketch is not None
            norms.append((sketch, norm.next_key()))
        conv.sources, head.sources = ((key.layer,) for _, key in norms)
        _count_draws(conv, head)
        return Sketching(tuple(norms), below, key)


def _dtype(image: Tensor) -> torch.dtype:
    """In which convolutions are done."""
    return lowered_under_autocast(image.new_empty(0)).dtype


def _block(
    conv: ProbedConv3d, norm: ProbedInstanceNorm3d, dtype: torch.dtype, skipped: int = 0
) -> Block:
    """Without the first channels of its input, of which there are so many."""
    assert conv.bias is not None and norm.slope is not None
    weight = conv.weight.detach()[:, skipped:]
    kernel = Kernel.of(weight, conv.bias.detach(), conv.geometry(), dtype)
    return Block(kernel, norm.weight.detach(), norm.bias.detach(), norm.slope)


def _of(layer: nn.Module) -> tuple[Any, Any]:
    return layer.weight, layer.bias


def _count_draws(*layers: ProbedLayer) -> None:
    """Let those draw that would draw if the level did not go in slabs."""
    for layer in layers:
        if layer.is_probing():
            layer.next_key()
