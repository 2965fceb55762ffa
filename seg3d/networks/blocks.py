"""The blocks that the U-Net is made of: a convolution, or a residual block of two."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from torch import Tensor, nn

from seg3d.probing import ProbedConv3d, ProbedInstanceNorm3d
from seg3d.probing.activations import ProbedLeakyReLU
from seg3d.probing.pools import ProbedAvgPool3d
from seg3d.probing.sequential import ProbedSequential, apply_to

Triple = tuple[int, int, int]

SLOPE = 0.01
ONE: Triple = (1, 1, 1)


class ConvBlock(ProbedSequential):
    """Convolution, instance norm, leaky ReLU: `(B, C_in, D, H, W)` to `(B, C_out, D', H', W')`.

    Without the leaky ReLU if ``slope`` is None.
    """

    conv: ProbedConv3d
    norm: ProbedInstanceNorm3d

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: Triple,
        stride: Triple,
        sketch: str,
        rank: int,
        *,
        bias: bool = True,
        slope: float | None = SLOPE,
    ) -> None:
        padding = tuple(size // 2 for size in kernel)
        conv = ProbedConv3d(
            c_in, c_out, kernel, stride, padding, bias=bias, sketch=sketch, rank=rank
        )
        norm = ProbedInstanceNorm3d(c_out, affine=True, sketch=sketch, rank=rank)
        # Nobody but the norm sees what the convolution puts out.
        norm.activate(slope, inplace=True)
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


class ResidualBlock(nn.Module):
    """Two convolutions with norms, added to what goes past them, and a leaky ReLU of the sum.

    What goes past is the input; its means over the strides, if there are any; and of these a
    convolution of one voxel with a norm, if the channels change (ResNet-D: He et al., "Bag of
    Tricks", CVPR 2019, arXiv 1812.01187). `(B, C_in, D, H, W)` to `(B, C_out, D', H', W')`.
    """

    def __init__(
        self, c_in: int, c_out: int, kernel: Triple, stride: Triple, sketch: str, rank: int
    ) -> None:
        super().__init__()
        self.first = ConvBlock(c_in, c_out, kernel, stride, sketch, rank)
        self.second = ConvBlock(c_out, c_out, kernel, ONE, sketch, rank, slope=None)
        # A block begins as what goes past it (Goyal et al., arXiv 1706.02677).
        nn.init.zeros_(self.second.norm.weight)
        self.pool = None if stride == ONE else ProbedAvgPool3d(stride, stride, sketch=sketch)
        self.past = (
            None
            if c_in == c_out
            else ConvBlock(c_in, c_out, ONE, ONE, sketch, rank, bias=False, slope=None)
        )
        self.act = ProbedLeakyReLU(SLOPE, inplace=True, sketch=sketch, rank=rank)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        return self.with_skip(x)[0]

    def with_skip(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The same, and ``x`` for another use; see :meth:`ProbedConv3d.with_skip`."""
        if self.pool is None:
            y, x = self.first.with_skip(x)
            past = x
        else:
            past, x = self.pool.with_skip(x)
            y, x = self.first.with_skip(x)
        # In a list of ours alone, so that it may be written over.
        held = [y]
        del y
        apply_to(self.second, held)
        if self.past is not None:
            past = self.past(past)
        held[0] += past
        del past
        apply_to(self.act, held)
        return held.pop(), x


Block = ConvBlock | ResidualBlock


def stacked(
    kind: type[Block],
    count: int,
    c_in: int,
    c_out: int,
    kernel: Triple,
    stride: Triple,
    sketch: str,
    rank: int,
) -> ProbedSequential:
    """So many blocks of a kind, one or more, the first of which has the stride."""
    shapes = [(c_in, stride), *[(c_out, ONE)] * (count - 1)]
    return ProbedSequential(*(kind(c, c_out, kernel, by, sketch, rank) for c, by in shapes))
