"""Networks of nnU-Net (dynamic-network-architectures) that take fewer tensors.

The decoder reads the skips, which it has taken off the list, without a concatenation, and
everything between its convolutions is done in place, as in :class:`seg3d.networks.UNet3d`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from dynamic_network_architectures.building_blocks.plain_conv_encoder import PlainConvEncoder
from dynamic_network_architectures.building_blocks.residual import (
    BasicBlockD,
    BottleneckD,
    StackedResidualBlocks,
)
from dynamic_network_architectures.building_blocks.residual_encoders import ResidualEncoder
from dynamic_network_architectures.building_blocks.simple_conv_blocks import (
    ConvDropoutNormReLU,
    StackedConvBlocks,
)
from dynamic_network_architectures.building_blocks.unet_decoder import UNetDecoder
from torch import Tensor, nn

from seg3d.probing.probed_layer import is_watched
from seg3d.probing.sequential import (
    Held,
    Relay,
    add_branches,
    apply_to,
    forked,
    joined,
    shared,
)
from seg3d.probing.upsampled import Upsampled


class ProbedConvDropoutNormReLU(Relay, ConvDropoutNormReLU):
    """A convolution, and what is behind it."""

    def apply_to(self, held: Held) -> None:
        """Apply all layers."""
        apply_to(self.all_modules, held)


class ProbedStackedConvBlocks(Relay, StackedConvBlocks):
    """Several :class:`ProbedConvDropoutNormReLU`."""

    def apply_to(self, held: Held) -> None:
        """Apply all blocks."""
        apply_to(self.convs, held)


class ProbedStackedResidualBlocks(Relay, StackedResidualBlocks):
    """Several :class:`ProbedBasicBlockD` or :class:`ProbedBottleneckD`."""

    def apply_to(self, held: Held) -> None:
        """Apply all blocks."""
        apply_to(self.blocks, held)


class ProbedBasicBlockD(Relay, BasicBlockD):
    """Two convolutions, added to what goes past them."""

    def apply_to(self, held: Held) -> None:
        """Apply all layers, add, and activate."""
        _add_residual(self, [self.conv1, self.conv2], held)
        apply_to(self.nonlin2, held)


class ProbedBottleneckD(Relay, BottleneckD):
    """Three convolutions, added to what goes past them."""

    def apply_to(self, held: Held) -> None:
        """Apply all layers, add, and activate."""
        _add_residual(self, [self.conv1, self.conv2, self.conv3], held)
        apply_to(self.nonlin3, held)


def _add_residual(block: Any, layers: list[Callable[[Tensor], Tensor]], held: Held) -> None:
    if block.apply_stochastic_depth:
        layers.append(block.drop_path)
    if block.apply_se:
        layers.append(block.squeeze_excitation)
    add_branches(layers, [block.skip], held, inplace=True)


class ProbedPlainConvUNet(PlainConvUNet):
    """nnU-Net's U-Net."""

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Class scores of ``(B, C, D, H, W)``, with deep supervision of all levels."""
        return _scores(self, x) if _is_known(self, x) else super().forward(x)


class ProbedResidualEncoderUNet(ResidualEncoderUNet):
    """nnU-Net's U-Net with residual blocks in the encoder."""

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Class scores of ``(B, C, D, H, W)``, with deep supervision of all levels."""
        return _scores(self, x) if _is_known(self, x) else super().forward(x)


def _is_known(network: Any, x: Tensor) -> bool:
    """Whether encoder and decoder are nnU-Net's own and nobody sees what goes between them."""
    encoder, decoder = network.encoder, network.decoder
    return (
        type(encoder) in (PlainConvEncoder, ResidualEncoder)
        and encoder.return_skips
        and type(decoder) is UNetDecoder
        and not is_watched(encoder, x)
        and not is_watched(decoder, x)
    )


def _scores(network: Any, x: Tensor) -> Tensor | list[Tensor]:
    encoder, decoder = network.encoder, network.decoder
    held: Held = [x]
    if getattr(encoder, "stem", None) is not None:
        apply_to(encoder.stem, held)
    skips = []
    for stage in encoder.stages:
        apply_to(stage, held)
        skips.append(forked(held))
    skips.pop()  # the bottom, which is no skip
    scores = []
    levels = zip(decoder.transpconvs, decoder.stages, decoder.seg_layers, strict=True)
    for up, stage, head in levels:
        below = [joined(held)]
        held += [Upsampled(up, below.pop), skips.pop().x]
        apply_to(stage, held)
        if decoder.deep_supervision or not skips:
            scores.append(head(shared(held)))
    return scores[::-1] if decoder.deep_supervision else scores[0]


KINDS: dict[type[nn.Module], type[nn.Module]] = {
    ConvDropoutNormReLU: ProbedConvDropoutNormReLU,
    StackedConvBlocks: ProbedStackedConvBlocks,
    StackedResidualBlocks: ProbedStackedResidualBlocks,
    BasicBlockD: ProbedBasicBlockD,
    BottleneckD: ProbedBottleneckD,
    PlainConvUNet: ProbedPlainConvUNet,
    ResidualEncoderUNet: ProbedResidualEncoderUNet,
}
