"""The 3D U-Nets of nnU-Net, plain or with a residual encoder, with probed convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from seg3d.common.choices import OF_BRICKS
from seg3d.losses import Scores, heads
from seg3d.networks.blocks import ONE, Block, ConvBlock, ResidualBlock, Triple, stacked
from seg3d.networks.streamed import ConvNorm, FinestLevel
from seg3d.probing import ProbedConv3d, ProbedConvTranspose3d
from seg3d.probing.probed_layer import is_watched
from seg3d.probing.sequential import ProbedSequential, apply_to
from seg3d.probing.upsampled import Upsampled


class UNet3d(nn.Module):
    """3D U-Net after nnU-Net (Isensee et al., Nature Methods 18, 2021; Çiçek et al., MICCAI 2016).

    Every level has two `ConvBlock` in the encoder and two in the decoder. Levels are joined by
    strided convolutions on the way down and transposed convolutions on the way up. With ``blocks``
    it is nnU-Net's residual encoder U-Net (Isensee et al., "nnU-Net Revisited", MICCAI 2024): a
    `ConvBlock`, so many `ResidualBlock` in every level of the encoder, and one `ConvBlock` in
    every level of the decoder.

    Args:
        in_channels: channels of the image.
        out_channels: classes, background included.
        channels: features per level, finest first; their number is the number of levels.
        probing: sketch of the convolutions' inputs that training keeps for the weight gradient,
            one of `seg3d.probing.SKETCHES`; ``"exact"`` is ordinary autograd.
        rank: number of probes, for the sketches that have one.
        deep_supervision: in training mode, return the class scores of all levels but the coarsest
            as a list, finest first, each at its own resolution.
        kernels: kernel size per level; default 3×3×3.
        strides: stride from the level above per level, the first being (1, 1, 1); default 2×2×2.
        blocks: residual blocks of the encoder per level; None for an encoder of plain ones.
        streamed: the finest level goes in slabs, forwards and backwards; see
            :mod:`seg3d.networks.streamed`. Same function, less memory, more time.

    Attributes:
        streamed: may be changed at any time where ``streamable`` is true.

    Raises:
        ValueError: if ``channels``, ``kernels``, ``strides`` and ``blocks`` are not as long as one
            another, or a network is to be streamed that has residual blocks, or a sketch that sees
            whole tensors.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        channels: Sequence[int] = (32, 64, 128, 256, 320, 320),
        probing: str = "rotated",
        deep_supervision: bool = False,
        *,
        rank: int = 64,
        kernels: Sequence[Triple] | None = None,
        strides: Sequence[Triple] | None = None,
        blocks: Sequence[int] | None = None,
        streamed: bool = False,
    ) -> None:
        super().__init__()
        levels = len(channels)
        kernels = kernels or [(3, 3, 3)] * levels
        strides = strides or [(1, 1, 1)] + [(2, 2, 2)] * (levels - 1)
        plain = blocks is None
        if blocks is None:
            # In the first level, behind the block that begins the network.
            blocks = [1] + [2] * (levels - 1)
        if not len(kernels) == len(strides) == len(blocks) == levels >= 2:
            raise ValueError(
                f"channels, kernels, strides and blocks should have one entry for each of two or "
                f"more levels, not {levels}, {len(kernels)}, {len(strides)} and {len(blocks)}"
            )
        if streamed and not plain:
            raise ValueError("streamed: only without residual blocks")
        if streamed and probing not in OF_BRICKS:
            raise ValueError(f"streamed: only with {', '.join(OF_BRICKS)}, not with {probing}")
        self.deep_supervision = deep_supervision
        self.strides = tuple(strides)
        self.streamed = streamed
        self.streamable = plain and probing in OF_BRICKS

        def stage(
            kind: type[Block], count: int, c_in: int, level: int, stride: Triple = ONE
        ) -> ProbedSequential:
            return stacked(
                kind, count, c_in, channels[level], kernels[level], stride, probing, rank
            )

        kind = ConvBlock if plain else ResidualBlock
        begin = ConvBlock(in_channels, channels[0], kernels[0], ONE, probing, rank)
        # The image is alive during the step anyway: a sketch of it would save nothing.
        begin.conv.set_sketch("exact", rank)
        stem = ProbedSequential(begin, *stage(kind, blocks[0], channels[0], 0))
        self.encoder = nn.ModuleList([stem])
        self.encoder.extend(
            stage(kind, blocks[level], channels[level - 1], level, strides[level])
            for level in range(1, levels)
        )
        decoded = range(levels - 1)
        self.up = nn.ModuleList(
            ProbedConvTranspose3d(
                channels[level + 1],
                channels[level],
                strides[level + 1],
                strides[level + 1],
                sketch=probing,
                rank=rank,
            )
            for level in decoded
        )
        self.decoder = nn.ModuleList(
            stage(ConvBlock, 2 if plain else 1, 2 * channels[level], level) for level in decoded
        )
        self.heads = nn.ModuleList(
            ProbedConv3d(channels[level], out_channels, 1, sketch=probing, rank=rank)
            for level in (decoded if deep_supervision else [0])
        )
        self.apply(_initialise)

    def forward(self, x: Tensor, unscored: bool = False) -> Tensor | Sequence[Scores]:
        """Class scores (before softmax).

        Args:
            x: `(B, in_channels, D, H, W)`; each of D, H, W a multiple of the product of the
                strides along it.
            unscored: return a list, with features (:class:`seg3d.losses.Unscored`) where that takes
                less memory; see :func:`seg3d.losses.unscored_heads`.

        Returns:
            `(B, out_channels, D, H, W)`; in training mode with deep supervision the list of the
            scores of every decoded level, finest first.

        Raises:
            ValueError: if the size of ``x`` is not such a multiple.
        """
        self._check(x)
        finest = self._finest_in_slabs(x)
        # Tensors are passed on in lists and taken off them, so that nothing outlives its use.
        held = [x if finest else self.encoder[0](x)]
        skips: list[Tensor] = []
        for level, stage in enumerate(self.encoder[1:], 1):
            first, *others = _blocks(stage)
            if finest and level == 1:
                assert isinstance(first, ConvBlock)
                held.append(finest.descend(held.pop()))
                apply_to(first.norm, held)
            else:
                _descend(first, held, skips)
            for block in others:
                apply_to(block, held)
        scores: list[Scores] = []
        for level in reversed(range(len(self.decoder))):
            if finest and level == 0:
                scores.append(finest.ascend(held))
                break
            first, *others = _blocks(self.decoder[level])
            assert isinstance(first, ConvBlock)
            held.append(first.of_parts([Upsampled(self.up[level], held.pop), skips.pop]))
            for block in others:
                apply_to(block, held)
            if level == 0 or (self.deep_supervision and self.training):
                scores.append(_score(self.heads[level], held, level, unscored))
        if unscored:
            return scores[::-1]
        made = heads(scores[::-1])
        return made if self.deep_supervision and self.training else made[0]

    def _finest_in_slabs(self, x: Tensor) -> FinestLevel | None:
        """The finest level, if it is to go in slabs and nobody watches its layers."""
        if not self.streamed:
            return None
        stages = self.encoder[0], self.decoder[0]
        if any(is_watched(module, x) for stage in stages for module in stage.modules()):
            return None
        up, head, below = self.up[0], self.heads[0], _blocks(self.encoder[1])[0]
        assert isinstance(up, ProbedConvTranspose3d) and isinstance(head, ProbedConv3d)
        assert isinstance(below, ConvBlock)
        encoder, decoder = (_pairs(_blocks(stage)) for stage in stages)
        finest = FinestLevel(encoder, below.conv, up, decoder, head)
        return finest if finest.can_stream(x) else None

    def _check(self, x: Tensor) -> None:
        factors = [1, 1, 1]
        for stride in self.strides:
            factors = [factor * step for factor, step in zip(factors, stride, strict=True)]
        size = list(x.shape[2:])
        if any(length % factor for length, factor in zip(size, factors, strict=True)):
            raise ValueError(f"input of {size} voxels should have multiples of {factors}")


