"""The class scores of windows, made only where and when they are needed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from seg3d.data.grid_map import flipped
from seg3d.losses import Scores, Unscored, heads, unscored_heads
from seg3d.networks import UNet3d

# Numbers that are made of what the network leaves unscored, and blended, in one go.
SCORES_AT_ONCE = 2**21


class WindowScores(nn.Module):
    """A network as the windows need it: one output, averaged over mirror images.

    Args:
        network: takes `(B, C, D, H, W)`, gives class scores.
        mirror_axes: average over all combinations of flips along these axes (0, 1, 2).
        dtype: of the forward pass (autocast).

    Attributes:
        streamable: whether :meth:`stream` has an effect.
    """

    def __init__(
        self,
        network: nn.Module,
        mirror_axes: Sequence[int] = (),
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.network = network
        self.dtype = dtype
        self.streamable = isinstance(network, UNet3d) and network.streamable
        self.flips = [
            [axis + 2 for axis in axes]
            for count in range(len(mirror_axes) + 1)
            for axes in itertools.combinations(mirror_axes, count)
        ]

    def stream(self, streamed: bool) -> None:
        """Have the network's finest level done in slabs, or not, from now on.

        Args:
            streamed: whether; see :mod:`seg3d.networks.streamed`. Of other networks nothing is.
        """
        if isinstance(self.network, UNet3d) and self.streamable:
            self.network.streamed = streamed

    def forward(self, windows: Tensor) -> Scores:
        """From `(B, C, D, H, W)` to `(B, K, D, H, W)`."""
        total: Tensor | None = None
        with torch.autocast(windows.device.type, self.dtype, self.dtype != torch.float32):
            if len(self.flips) == 1:
                return unscored_heads(self.network, windows)[0]
            for axes in self.flips:
                scores = heads(self.network(flipped(windows, axes)))[0]
                scores = flipped(scores, axes).float()
                total = scores if total is None else total.add_(scores)
        assert total is not None
        return total.div_(len(self.flips))


def reordered(scores: Scores, order: Callable[[Tensor], Tensor]) -> Scores:
    """Scores whose axes ``order`` puts in another order."""
    if isinstance(scores, Unscored):
        return replace(scores, features=order(scores.features))
    return order(scores)


def by_rows(scores: Scores) -> Iterator[tuple[slice, Tensor]]:
    """Some rows along depth after the other, and their scores `(B, K, d, H, W)`, float32 copies."""
    if isinstance(scores, Unscored):
        (batch, _, depth, *cross), classes = scores.features.shape, len(scores.weight)
    else:
        batch, classes, depth, *cross = scores.shape
    at_once = max(1, SCORES_AT_ONCE // (batch * classes * math.prod(cross)))
    for start in range(0, depth, at_once):
        rows = slice(start, min(start + at_once, depth))
        with torch.no_grad():
            part = scores.rows(rows) if isinstance(scores, Unscored) else scores[:, :, rows]
            part = part.to(torch.float32, copy=True)
        yield rows, part
        # Not to be held while the next are made.
        del part
