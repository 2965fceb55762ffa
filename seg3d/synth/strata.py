"""Flat layers and the reflectivity at their interfaces, before anything deforms them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

# Table entries per voxel of depth, between which reflectivity is interpolated.
FINENESS = 8
UNITS = 0.12, 0.35  # thickness of a unit of one facies, share of the depth of the volume


class Facies(NamedTuple):
    """What the layers of a unit have in common.

    Attributes:
        name: of the class that it is labelled with.
        thickness: mean of its layers, voxels.
        contrast: largest reflection coefficient in it.
    """

    name: str
    thickness: float
    contrast: float


FACIES = (
    Facies("background", 2.5, 0.35),
    Facies("transparent", 3.0, 0.05),
    Facies("strong", 5.0, 1.0),
)


@dataclass(frozen=True)
class Strata:
    """A pile of layers.

    Attributes:
        interfaces: `(N,)` stratigraphic depths at which layers meet, voxels, increasing.
        coefficients: `(N,)` reflection coefficients there.
        facies: `(N + 1,)` uint8, number of the facies above each interface, and below the last.
    """

    interfaces: np.ndarray
    coefficients: np.ndarray
    facies: np.ndarray

    def reflectivity(self, depth: np.ndarray) -> np.ndarray:
        """Reflectivity at stratigraphic depths of any shape, float32.

        Every interface is a spike with linear flanks of one voxel, so that one that lies between
        two samples is shared by them, and a dipping one shows no steps.
        """
        first = self.interfaces[0] - 2
        table = np.zeros(int((self.interfaces[-1] + 2 - first) * FINENESS) + 1)
        grid = first + np.arange(len(table)) / FINENESS
        nearest = np.rint((self.interfaces - first) * FINENESS).astype(int)
        for step in range(-FINENESS, FINENESS + 1):
            height = np.maximum(1 - np.abs(grid[nearest + step] - self.interfaces), 0)
            np.add.at(table, nearest + step, height * self.coefficients)
        return np.interp(depth, grid, table, left=0, right=0).astype(np.float32)

    def facies_at(self, depth: np.ndarray) -> np.ndarray:
        """Numbers of the facies at stratigraphic depths of any shape, uint8."""
        return self.facies[np.searchsorted(self.interfaces, depth)]


def draw_strata(rng: np.random.Generator, top: float, bottom: float, thickness: float) -> Strata:
    """Layers of one facies, of random thickness and with random reflection coefficients.

    Thicknesses are gamma-distributed with shape 2, coefficients uniform in [-1, 1], as in Wu et
    al. (Geophysics 2019).

    Args:
        rng: to draw from.
        top, bottom: stratigraphic depths between which layers are needed, voxels.
        thickness: mean, voxels.
    """
    interfaces = top + _layers(rng, bottom - top, thickness)
    count = len(interfaces)
    return Strata(interfaces, rng.uniform(-1, 1, count), np.zeros(count + 1, np.uint8))


def draw_units(rng: np.random.Generator, top: float, bottom: float, depth: int) -> Strata:
    """Units of several layers each; neighbours differ in facies.

    Args:
        rng: to draw from.
        top, bottom: stratigraphic depths between which layers are needed, voxels.
        depth: of the volume, voxels.
    """
    interfaces, coefficients, facies = [], [], []
    number = int(rng.integers(len(FACIES)))
    while top < bottom:
        unit = FACIES[number]
        ends = top + _layers(rng, rng.uniform(*UNITS) * depth, unit.thickness)
        interfaces.append(ends)
        coefficients.append(rng.uniform(-unit.contrast, unit.contrast, len(ends)))
        facies.append(np.full(len(ends), number, np.uint8))
        top = ends[-1]
        number = (number + int(rng.integers(1, len(FACIES)))) % len(FACIES)
    facies.append(np.array([number], np.uint8))
    return Strata(np.concatenate(interfaces), np.concatenate(coefficients), np.concatenate(facies))


def _layers(rng: np.random.Generator, extent: float, thickness: float) -> np.ndarray:
    """Depths at which layers end, the last one beyond ``extent``."""
    ends = [rng.gamma(2, thickness / 2)]
    while ends[-1] < extent:
        ends.append(ends[-1] + rng.gamma(2, thickness / 2))
    return np.array(ends)
