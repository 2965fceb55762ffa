"""Blocks of MONAI's networks that take fewer tensors: no concatenation, and work in place.

Their layers stand one behind the other as attributes, so that no `Sequential` could know that
what one puts out goes to the next alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from monai.networks.blocks.dynunet_block import UnetBasicBlock, UnetResBlock, UnetUpBlock
from monai.networks.blocks.segresnet_block import ResBlock
from monai.networks.nets.basic_unet import UpCat
from torch import Tensor, nn
from torch.nn.functional import pad

from seg3d.probing.convolutions import ProbedConv3d
from seg3d.probing.probed_layer import is_watched
from seg3d.probing.sequential import ProbedSequential, apply_to
from seg3d.probing.upsampled import Upsampled


class ProbedUpCat(UpCat):
    """:class:`monai.networks.nets.basic_unet.UpCat`."""

    def forward(self, x: Tensor, x_e: Tensor | None) -> Tensor:
        """Upsample ``x``, concatenate the skip ``x_e`` in front of it, apply two convolutions."""
        if x_e is None or not _can_split(self.convs, self.convs[0], x=x):
            return super().forward(x, x_e)
        first, second = self.convs
        conv, *behind = first
        y = conv.of_parts([lambda: x_e, lambda: self._upsampled(x, x_e)])
        return _through([*behind, second], [y])

    def _upsampled(self, x: Tensor, x_e: Tensor) -> Tensor:
        upsampled: Tensor = self.upsample(x)
        missing = [e - u for e, u in zip(x_e.shape[2:], upsampled.shape[2:], strict=True)]
        if not self.is_pad or not any(missing):
            return upsampled
        # Max pooling has dropped the last plane of an odd edge.
        both_sides = [size for excess in reversed(missing) for size in (0, excess)]
        return pad(upsampled, both_sides, mode="replicate")


class ProbedBasicBlock(UnetBasicBlock):
    """:class:`monai.networks.blocks.dynunet_block.UnetBasicBlock`."""

    def forward(self, inp: Tensor) -> Tensor:
        """Two convolutions, each with norm and activation."""
        return _through([self.conv1, *self.behind_the_first()], [inp])

    def behind_the_first(self) -> list[nn.Module]:
        """The layers behind the first convolution."""
        return [self.norm1, self.lrelu, self.conv2, self.norm2, self.lrelu]


class ProbedResidualBlock(UnetResBlock):
    """:class:`monai.networks.blocks.dynunet_block.UnetResBlock`."""

    def forward(self, inp: Tensor) -> Tensor:
        """Two convolutions, added to what goes past them, perhaps by a third one."""
        layers = [self.conv1, self.norm1, self.lrelu, self.conv2, self.norm2]
        held = [_through(layers, [inp])]
        past = _through([self.conv3, self.norm3], [inp]) if self.downsample else inp
        held[0] += past
        del past
        return _through([self.lrelu], held)


class ProbedUpBlock(UnetUpBlock):
    """:class:`monai.networks.blocks.dynunet_block.UnetUpBlock`."""

    def forward(self, inp: Tensor, skip: Tensor) -> Tensor:
        """Upsample ``inp``, concatenate ``skip`` behind it, apply the block."""
        block = self.conv_block
        if not (isinstance(block, ProbedBasicBlock) and _can_split(block, block.conv1, x=inp)):
            return super().forward(inp, skip)
        conv, *behind = block.conv1
        y = conv.of_parts([self._upsampled(inp), lambda: skip])
        return _through([*behind, *block.behind_the_first()], [y])

    def _upsampled(self, x: Tensor) -> Callable[[], Tensor]:
        up = self.transp_conv
        if isinstance(up, ProbedSequential) and len(up) == 1 and not is_watched(up, x):
            return Upsampled(up[0], lambda: x)
        return lambda: up(x)


class ProbedSegResNetBlock(ResBlock):
    """:class:`monai.networks.blocks.segresnet_block.ResBlock`."""

    def forward(self, x: Tensor) -> Tensor:
        """Norm, activation and convolution twice, added to ``x``."""
        y = _through([self.norm1, self.act, self.conv1, self.norm2, self.act, self.conv2], [x])
        y += x
        return y


def _through(layers: Iterable[nn.Module], held: list[Tensor]) -> Tensor:
    """The one tensor in ``held``, which nobody else need hold, after all layers."""
    for layer in layers:
        apply_to(layer, held)
    return held.pop()


def _can_split(*blocks: nn.Module, x: Tensor) -> bool:
    """Whether the convolution that begins the last of ``blocks`` can be done part by part."""
    last = blocks[-1]
    if not (isinstance(last, ProbedSequential) and isinstance(last[0], ProbedConv3d)):
        return False
    return last[0].is_sparing() and not any(is_watched(one, x) for one in (*blocks, last[0]))
