"""Mean and variance of the channels of a tensor, in one pass over it."""

from __future__ import annotations

import numpy as np

from seg3d.probing.kernels.cpu.compiler import compiled, part_of_others
from seg3d.probing.kernels.cpu.instructions import load

PART = 4096  # numbers that are read twice, the second time from the cache


@compiled
def moments(first, last, y, out, channels, sample_stride, channel_stride, voxels):
    """Write mean and variance of channels ``first`` to ``last`` of all samples: ``(2, B C)``.

    Each part in two passes, and the parts put together by Chan, Golub and LeVeque's formula
    (Stanford STAN-CS-79-773, 1979).

    Args:
        y: where the tensor's numbers are, from its first on; bf16 as uint16.
    """
    for number in range(first, last):
        start = number // channels * sample_stride + number % channels * channel_stride
        mean = squares = 0.0
        for done in range(0, voxels, PART):
            n = min(PART, voxels - done)
            part_mean = np.float64(_sum(y, start + done, n)) / n
            distance, count = part_mean - mean, done + n
            mean += distance * (n / count)
            squares += _squares(y, start + done, n, np.float32(part_mean))
            squares += distance * distance * (np.float64(done) * n / count)
        out[0, number] = mean
        out[1, number] = squares / voxels


@part_of_others
def _sum(y, start, n):
    total = np.float32(0)
    for i in range(n):
        total += load(y, start + i)
    return total


@part_of_others
def _squares(y, start, n, mean):
    total = np.float32(0)
    for i in range(n):
        deviation = load(y, start + i) - mean
        total += deviation * deviation
    return total