def _descend(block: Block, held: list[Tensor], skips: list[Tensor]) -> None:
    x, skip = block.with_skip(held.pop())
    held.append(x)
    skips.append(skip)


def _score(head: nn.Module, held: list[Tensor], level: int, unscored: bool) -> Scores:
    """The scores of a level, whose features stay held for the level above it."""
    assert isinstance(head, ProbedConv3d)
    if unscored and _is_lighter_unscored(head, level):
        return head.unscored(held[0])
    if level == 0 or is_watched(head, held[0]):
        scores: Tensor = head(held[0])
        return scores
    scores, features = head.with_skip(held.pop())
    held.append(features)
    return scores


def _is_lighter_unscored(head: ProbedConv3d, level: int) -> bool:
    """Whether it takes less memory if somebody else makes the scores of a level in slabs.

    In training features are kept in place of scores then. At the finest level their gradient takes
    their place, which is there in any case at the end; scores and their gradient come on top.
    """
    share = 4 if level == 0 else 1
    return share * head.out_channels >= head.in_channels


def _pairs(blocks: list[Block]) -> tuple[ConvNorm, ConvNorm]:
    """Convolution and norm of both blocks of a plain stage."""
    first, second = blocks
    assert isinstance(first, ConvBlock) and isinstance(second, ConvBlock)
    return (first.conv, first.norm), (second.conv, second.norm)


def _blocks(stage: nn.Module) -> list[Block]:
    assert isinstance(stage, nn.Sequential)
    return cast(list[Block], list(stage))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
        nn.init.kaiming_normal_(module.weight, a=0.01)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
