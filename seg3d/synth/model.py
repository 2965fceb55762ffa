"""A synthetic survey: layers, folds, faults, wavelet and noise, and its seismic image.

Nothing is moved on a grid. For every sample the deformations are undone, the last one first, until
its depth in the undeformed pile of layers is known; the reflectivity found there is convolved with
the wavelet. So faults stay sharp, and reflections are not stretched by what deformed the layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from seg3d.geometry import Shape3
from seg3d.synth.faults import Fault, draw_faults
from seg3d.synth.folds import Folds, draw_folds
from seg3d.synth.strata import Strata, draw_strata, draw_units
from seg3d.synth.wavelet import coloured_noise, convolve_traces, ricker

# A voxel is labelled within this distance of a fault, on either side, ...
NEAR = 1.0
# ... where the throw is at least this large, voxels.
LEAST_THROW = 0.5
PEAK = 0.06, 0.14  # frequency of the wavelet, cycles per sample
NOISE = 0.1, 0.6  # deviation, share of the signal's
NOISE_WIDTH = 0.3, 1.2  # sigma of its smoothing across traces, voxels
# Samples that are worked on at a time: about what fits into a CPU's cache.
SLAB = 2**17


class Survey(NamedTuple):
    """A rendered model.

    Attributes:
        image: float32 `(X, Y, T)`.
        faults: uint8 `(X, Y, T)`, 1 on faults.
        facies: uint8 `(X, Y, T)`, numbers of `seg3d.synth.strata.FACIES`.
    """

    image: np.ndarray
    faults: np.ndarray
    facies: np.ndarray


@dataclass(frozen=True)
class Model:
    """What a volume `(inline, crossline, time)` is made of. Lengths are in voxels.

    Attributes:
        strata: the layers.
        folds: that happened first.
        faults: in the order in which they happened; later ones displace earlier ones.
        peak: frequency of the Ricker wavelet, cycles per sample.
        noise: its deviation, as a share of that of the signal.
        noise_width: sigma of its smoothing across traces.
    """

    strata: Strata
    folds: Folds
    faults: tuple[Fault, ...]
    peak: float
    noise: float
    noise_width: float

    def undo(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Undo all deformations.

        Args:
            points: `(3, ...)`.

        Returns:
            depth: `(...)` stratigraphic, voxels.
            faulted: `(...)` whether a fault with a throw passes there.
        """
        faulted = np.zeros(points.shape[1:], bool)
        for fault in reversed(self.faults):
            points, distance, throw = fault.undo(points)
            faulted |= (np.abs(distance) < NEAR) & (np.abs(throw) >= LEAST_THROW)
        return self.folds.undo(points), faulted

    def render(self, shape: Shape3, rng: np.random.Generator) -> Survey:
        """The seismic image of the model, and what it shows.

        Args:
            shape: `(X, Y, T)`, inlines, crosslines and samples.
            rng: for the noise.
        """
        wavelet = ricker(self.peak)
        reach = len(wavelet) // 2
        image = np.empty(shape, np.float32)
        faults, facies = np.empty((2, *shape), np.uint8)
        y = np.arange(shape[1], dtype=np.float32)
        z = np.arange(-reach, shape[2] + reach, dtype=np.float32)
        inlines = max(1, SLAB // (len(y) * len(z)))
        for start in range(0, shape[0], inlines):
            slab = slice(start, min(start + inlines, shape[0]))
            x = np.arange(slab.start, slab.stop, dtype=np.float32)
            depth, faulted = self.undo(np.stack(np.meshgrid(x, y, z, indexing="ij")))
            image[slab] = convolve_traces(self.strata.reflectivity(depth), wavelet)
            faults[slab] = faulted[..., reach:-reach]
            facies[slab] = self.strata.facies_at(depth[..., reach:-reach])
        noise = coloured_noise(rng, shape, wavelet, self.noise_width)
        return Survey(image + self.noise * image.std() * noise, faults, facies)


def draw_model(rng: np.random.Generator, shape: Shape3, *, units: bool = False) -> Model:
    """A random model for volumes of ``shape`` voxels.

    Args:
        rng: to draw from.
        shape: `(X, Y, T)`.
        units: of several facies; otherwise all layers are of one kind.
    """
    # Folds, shear and faults bring layers from this far above and below.
    beyond = shape[2] + 0.3 * sum(shape)
    top, bottom = -beyond, shape[2] + beyond
    return Model(
        strata=draw_units(rng, top, bottom, shape[2])
        if units
        else draw_strata(rng, top, bottom, thickness=rng.uniform(2, 5)),
        folds=draw_folds(rng, shape),
        faults=draw_faults(rng, shape),
        peak=rng.uniform(*PEAK),
        noise=rng.uniform(*NOISE),
        noise_width=rng.uniform(*NOISE_WIDTH),
    )
