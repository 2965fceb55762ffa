"""Blocks of MONAI's networks that take fewer tensors: no concatenation, and work in place.

Their layers stand one behind the other as attributes, so that no `Sequential` could know that
what one puts out goes to the next alone.
"""

from __future__ import annotations

from monai.networks.blocks.convolutions import ResidualUnit
from monai.networks.blocks.dynunet_block import UnetBasicBlock, UnetResBlock, UnetUpBlock
from monai.networks.blocks.segresnet_block import ResBlock
from monai.networks.layers.simplelayers import SkipConnection
from monai.networks.nets.attentionunet import AttentionBlock, AttentionLayer
from monai.networks.nets.basic_unet import UpCat
from monai.networks.nets.dynunet import DynUNetSkipLayer
from monai.networks.nets.segresnet import SegResNet
from monai.networks.nets.vnet import UpTransition
from torch import Tensor, nn
from torch.nn.functional import pad

from seg3d.probing.probed_layer import is_watched
from seg3d.probing.sequential import (
    Held,
    ProbedSequential,
    Relay,
    add_branches,
    add_to,
    apply_all,
    apply_to,
    forked,
    joined,
    shared,
)
from seg3d.probing.upsampled import Upsampled


class ProbedUpCat(UpCat):
    """:class:`monai.networks.nets.basic_unet.UpCat`."""

    def forward(self, x: Tensor, x_e: Tensor | None) -> Tensor:
        """Upsample ``x``, concatenate the skip ``x_e`` in front of it, apply two convolutions."""
        if x_e is None:
            return super().forward(x, x_e)
        held = [x_e, self._upsampled(x, x_e)]
        apply_to(self.convs, held)
        return joined(held)

    def _upsampled(self, x: Tensor, x_e: Tensor) -> Tensor:
        upsampled: Tensor = self.upsample(x)
        missing = [e - u for e, u in zip(x_e.shape[2:], upsampled.shape[2:], strict=True)]
        if not self.is_pad or not any(missing):
            return upsampled
        # Max pooling has dropped the last plane of an odd edge.
        both_sides = [size for excess in reversed(missing) for size in (0, excess)]
        return pad(upsampled, both_sides, mode="replicate")


class ProbedBasicBlock(Relay, UnetBasicBlock):
    """:class:`monai.networks.blocks.dynunet_block.UnetBasicBlock`."""

    def apply_to(self, held: Held) -> None:
        """Two convolutions, each with norm and activation."""
        first, second = (self.conv1, self.norm1), (self.conv2, self.norm2)
        apply_all([*first, self.lrelu, *second, self.lrelu], held)


class ProbedResidualBlock(Relay, UnetResBlock):
    """:class:`monai.networks.blocks.dynunet_block.UnetResBlock`."""

    def apply_to(self, held: Held) -> None:
        """Two convolutions, added to what goes past them, perhaps by a third one."""
        main = [self.conv1, self.norm1, self.lrelu, self.conv2, self.norm2]
        past = [self.conv3, self.norm3] if self.downsample else []
        add_branches(main, past, held, inplace=True)
        apply_to(self.lrelu, held)


class ProbedUpBlock(UnetUpBlock):
    """:class:`monai.networks.blocks.dynunet_block.UnetUpBlock`."""

    def forward(self, inp: Tensor, skip: Tensor) -> Tensor:
        """Upsample ``inp``, concatenate ``skip`` behind it, apply the block."""
        held = [skip]
        self.join([inp], held)
        return joined(held)

    def join(self, below: list[Tensor], held: Held) -> None:
        """The same for the one tensor ``below`` and the skip in ``held``."""
        up = self.transp_conv
        if isinstance(up, ProbedSequential) and len(up) == 1 and not is_watched(up, below[0]):
            held.insert(0, Upsampled(up[0], below.pop))
        else:
            held.insert(0, up(below.pop()))
        apply_to(self.conv_block, held)


class ProbedSkipLayer(Relay, DynUNetSkipLayer):
    """:class:`monai.networks.nets.dynunet.DynUNetSkipLayer`."""

    def apply_to(self, held: Held) -> None:
        """Go down, past the skip and up again."""
        apply_to(self.downsample, held)
        fork = forked(held)
        below: Held = [fork]
        apply_to(self.next_layer, below)
        below = [joined(below)]
        held[:] = [fork.x]
        del fork
        if isinstance(self.upsample, ProbedUpBlock) and not is_watched(self.upsample, below[0]):
            self.upsample.join(below, held)
        else:
            held.append(self.upsample(below.pop(), held.pop()))
        if self.super_head is not None and self.heads is not None and self.index > 0:
            self.heads[self.index - 1] = self.super_head(shared(held))


