"""Folding and shearing of flat layers by vertical shifts.

Source: Wu, Liang, Shi and Fomel, "FaultSeg3D", Geophysics 84(3):IM35-IM45, 2019, equations 1 and 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from seg3d.geometry import Shape3

# Shifts grow with depth to 1.5 times the bumps at the bottom of the volume ...
GROWTH = 1.5
# ... and all bumps together stay below this share of its depth, so that no layer is overturned.
HIGHEST = 0.5
BUMPS = 4, 14
BUMP_WIDTHS = 0.12, 0.5  # sigma, share of the horizontal extent
BUMP_HEIGHT = 0.3  # largest, share of sigma
SHEAR = 0.15  # largest, voxels of depth per voxel along either horizontal axis


@dataclass(frozen=True)
class Folds:
    """Where the layers of a folded volume came from.

    Attributes:
        heights: `(N,)` of the Gaussian bumps, voxels.
        centres: `(N, 2)`, voxels.
        widths: `(N,)` sigma, voxels.
        shear: rise along the first and second axis, voxels per voxel.
        depth: of the volume, voxels.
    """

    heights: np.ndarray
    centres: np.ndarray
    widths: np.ndarray
    shear: tuple[float, float]
    depth: int

    def undo(self, points: np.ndarray) -> np.ndarray:
        """The stratigraphic depth of points `(3, ...)`, voxels."""
        x, y, z = points
        bumps = np.zeros_like(z)
        for height, (along_x, along_y), width in zip(
            self.heights, self.centres, self.widths, strict=True
        ):
            squared = (x - along_x) ** 2 + (y - along_y) ** 2
            bumps += height * np.exp(squared * (-0.5 / width**2))
        return z + GROWTH / self.depth * z * bumps + self.shear[0] * x + self.shear[1] * y


def draw_folds(rng: np.random.Generator, shape: Shape3) -> Folds:
    """Random folds for a volume of ``shape`` voxels, the last axis pointing down."""
    count = rng.integers(*BUMPS, endpoint=True)
    widths = rng.uniform(*BUMP_WIDTHS, count) * min(shape[:2])
    heights = rng.uniform(-BUMP_HEIGHT, BUMP_HEIGHT, count) * widths
    heights *= min(1, HIGHEST * shape[2] / np.abs(heights).sum())
    along_x, along_y = rng.uniform(-SHEAR, SHEAR, 2)
    return Folds(
        heights=heights,
        centres=rng.uniform(0, shape[:2], (count, 2)),
        widths=widths,
        shear=(float(along_x), float(along_y)),
        depth=shape[2],
    )
