"""Agreement of thin structures up to a few voxels.

A fault is labelled a voxel or two thick. A prediction that runs beside it, one voxel off, is as
good as any interpreter's, and shares no voxel with it. So a voxel counts as a hit if the other
volume has one within a tolerance, as boundaries are compared in Martin, Fowlkes and Malik,
"Learning to detect natural image boundaries", IEEE TPAMI 26(5):530-549, 2004.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage

# Voxels whose distances are worked out at a time.
SLAB = 2**24


def voxels_near(ours: np.ndarray, theirs: np.ndarray, tolerance: float) -> int:
    """How many voxels of ``ours`` have one of ``theirs`` within a distance.

    Args:
        ours, theirs: bool `(X, Y, Z)`.
        tolerance: Euclidean, voxels.
    """
    halo = math.ceil(tolerance)
    rows = max(1, SLAB // ours[0].size)
    near = 0
    for start in range(0, len(ours), rows):
        around = slice(max(start - halo, 0), start + rows + halo)
        if not theirs[around].any():
            continue
        distance = ndimage.distance_transform_edt(~theirs[around])[start - around.start :][:rows]
        near += int((distance[ours[start : start + rows]] <= tolerance).sum())
    return near


def harmonic_mean(precision: float, recall: float) -> float:
    """Of the two, as Dice is; NaN if neither is defined, 0 if one of them is not or is 0.

    With voxels that coincide as the only hits, this is Dice.
    """
    if math.isnan(precision) and math.isnan(recall):
        return math.nan
    if not precision > 0 or not recall > 0:
        return 0.0
    return 2 * precision * recall / (precision + recall)
