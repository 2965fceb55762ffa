"""Passes over a tensor that rebuild a sketch on the way, and what they do with it."""

from __future__ import annotations

import numpy as np

from seg3d.probing.kernels.cpu.bricks import (
    bytes_of,
    choose,
    clear_outside,
    levels_of,
    members_of,
    multiply_by_signs,
    place_of,
    read,
    row_of,
    write,
)
from seg3d.probing.kernels.cpu.compiler import compiled, part_of_others
from seg3d.probing.kernels.cpu.instructions import load
from seg3d.probing.kernels.cpu.rotation import rotate

SUMS, GRADIENT, SLOPES, FILL = range(4)


@compiled
def rebuild(first, last, purpose, dz, out, sums, columns, kept, rotation, levels, layout):
    """:meth:`seg3d.probing.records.Rebuilder.sums`, ``gradient`` and ``fill``, of some rows.

    Args:
        purpose: SUMS, GRADIENT, SLOPES (the gradient of an activation alone) or FILL.
        dz: where the tensor's numbers are, from its first on; bf16 as uint16.
        out: likewise, of what is written; may be dz.
        sums: ``(3, bricks)`` float32: of dn, of dn v, and of v.
        columns: ``(5, B C)`` float32. The first two are factors where the output is not positive
            and where it is: of dz, or of what is filled in. The others are the linear function
            that is made of dn and v (gain, constant, and along), or of v (gain and shift).
        kept: signs, means, codes and scales.
        rotation: see :func:`seg3d.probing.kernels.cpu.rotation.rotate`.
        levels: of the codes.
        layout: a :class:`~seg3d.probing.kernels.cpu.bricks.Layout`.
    """
    signs, means, codes, scales = kept
    v, dn, factors, room = np.empty((4, layout.voxels), np.float32)
    sign_bytes, code_bytes = bytes_of(layout.voxels, 1), bytes_of(layout.voxels, layout.bits)
    for number in range(first, last):
        row = row_of(number, layout)
        for group in range(layout.groups):
            unit = row[0] * layout.groups + group
            begin, size, coded = members_of(unit, group, layout)
            for brick in range(begin, begin + size):
                place = place_of(brick, row, layout)
                c, sign_start = place.column, place.brick * sign_bytes
                if layout.signed == 1:
                    choose(signs, sign_start, columns[0, c], columns[1, c], factors)
                if purpose != SLOPES:
                    if layout.signed == 1:
                        below = load(means, 2 * place.brick)
                        above = load(means, 2 * place.brick + 1)
                        choose(signs, sign_start, below, above, v)
                    else:
                        v[:] = load(means, place.brick)
                    if brick == coded:
                        levels_of(codes, unit * code_bytes, layout.bits, levels, dn)
                        rotate(dn, rotation, True, room)
                        multiply_by_signs(dn, place.brick, layout.signs_number)
                        _add(v, dn, scales[unit])
                if purpose == FILL:
                    if layout.signed == 1:
                        _activate(v, factors, columns[2, c], columns[3, c])
                    write(out, place, layout, v)
                    continue
                read(dz, place, layout, dn)
                for i in range(layout.voxels):
                    dn[i] *= factors[i]
                if purpose == SUMS:
                    if layout.sticks_out == 1:
                        clear_outside(place, layout, dn)
                        clear_outside(place, layout, v)
                    _sum(dn, v, sums, place.brick)
                    continue
                if purpose == GRADIENT:
                    _combine(dn, v, columns[2, c], columns[3, c], columns[4, c])
                write(out, place, layout, dn)


@part_of_others
def _add(v, rest, scale):
    for i in range(len(v)):
        v[i] += rest[i] * scale


@part_of_others
def _activate(v, factors, gain, shift):
    for i in range(len(v)):
        v[i] = (v[i] * gain + shift) * factors[i]


@part_of_others
def _combine(dn, v, gain, constant, along):
    for i in range(len(v)):
        dn[i] = dn[i] * gain + v[i] * along + constant


@part_of_others
def _sum(dn, v, sums, brick):
    of_dn = of_product = of_v = np.float32(0)
    for i in range(len(v)):
        of_dn += dn[i]
        of_product += dn[i] * v[i]
        of_v += v[i]
    sums[0, brick] = of_dn
    sums[1, brick] = of_product
    sums[2, brick] = of_v
