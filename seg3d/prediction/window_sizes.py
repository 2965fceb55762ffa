"""How large the windows of a volume may be: a patch, or larger, up to the whole volume."""

from __future__ import annotations

import numpy as np

from seg3d.config import PredictConfig
from seg3d.geometry import Shape3
from seg3d.plan import Plan, as_shape

# Of the sides of the largest volume of training, the least of windows of a network that has seen
# nothing but whole volumes.
SMALLEST = 0.5
# Of the sides of a window, in the next smaller one.
STEP = 0.8


def window_sizes(
    settings: PredictConfig, plan: Plan, shape: Shape3, divisors: Shape3 | None
) -> list[Shape3]:
    """Sizes of windows that may be tried, the one wanted most first, the patch of training last.

    Args:
        settings: how large windows are wanted.
        plan: of the run that trained the network.
        shape: voxels of the volume, on the network's grid, in the order of its axes.
        divisors: of the sides of what the network takes; None if it takes patches only.
    """
    patch = np.array(plan.patch_size)
    # A network that was trained on patches has met other statistics in its instance norms: it may
    # do far worse on a volume that is only a little larger.
    large = settings.windows == "whole" or (settings.windows == "auto" and plan.whole)
    if divisors is None or not large:
        return [plan.patch_size]
    # Padded at least as in training, where volumes smaller than a patch are padded to one.
    whole = np.maximum(np.ceil(np.array(shape) / divisors) * divisors, plan.least_shape(shape))
    smallest = np.minimum(np.ceil(SMALLEST * patch / divisors) * divisors, whole)
    smallest = smallest if plan.whole else patch
    found, side = [as_shape(whole)], STEP * whole
    while (side > smallest).any():
        rounded = np.ceil(side / divisors) * divisors
        found.append(as_shape(np.clip(rounded, smallest, whole)))
        side = STEP * side
    return list(dict.fromkeys([*found, as_shape(smallest)]))
