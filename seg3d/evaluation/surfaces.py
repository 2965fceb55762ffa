"""Distances between the surfaces of two masks, in mm.

The surface of a mask is the set of its voxels that have a face in common with a voxel that does
not belong to it, or with the edge of the volume. Every surface voxel counts once, at its centre.
These are the definitions of MONAI's metrics. What is measured is the distance from voxel to voxel,
by a tree of the surface's voxels: the memory goes with the surfaces, not with the volume.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.spatial import KDTree

PERCENTILE = 95


@dataclass(frozen=True)
class SurfaceDistances:
    """How far the surfaces of one class in a prediction and a reference are apart.

    Attributes:
        hd_mm: Hausdorff distance: the largest distance from a surface voxel of either to the
            surface of the other, mm. NaN if either has no surface.
        hd95_mm: the 95th percentile in place of the largest, of each of the two directions, and
            the larger of these (as MONAI's ``HausdorffDistanceMetric``).
        assd_mm: average symmetric surface distance: mean over the surface voxels of both.
        surface_dice: share of the surface voxels of both that lie within the tolerance of the
            other surface (Nikolov et al., arXiv 1809.04430, by voxels as MONAI's
            ``SurfaceDiceMetric``); NaN if neither has a surface, 0 if one of them has none.
        tolerance_mm: of the surface Dice.
    """

    hd_mm: float
    hd95_mm: float
    assd_mm: float
    surface_dice: float
    tolerance_mm: float


def surface_distances(
    predicted: np.ndarray,
    reference: np.ndarray,
    spacing: tuple[float, float, float],
    tolerance: float,
) -> SurfaceDistances:
    """Compare two masks.

    Args:
        predicted, reference: `(X, Y, Z)`, bool.
        spacing: of the voxels, mm.
        tolerance: of the surface Dice, mm.
    """
    ours, theirs = (surface_points(mask, spacing) for mask in (predicted, reference))
    if not (len(ours) and len(theirs)):
        dice = 0.0 if len(ours) or len(theirs) else math.nan
        return SurfaceDistances(math.nan, math.nan, math.nan, dice, tolerance)
    directions = _distances(ours, theirs), _distances(theirs, ours)
    both = np.concatenate(directions)
    return SurfaceDistances(
        hd_mm=float(both.max()),
        hd95_mm=max(float(np.percentile(one, PERCENTILE)) for one in directions),
        assd_mm=float(both.mean()),
        surface_dice=float((both <= tolerance).mean()),
        tolerance_mm=tolerance,
    )


def surface_points(mask: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
    """Where the voxels of the surface lie, mm: ``(n, 3)``."""
    inner = mask.copy()
    for axis in range(mask.ndim):
        along, inside = np.moveaxis(mask, axis, 0), np.moveaxis(inner, axis, 0)
        inside[1:] &= along[:-1]
        inside[:-1] &= along[1:]
        # Beyond the edge of the volume there is nothing.
        inside[:1] = False
        inside[-1:] = False
    return np.argwhere(mask & ~inner) * np.asarray(spacing)


def _distances(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    """From every point to the nearest of the others."""
    # Surfaces that agree are mostly the same voxels, of which a tree asks as long as of any others.
    distances: np.ndarray = KDTree(others, balanced_tree=False, compact_nodes=False).query(points)[
        0
    ]
    return distances
