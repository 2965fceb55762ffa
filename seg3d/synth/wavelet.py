"""The seismic wavelet, and noise of its colour."""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage

from seg3d.geometry import Shape3


def ricker(peak: float) -> np.ndarray:
    """Ricker wavelet, `(2 N + 1,)`, with its maximum of 1 in the middle.

    Source: Ricker, "The form and laws of propagation of seismic wavelets", Geophysics 18(1), 1953.

    Args:
        peak: frequency at which its spectrum is highest, cycles per sample, below 0.5.
    """
    reach = math.ceil(1.5 / peak)
    squared = (math.pi * peak * np.arange(-reach, reach + 1)) ** 2
    return (1 - 2 * squared) * np.exp(-squared)


def convolve_traces(traces: np.ndarray, wavelet: np.ndarray) -> np.ndarray:
    """Convolve along the last axis and leave out the samples that lack neighbours.

    Args:
        traces: `(X, Y, T + 2 N)`.
        wavelet: `(2 N + 1,)`.

    Returns:
        `(X, Y, T)`, in the type of ``traces``.
    """
    reach = len(wavelet) // 2
    return ndimage.convolve1d(traces, wavelet, axis=-1)[..., reach : traces.shape[-1] - reach]


def coloured_noise(
    rng: np.random.Generator, shape: Shape3, wavelet: np.ndarray, sigma: float
) -> np.ndarray:
    """Noise in the wavelet's band that resembles itself in neighbouring traces.

    Args:
        rng: to draw from.
        shape: `(X, Y, T)`.
        wavelet: `(2 N + 1,)`.
        sigma: of the smoothing across traces, voxels.

    Returns:
        float32, of variance 1.
    """
    longer = (*shape[:2], shape[2] + len(wavelet) - 1)
    noise = convolve_traces(rng.standard_normal(longer, dtype=np.float32), wavelet)
    noise = ndimage.gaussian_filter(noise, (sigma, sigma, 0), mode="wrap")
    return noise / noise.std()
