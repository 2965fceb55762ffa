"""Cubic splines through the voxels of an axis, as SciPy's ``ndimage.zoom`` draws them."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.ndimage import spline_filter1d

# Voxels, beyond which a voxel moves a spline by two millionths of its value.
REACH = 10
# Voxels that the axis is continued by, with the values at its ends.
CONTINUED = REACH + 2


@lru_cache(maxsize=16)
def spline_weights(places: bytes, length: int) -> np.ndarray:
    """What each voxel of an axis contributes to the spline through all of them, at some places.

    As ``ndimage.zoom`` has it with ``order=3``, ``mode="nearest"`` and ``grid_mode=True``: the
    spline goes through the values at the ends of the axis beyond them.

    Args:
        places: float64, in voxels of the axis, as bytes.
        length: of the axis, in voxels.

    Returns:
        `(places, length)` float64.
    """
    ends = ((CONTINUED, CONTINUED), (0, 0))
    coefficients = spline_filter1d(np.pad(np.eye(length), ends, mode="edge"), axis=0, mode="mirror")
    place = np.frombuffer(places) + CONTINUED
    first = np.floor(place).astype(int)
    t = (place - first)[:, None]
    # The uniform cubic B-spline, of the knot in front of a place, the next, ...
    shares = (
        (1 - t) ** 3 / 6,
        2 / 3 - t**2 * (2 - t) / 2,
        2 / 3 - (1 - t) ** 2 * (1 + t) / 2,
        t**3 / 6,
    )
    weights = np.zeros((len(place), length))
    for step, share in enumerate(shares, -1):
        weights += share * coefficients[first + step]
    return weights
