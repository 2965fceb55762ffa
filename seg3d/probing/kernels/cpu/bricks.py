"""What the passes over bricks share: where these lie, their random bits, and packed codes.

A pass goes through *units*: the bricks themselves or, with 1 / m bits, groups of m bricks of which
one is coded, numbered as :class:`seg3d.probing.coder.Choice` does.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from seg3d.probing.kernels.cpu.compiler import part_of_others
from seg3d.probing.kernels.cpu.instructions import is_set, load, signed_by, store, with_bit


class Layout(NamedTuple):
    """What a pass is told of a grid of bricks and of the tensors that lie on it.

    Attributes:
        voxels: of a brick; and ``channels``, ``runs``, ``layers``, ``planes``, ``plane`` and
            ``depth`` as of :class:`seg3d.probing.bricks.BrickGrid`.
        sticks_out: whether there are bricks that do.
        groups: units of a row of bricks.
        per_group: bricks of a unit.
        bits: of a code.
        signed: whether signs are kept.
        signs_number: of the draw of the random signs.
        choice_number: of the draw of the bricks that are coded.
        sample_stride: of the tensors; and ``channel_stride``.
        first_sample: which comes first in the tensor that is written; and ``first_layer``.
        layers_here: of a sample, in that tensor.
    """

    voxels: int
    channels: int
    runs: int
    layers: int
    planes: int
    plane: int
    depth: int
    sticks_out: int
    groups: int
    per_group: int
    bits: int
    signed: int
    signs_number: int
    choice_number: int
    sample_stride: int
    channel_stride: int
    first_sample: int
    first_layer: int
    layers_here: int


class Place(NamedTuple):
    """Where a brick is: its number, its sample and channel as one number, and its voxels."""

    brick: int
    column: int
    start: int  # of the first voxel of its layer and channel
    run: int
    planes: int  # that are there


@part_of_others
def random_word(number, counter):
    """:func:`seg3d.probing.keys.random_words`, unsigned."""
    word = (np.uint64(counter) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(number)
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))


@part_of_others
def row_of(number, layout):
    """A row of bricks, all those of a layer, counted from the first of what is gone through.

    Returns:
        Its number in the grid, its sample, where its layer begins, and how many planes that has.
    """
    sample, layer = number // layout.layers_here, number % layout.layers_here
    start = sample * layout.sample_stride + layer * layout.planes * layout.plane
    sample, layer = sample + layout.first_sample, layer + layout.first_layer
    planes = min(layout.depth - layer * layout.planes, layout.planes)
    return sample * layout.layers + layer, sample, start, planes


@part_of_others
def members_of(unit, group, layout):
    """The first brick of a unit within its row, how many there are, and which one is coded."""
    first = group * layout.per_group
    size = min(layout.channels * layout.runs - first, layout.per_group)
    chosen = 0
    if layout.per_group > 1:
        drawn = random_word(layout.choice_number, unit) & np.uint64(0x7FFFFFFF)
        chosen = (np.int64(drawn) * size) >> 31
    return first, size, first + chosen


@part_of_others
def place_of(brick, row, layout):
    """The :class:`Place` of a brick, counted within its row, which is as of :func:`row_of`."""
    number, sample, start, planes = row
    channel = brick // layout.runs
    return Place(
        number * layout.channels * layout.runs + brick,
        sample * layout.channels + channel,
        start + channel * layout.channel_stride,
        brick - channel * layout.runs,
        planes,
    )


@part_of_others
def read(x, place, layout, values):
    """The numbers of a brick; one that sticks out is continued by its last voxels."""
    if layout.sticks_out == 0:
        start = place.start + place.run * layout.voxels
        for i in range(layout.voxels):
            values[i] = load(x, start + i)
        return
    length = layout.voxels // layout.planes
    for plane in range(layout.planes):
        start = place.start + min(plane, place.planes - 1) * layout.plane
        for i in range(length):
            within = min(place.run * length + i, layout.plane - 1)
            values[plane * length + i] = load(x, start + within)


@part_of_others
def write(x, place, layout, values):
    """Undo :func:`read`; what sticks out is left out."""
    if layout.sticks_out == 0:
        start = place.start + place.run * layout.voxels
        for i in range(layout.voxels):
            store(x, start + i, values[i])
        return
    length = layout.voxels // layout.planes
    first = place.run * length
    for plane in range(place.planes):
        start = place.start + plane * layout.plane + first
        for i in range(min(length, layout.plane - first)):
            store(x, start + i, values[plane * length + i])


@part_of_others
def clear_outside(place, layout, values):
    """Make zero what sticks out."""
    length = layout.voxels // layout.planes
    inside = min(length, layout.plane - place.run * length)
    for plane in range(layout.planes):
        for i in range(0 if plane >= place.planes else inside, length):
            values[plane * length + i] = 0


@part_of_others
def multiply_by_signs(values, brick, number):
    """:func:`seg3d.probing.packing.multiply_by_signs_` of one brick."""
    n = len(values)
    words = (n + 63) // 64
    for first in range(0, n, 32):
        word = random_word(number, brick * words + first // 64)
        bits = np.uint32((word >> np.uint64(first % 64)) & np.uint64(0xFFFFFFFF))
        for j in range(min(32, n - first)):
            store(values, first + j, signed_by(load(values, first + j), bits, j))


@part_of_others
def bytes_of(voxels, bits):
    """Bytes of a brick's codes."""
    return (voxels * bits + 7) // 8


@part_of_others
def pack_positive(values, packed, start):
    """Pack which values are above zero, one bit each: :func:`seg3d.probing.packing.pack`."""
    n = len(values)
    for first in range(0, n, 32):
        count, word = min(32, n - first), np.uint32(0)
        for j in range(count):
            word = with_bit(word, load(values, first + j) > 0, j)
        for byte in range((count + 7) // 8):
            packed[start + first // 8 + byte] = np.uint8((word >> np.uint32(8 * byte)) & 255)


@part_of_others
def pack_codes(codes, bits, packed, start):
    """Pack codes of two or four bits."""
    per_byte, n = 8 // bits, len(codes)
    for byte in range(bytes_of(n, bits)):
        total = 0
        for j in range(min(per_byte, n - byte * per_byte)):
            total |= np.int64(codes[byte * per_byte + j]) << (j * bits)
        packed[start + byte] = total


@part_of_others
def choose(packed, start, below, above, values):
    """``above`` where the packed bit is one, and ``below`` where it is zero."""
    n = len(values)
    for first in range(0, n, 32):
        count, word = min(32, n - first), np.uint32(0)
        for byte in range((count + 7) // 8):
            word |= np.uint32(packed[start + first // 8 + byte]) << np.uint32(8 * byte)
        word = np.uint32(word)
        for j in range(count):
            store(values, first + j, above if is_set(word, j) else below)


@part_of_others
def levels_of(packed, start, bits, levels, values):
    """The levels that packed codes stand for."""
    if bits == 1:
        choose(packed, start, levels[0], levels[1], values)
        return
    per_byte, mask = 8 // bits, (1 << bits) - 1
    for i in range(len(values)):
        values[i] = levels[(packed[start + i // per_byte] >> (i % per_byte * bits)) & mask]
