"""The plain-convolution 3D U-Net of nnU-Net, with probed convolutions."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from seg3d.common.choices import OF_BRICKS
from seg3d.losses import Scores, heads
from seg3d.networks.streamed import FinestLevel
from seg3d.probing import ProbedConv3d, ProbedConvTranspose3d, ProbedInstanceNorm3d
from seg3d.probing.probed_layer import is_watched
from seg3d.probing.sequential import ProbedSequential, apply_to
from seg3d.probing.upsampled import Upsampled

Triple = tuple[int, int, int]


class ConvBlock(ProbedSequential):
    """Convolution, instance norm, leaky ReLU: `(B, C_in, D, H, W)` to `(B, C_out, D', H', W')`."""

    conv: ProbedConv3d
    norm: ProbedInstanceNorm3d

    def __init__(
        self, c_in: int, c_out: int, kernel: Triple, stride: Triple, sketch: str, rank: int
    ) -> None:
        padding = tuple(size // 2 for size in kernel)
        conv = ProbedConv3d(c_in, c_out, kernel, stride, padding, sketch=sketch, rank=rank)
        norm = ProbedInstanceNorm3d(c_out, affine=True, sketch=sketch, rank=rank)
        # Nobody but the norm sees what the convolution puts out.
        norm.activate(slope=0.01, inplace=True)
        super().__init__(OrderedDict(conv=conv, norm=norm))

    def with_skip(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The same, and ``x`` for another use; see :meth:`ProbedConv3d.with_skip`."""
        y, skip = self.conv.with_skip(x)
        z: Tensor = self.norm(y)
        return z, skip

    def of_parts(self, parts: list[Callable[[], Tensor]]) -> Tensor:
        """The same for the parts' concatenation; see :meth:`ProbedConv3d.of_parts`."""
        z: Tensor = self.norm(self.conv.of_parts(parts))
        return z


class UNet3d(nn.Module):
    """3D U-Net after nnU-Net (Isensee et al., Nature Methods 18, 2021; Çiçek et al., MICCAI 2016).

    Every level has two `ConvBlock` in the encoder and two in the decoder. Levels are joined by
    strided convolutions on the way down and transposed convolutions on the way up.

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
        streamed: the finest level goes in slabs, forwards and backwards; see
            :mod:`seg3d.networks.streamed`. Same function, less memory, more time.

    Raises:
        ValueError: if the lengths of ``channels``, ``kernels`` and ``strides`` disagree, or a
            network is to be streamed with a sketch that sees whole tensors.
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
        streamed: bool = False,
    ) -> None:
        super().__init__()
        levels = len(channels)
        kernels = kernels or [(3, 3, 3)] * levels
        strides = strides or [(1, 1, 1)] + [(2, 2, 2)] * (levels - 1)
        if not len(kernels) == len(strides) == levels >= 2:
            raise ValueError(
                f"channels, kernels and strides should have one entry for each of two or more "
                f"levels, not {levels}, {len(kernels)} and {len(strides)}"
            )
        if streamed and probing not in OF_BRICKS:
            raise ValueError(f"streamed: only with {', '.join(OF_BRICKS)}, not with {probing}")
        self.deep_supervision = deep_supervision
        self.strides = tuple(strides)
        self.streamed = streamed

        def stage(c_in: int, level: int, stride: Triple = (1, 1, 1)) -> ProbedSequential:
            c_out, kernel = channels[level], kernels[level]
            return ProbedSequential(
                ConvBlock(c_in, c_out, kernel, stride, probing, rank),
                ConvBlock(c_out, c_out, kernel, (1, 1, 1), probing, rank),
            )

        stem = stage(in_channels, 0)
        # The image is alive during the step anyway: a sketch of it would save nothing.
        _blocks(stem)[0].conv.set_sketch("exact", rank)
        self.encoder = nn.ModuleList([stem])
        self.encoder.extend(
            stage(channels[level - 1], level, strides[level]) for level in range(1, levels)
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
        self.decoder = nn.ModuleList(stage(2 * channels[level], level) for level in decoded)
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
            unscored: return a list for :func:`seg3d.losses.heads_for_loss`, with features where
                the loss had better make the scores itself, slab by slab.

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
            first, second = _blocks(stage)
            if finest and level == 1:
                held.append(finest.descend(held.pop()))
                apply_to(first.norm, held)
            else:
                _descend(first, held, skips)
            apply_to(second, held)
        scores: list[Scores] = []
        for level in reversed(range(len(self.decoder))):
            if finest and level == 0:
                scores.append(finest.ascend(held))
                break
            first, second = _blocks(self.decoder[level])
            held.append(first.of_parts([Upsampled(self.up[level], held.pop), skips.pop]))
            apply_to(second, held)
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
        stages, down = (self.encoder[0], self.decoder[0]), _blocks(self.encoder[1])[0].conv
        if any(is_watched(module, x) for stage in stages for module in stage.modules()):
            return None
        up, head = self.up[0], self.heads[0]
        assert isinstance(up, ProbedConvTranspose3d) and isinstance(head, ProbedConv3d)
        encoder, decoder = (
            ((first.conv, first.norm), (second.conv, second.norm))
            for first, second in map(_blocks, stages)
        )
        finest = FinestLevel(encoder, down, up, decoder, head)
        return finest if finest.can_stream(x) else None

    def _check(self, x: Tensor) -> None:
        factors = [1, 1, 1]
        for stride in self.strides:
            factors = [factor * step for factor, step in zip(factors, stride, strict=True)]
        size = list(x.shape[2:])
        if any(length % factor for length, factor in zip(size, factors, strict=True)):
            raise ValueError(f"input of {size} voxels should have multiples of {factors}")


def _descend(block: ConvBlock, held: list[Tensor], skips: list[Tensor]) -> None:
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
    """Whether training takes less memory if the loss makes the scores of a level.

    Features are kept in place of scores then. At the finest level their gradient takes their
    place, which is there in any case at the end; scores and their gradient come on top.
    """
    share = 4 if level == 0 else 1
    return share * head.out_channels >= head.in_channels


def _blocks(stage: nn.Module) -> tuple[ConvBlock, ConvBlock]:
    assert isinstance(stage, nn.Sequential)
    first, second = stage
    assert isinstance(first, ConvBlock) and isinstance(second, ConvBlock)
    return first, second


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
        nn.init.kaiming_normal_(module.weight, a=0.01)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
