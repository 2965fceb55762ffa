"""Normalisation of intensities, of whole volumes or of volumes that come in parts."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from torch import Tensor

from seg3d.plan import ChannelIntensity

SMALLEST_DEVIATION, SMALLEST_RANGE = 1e-6, 1e-8


@dataclass
class Moments:
    """Mean and deviation of values that come in parts, exact to double precision.

    Parts are put together by the rule of Chan, Golub and LeVeque, "Updating formulae and a
    pairwise algorithm for computing sample variances" (1979), equation 2.1.

    Attributes:
        count: of values so far.
        mean: of them.
        squares: sum of their squared distances from the mean.
        low: the least value of the volume, or of each slice of it; empty if nobody needs it.
        high: likewise the largest.
    """

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)

    def add(self, voxels: Tensor, channel: ChannelIntensity) -> None:
        """Count those voxels over which the channel is normalised."""
        self.count_in(voxels[voxels != 0] if channel.nonzero else voxels)

    def count_in(self, values: Tensor) -> None:
        """Count values, of any shape."""
        values = values.double()
        if not values.numel():
            return
        mean = float(values.mean())
        squares = float((values - mean).square().sum())
        count = self.count + values.numel()
        distance = mean - self.mean
        self.squares += squares + distance**2 * self.count * values.numel() / count
        self.mean += distance * values.numel() / count
        self.count = count

    @property
    def deviation(self) -> float:
        """Standard deviation of all values."""
        variance = self.squares / self.count if self.count else 0.0
        return max(math.sqrt(variance), SMALLEST_DEVIATION)


def normalise(
    voxels: Tensor, channel: ChannelIntensity, moments: Moments, mask: Tensor | None = None
) -> None:
    """Normalise float32 voxels of one channel in place, as `ChannelIntensity` says.

    Args:
        voxels: of any shape.
        channel: of the plan.
        moments: over the whole volume; needed for ``zscore`` and ``unit`` alone.
        mask: of the shape of ``voxels``, those that a channel is normalised over that is not
            normalised over all; None for those that are not zero.
    """
    if channel.kind == "ct":
        voxels.clamp_(channel.low, channel.high).sub_(channel.mean).div_(channel.std)
    elif channel.kind == "zscore":
        scaled = voxels.double().sub_(moments.mean).div_(moments.deviation)
        if channel.nonzero:
            scaled.mul_(voxels != 0 if mask is None else mask)
        voxels.copy_(scaled)
    elif channel.kind == "unit":
        low, high = min(moments.low), max(moments.high)
        voxels.sub_(low).div_(max(high - low, SMALLEST_RANGE))
    elif channel.kind == "rgb":
        voxels.div_(255)