class ProbedSkipConnection(Relay, SkipConnection):
    """:class:`monai.networks.layers.simplelayers.SkipConnection`."""

    def apply_to(self, held: Held) -> None:
        """Leave what came in and what the submodule makes of it as two parts."""
        if self.mode != "cat" or self.dim != 1:
            held.append(SkipConnection.forward(self, joined(held)))
            return
        fork = forked(held)
        below: Held = [fork]
        apply_to(self.submodule, below)
        held[:] = [fork.x, joined(below)]


class ProbedResidualUnit(Relay, ResidualUnit):
    """:class:`monai.networks.blocks.convolutions.ResidualUnit`."""

    def apply_to(self, held: Held) -> None:
        """Some convolutions, added to what goes past them, perhaps by another one."""
        add_branches([self.conv], [self.residual], held)


class ProbedSegResNetBlock(Relay, ResBlock):
    """:class:`monai.networks.blocks.segresnet_block.ResBlock`."""

    def apply_to(self, held: Held) -> None:
        """Norm, activation and convolution twice, added to what came in."""
        first, second = (self.norm1, self.act, self.conv1), (self.norm2, self.act, self.conv2)
        add_branches([*first, *second], [], held, inplace=True)


class ProbedSegResNet(SegResNet):
    """:class:`monai.networks.nets.SegResNet`, which lets go of the skips."""

    def forward(self, x: Tensor) -> Tensor:
        """Class scores of ``(B, C, D, H, W)``."""
        held: Held = [x]
        apply_to(self.convInit, held)
        if self.dropout_prob is not None:
            apply_to(self.dropout, held)
        skips = []
        for down in self.down_layers:
            apply_to(down, held)
            skips.append(shared(held))
        skips.pop()  # the bottom, which is no skip
        for up, layers in zip(self.up_samples, self.up_layers, strict=True):
            apply_to(up, held)
            add_to(held, skips.pop())
            apply_to(layers, held)
        if self.use_conv_final:
            apply_to(self.conv_final, held)
        return joined(held)


class ProbedAttentionBlock(AttentionBlock):
    """:class:`monai.networks.nets.attentionunet.AttentionBlock`."""

    def forward(self, g: Tensor, x: Tensor) -> Tensor:
        """Weigh ``x`` by what it has in common with ``g``, which is of the same shape."""
        held: Held = [self.W_g(g)]
        add_to(held, self.W_x(x))
        apply_all([self.relu, self.psi], held)
        return x * joined(held)


class ProbedAttentionLayer(Relay, AttentionLayer):
    """:class:`monai.networks.nets.attentionunet.AttentionLayer`."""

    def apply_to(self, held: Held) -> None:
        """Go down and up again, and merge that with the skip, weighed by attention."""
        below: Held = [shared(held)]
        apply_all([self.submodule, self.upconv], below)
        up = joined(below)
        held += [self.attention(g=up, x=held.pop()), up]
        del up
        apply_to(self.merge, held)


class ProbedUpTransition(UpTransition):
    """:class:`monai.networks.nets.vnet.UpTransition`."""

    def forward(self, x: Tensor, skipx: Tensor) -> Tensor:
        """Upsample ``x``, concatenate ``skipx`` behind it, add what convolutions make of that."""
        held: Held = [x if self.dropout is None else self.dropout(x)]
        skip = self.dropout2(skipx)
        apply_all([self.up_conv, self.bn1, self.act_function1], held)
        held.append(skip)
        del skip
        # Not in parts: the whole is added.
        held.append(joined(held))
        add_branches([self.ops], [], held)
        apply_to(self.act_function2, held)
        return joined(held)


KINDS: dict[type[nn.Module], type[nn.Module]] = {
    UpCat: ProbedUpCat,
    UnetBasicBlock: ProbedBasicBlock,
    UnetResBlock: ProbedResidualBlock,
    UnetUpBlock: ProbedUpBlock,
    DynUNetSkipLayer: ProbedSkipLayer,
    SkipConnection: ProbedSkipConnection,
    ResidualUnit: ProbedResidualUnit,
    ResBlock: ProbedSegResNetBlock,
    SegResNet: ProbedSegResNet,
    AttentionBlock: ProbedAttentionBlock,
    AttentionLayer: ProbedAttentionLayer,
    UpTransition: ProbedUpTransition,
}
