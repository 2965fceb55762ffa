"""One pass over a tensor that normalises it, activates it and sketches it."""

from __future__ import annotations

import numpy as np

from seg3d.probing.kernels.cpu.bricks import (
    bytes_of,
    members_of,
    multiply_by_signs,
    pack_codes,
    pack_positive,
    place_of,
    read,
    row_of,
    write,
)
from seg3d.probing.kernels.cpu.compiler import compiled, part_of_others
from seg3d.probing.kernels.cpu.instructions import load, store
from seg3d.probing.kernels.cpu.rotation import rotate

LEAST_NORMAL = np.float32(1.1754943508222875e-38)


@compiled
def encode(first, last, y, z, columns, normalise, kept, rotation, codebook, layout):
    """What :func:`seg3d.probing.norms.normalise` does lot by lot, for rows ``first`` to ``last``.

    Without ``normalise`` it is :meth:`seg3d.probing.rotated.Encoder.put` alone, of v = y.

    Args:
        y: where the tensor's numbers are, from its first on; bf16 as uint16.
        z: likewise; may be y.
        columns: ``(5, B C)`` float32: scale, offset, gain, shift and the slope of the activation.
        normalise: 1 or 0.
        kept: signs, means, codes and scales.
        rotation: see :func:`seg3d.probing.kernels.cpu.rotation.rotate`.
        codebook: thresholds and levels.
        layout: a :class:`~seg3d.probing.kernels.cpu.bricks.Layout`.
    """
    signs, means, codes, scales = kept
    v, n, rest, room = np.empty((4, layout.voxels), np.float32)
    sign_bytes, code_bytes = bytes_of(layout.voxels, 1), bytes_of(layout.voxels, layout.bits)
    for number in range(first, last):
        row = row_of(number, layout)
        for group in range(layout.groups):
            unit = row[0] * layout.groups + group
            begin, size, coded = members_of(unit, group, layout)
            for brick in range(begin, begin + size):
                place = place_of(brick, row, layout)
                read(y, place, layout, v)
                argument = v
                if normalise == 1:
                    _normalise(v, n, columns, place.column)
                    _activate(n, columns[4, place.column], room)
                    write(z, place, layout, room)
                    argument = n
                if layout.signed == 1:
                    pack_positive(argument, signs, place.brick * sign_bytes)
                    _split(v, argument, means, place.brick, rest)
                else:
                    _centre(v, means, place.brick, rest)
                if brick == coded:
                    energy = _energy(rest)
                    multiply_by_signs(rest, place.brick, layout.signs_number)
                    rotate(rest, rotation, False, room)
                    start = unit * code_bytes
                    overlap = _quantise(rest, energy, codebook, layout.bits, codes, start, room)
                    # A constant brick has norm 0 and overlap 0; its scale is 0, and NaN stays NaN.
                    overlap = LEAST_NORMAL if overlap < LEAST_NORMAL else overlap
                    scales[unit] = energy * np.float32(size) / overlap


@part_of_others
def _normalise(v, n, columns, c):
    scale, offset, gain, shift = columns[0, c], columns[1, c], columns[2, c], columns[3, c]
    for i in range(len(v)):
        v[i] = v[i] * scale + offset
        n[i] = v[i] * gain + shift


@part_of_others
def _activate(n, slope, activated):
    for i in range(len(n)):
        activated[i] = n[i] if n[i] > 0 else n[i] * slope


@part_of_others
def _split(v, argument, means, brick, rest):
    """The means where the argument is positive and where it is not, and what they leave."""
    count = below = above = np.float32(0)
    zero, one = np.float32(0), np.float32(1)
    for i in range(len(v)):
        positive = argument[i] > 0
        count += one if positive else zero
        above += v[i] if positive else zero
        below += zero if positive else v[i]
    # A brick without voxels of a kind has 0 / 1 for their mean.
    store(means, 2 * brick, below / max(np.float32(len(v)) - count, one))
    store(means, 2 * brick + 1, above / max(count, one))
    # Subtracting the means as they were rounded loses nothing to the rounding.
    below, above = load(means, 2 * brick), load(means, 2 * brick + 1)
    for i in range(len(v)):
        rest[i] = v[i] - (above if argument[i] > 0 else below)


@part_of_others
def _centre(v, means, brick, rest):
    total = np.float32(0)
    for i in range(len(v)):
        total += v[i]
    store(means, brick, total / np.float32(len(v)))
    mean = load(means, brick)
    for i in range(len(v)):
        rest[i] = v[i] - mean


@part_of_others
def _energy(rest):
    total = np.float32(0)
    for i in range(len(rest)):
        total += rest[i] * rest[i]
    return total


@part_of_others
def _quantise(rest, energy, codebook, bits, packed, start, codes):
    """Pack the nearest levels' codes; returns the scalar product of rest and levels."""
    thresholds, levels = codebook
    n, overlap = len(rest), np.float32(0)
    if bits == 1:
        pack_positive(rest, packed, start)
        for i in range(n):
            overlap += abs(rest[i])
        return overlap * levels[1]
    spread, one = np.sqrt(energy / np.float32(n)), np.float32(1)
    for i in range(n):
        codes[i] = 0
    for t in range(len(thresholds)):
        threshold = thresholds[t] * spread
        for i in range(n):
            codes[i] += one if rest[i] > threshold else np.float32(0)
    pack_codes(codes, bits, packed, start)
    for i in range(n):
        overlap += rest[i] * levels[np.int64(codes[i])]
    return overlap
