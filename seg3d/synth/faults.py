"""Faults: surfaces along which layers have slipped, and what lay where before they did.

Displacement follows the volumetric fields of Georgsen et al., "Fault displacement modelling using
3D vector fields", Computational Geosciences 16:247-259, 2012, on which Wu et al., "Building
realistic structure models to train convolutional neural networks for seismic structural
interpretation", Geophysics 85(4):WA27-WA39, 2020, build their training volumes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from seg3d.geometry import Shape3


@dataclass(frozen=True)
class Fault:
    """A fault in a volume whose third axis points down. Lengths are in voxels.

    In its own frame, u runs along the strike, v down the dip and w towards the hanging wall. The
    surface is w = bend v²/2 + wave sin(2π u/wavelength).

    Attributes:
        centre: of the surface, where most has slipped.
        strike: direction of u, degrees from the first axis towards the second.
        dip: of v below the horizontal, degrees.
        slip: of the hanging wall against the footwall at the centre, down the dip; negative in a
            reverse fault.
        length, height: half-axes, along u and v, of the ellipse at whose rim the slip ends.
        reach: distance from the surface at which displacement ends.
        bend: curvature down the dip, 1/voxels; positive where the fault flattens with depth.
        wave, wavelength: amplitude and period of the undulation along the strike.
    """

    centre: tuple[float, float, float]
    strike: float
    dip: float
    slip: float
    length: float
    height: float
    reach: float
    bend: float = 0.0
    wave: float = 0.0
    wavelength: float = 100.0

    def undo(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Go back to before the fault.

        Args:
            points: `(3, ...)` positions after it slipped.

        Returns:
            before: `(3, ...)` positions before.
            distance: `(...)` from the surface, negative in the footwall.
            throw: `(...)` vertical part of the slip at the nearest point of the surface; 0 beyond
                its rim.
        """
        u, v, w = self._to_frame(points)
        distance = w - self._surface(u, v)
        slip = self.slip * _profile(np.hypot(u / self.length, v / self.height))
        # Either wall moves by half, and less the farther away it is; along surfaces parallel to
        # the fault, so that nothing gapes and nothing overlaps.
        fading = np.maximum(1 - np.abs(distance) / self.reach, 0) ** 2
        v_before = v - np.where(distance > 0, 0.5, -0.5).astype(v.dtype) * slip * fading
        return (
            self._from_frame(u, v_before, distance + self._surface(u, v_before)),
            distance / self._steepness(u, v),
            slip * math.sin(math.radians(self.dip)),
        )

    def _to_frame(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The coordinates u, v and w of points `(3, ...)`."""
        x, y, z = (along - middle for along, middle in zip(points, self.centre, strict=True))
        u, across = _turn(x, y, self.strike)
        v, up = _turn(across, z, self.dip)
        return u, v, -up

    def _from_frame(self, u: np.ndarray, v: np.ndarray, w: np.ndarray) -> np.ndarray:
        across, z = _turn(v, -w, -self.dip)
        x, y = _turn(u, across, -self.strike)
        return np.stack(
            [along + middle for along, middle in zip((x, y, z), self.centre, strict=True)]
        )

    def _surface(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        undulation = self.wave * np.sin(2 * math.pi / self.wavelength * u)
        return self.bend / 2 * v**2 + undulation

    def _steepness(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Length of the gradient of w minus the surface, which turns height into distance."""
        turn = 2 * math.pi / self.wavelength
        return np.sqrt(1 + (self.bend * v) ** 2 + (self.wave * turn * np.cos(turn * u)) ** 2)


def _turn(a: np.ndarray, b: np.ndarray, degrees: float) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of points of a plane along axes that are turned by an angle from a towards b."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return cos * a + sin * b, cos * b - sin * a


def _profile(radius: np.ndarray) -> np.ndarray:
    """Share of the largest slip at a radius from the centre, 1 at the rim.

    Source: Walsh and Watterson, "Distributions of cumulative displacement and seismic slip on a
    single normal fault surface", Journal of Structural Geology 9(8):1039-1046, 1987.
    """
    radius = np.minimum(radius, 1)
    return 2 * (1 - radius) * np.sqrt((1 + radius) ** 2 / 4 - radius**2)


def draw_faults(rng: np.random.Generator, shape: Shape3) -> tuple[Fault, ...]:
    """One to several faults for a volume of ``shape`` voxels, planar or curved, most of one strike.

    Throws go from a sixth of the volume's depth down to a voxel, which no wavelet resolves.
    """
    side, depth = min(shape[:2]), shape[2]
    family = rng.uniform(0, 180)
    faults = []
    for _ in range(rng.integers(1, max(side // 16, 2), endpoint=True)):
        strike = family + rng.normal(0, 12) if rng.random() < 0.75 else rng.uniform(0, 180)
        dip = rng.uniform(50, 85)
        slip = rng.uniform(1, max(depth / 6, 2)) / math.sin(math.radians(dip))
        height = rng.uniform(0.6, 2) * depth
        curved = rng.random() < 0.6
        x, y, z = rng.uniform(0.1, 0.9, 3) * shape
        faults.append(
            Fault(
                centre=(x, y, z),
                # Dipping to one side or to the other, as conjugate faults do.
                strike=strike + 180 * rng.integers(2),
                dip=dip,
                slip=slip if rng.random() < 0.75 else -slip,
                length=rng.uniform(0.6, 2) * side,
                height=height,
                reach=rng.uniform(1, 3) * max(shape),
                bend=curved * rng.uniform(-0.1, 0.4) / height,
                wave=curved * rng.uniform(0, 0.04) * side,
                wavelength=rng.uniform(0.8, 2) * side,
            )
        )
    return tuple(faults)
