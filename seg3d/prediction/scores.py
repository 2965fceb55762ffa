"""The class scores of windows, made only where and when they are needed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from seg3d.data.grid_map import flipped
from seg3d.losses import Scores, Unscored, unscored_heads
from seg3d.networks import UNet3d

# Numbers that are made of what the network leaves unscored, and blended, in one go.
SCORES_AT_ONCE = 2**21


class WindowScores(nn.Module):
    """A network, or several, as the windows need them: in passes, whose scores are averaged.

    There is a pass for every network and every mirror image. They are not added up here, as there
    may be more to be kept of all scores of a window than the network needs itself.

    Args:
        network: takes `(B, C, D, H, W)`, gives class scores; several in a ``ModuleList``.
        mirror_axes: average over all combinations of flips along these axes (0, 1, 2).
        dtype: of the forward pass (autocast).

    Attributes:
        streamable: whether :meth:`stream` has an effect.
        passes: from windows `(B, C, D, H, W)` to scores `(B, K, D, H, W)`.
    """

    def __init__(
        self,
        network: nn.Module,
        mirror_axes: Sequence[int] = (),
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.networks = network if isinstance(network, nn.ModuleList) else nn.ModuleList([network])
        self.dtype = dtype
        self.streamable = all(isinstance(one, UNet3d) and one.streamable for one in self.networks)
        flips = [
            tuple(axis + 2 for axis in axes)
            for count in range(len(mirror_axes) + 1)
            for axes in itertools.combinations(mirror_axes, count)
        ]
        self._passes = list(itertools.product(range(len(self.networks)), flips))

    def stream(self, streamed: bool) -> None:
        """Have the networks' finest level done in slabs, or not, from now on.

        Args:
            streamed: whether; see :mod:`seg3d.networks.streamed`. Of other networks nothing is.
        """
        for network in self.networks if self.streamable else ():
            assert isinstance(network, UNet3d)
            network.streamed = streamed

    @property
    def passes(self) -> list[Callable[[Tensor], Scores]]:
        return [partial(self, number=number) for number in range(len(self._passes))]

    def forward(self, windows: Tensor, number: int = -1) -> Scores:
        """One of the passes; the last one needs most memory."""
        network, axes = self._passes[number]
        with torch.autocast(windows.device.type, self.dtype, self.dtype != torch.float32):
            scores = unscored_heads(self.networks[network], flipped(windows, axes))[0]
        return reordered(scores, partial(flipped, axes=axes))


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
