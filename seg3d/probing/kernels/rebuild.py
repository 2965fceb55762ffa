"""Passes over a tensor that rebuild a sketch on the way, and what they do with it."""

import triton
import triton.language as tl

from seg3d.probing.kernels.bricks import (
    NOT_SPECIALISED,
    chosen_members,
    halves,
    locate,
    rotate,
    sign_words,
    unpack,
    with_signs,
)

SUMS, GRADIENT, SLOPES, FILL = (tl.constexpr(purpose) for purpose in range(4))


@triton.jit
def use(
    dz, out, columns, column_size, signs, means, rest, origin,
    brick, column, here, places, inside, first,
    PURPOSE: tl.constexpr, SIGNED: tl.constexpr, VOXELS: tl.constexpr, ROWS: tl.constexpr,
    LANES: tl.constexpr,
):  # fmt: skip
    """Do with LANES voxels of a member of every unit what is the purpose; return the sums."""
    if SIGNED:
        positive = unpack(signs, brick, here, first, 1, VOXELS, ROWS, LANES) != 0
        below = tl.load(columns + column, mask=here, other=0)[:, None]
        above = tl.load(columns + column_size + column, mask=here, other=0)[:, None]
        factor = tl.where(positive, above, below)
    if PURPOSE != SLOPES:
        if SIGNED:
            below = tl.load(means + brick * 2, mask=here, other=0).to(tl.float32)[:, None]
            above = tl.load(means + brick * 2 + 1, mask=here, other=0).to(tl.float32)[:, None]
            v = tl.where(positive, above, below) + rest
        else:
            v = tl.load(means + brick, mask=here, other=0).to(tl.float32)[:, None] + rest
    sums = 0.0, 0.0, 0.0
    if PURPOSE == FILL:
        if SIGNED:
            gain = tl.load(columns + 2 * column_size + column, mask=here, other=0)[:, None]
            shift = tl.load(columns + 3 * column_size + column, mask=here, other=0)[:, None]
            v = (v * gain + shift) * factor
        written = v
    else:
        dn = tl.load(dz + places, mask=inside, other=0).to(tl.float32) * factor
        written = dn
    if PURPOSE == SUMS:
        sums = (
            tl.sum(dn, axis=1), tl.sum(dn * v, axis=1), tl.sum(tl.where(inside, v, 0.0), axis=1)
        )  # fmt: skip
    else:
        if PURPOSE == GRADIENT:
            gain = tl.load(columns + 2 * column_size + column, mask=here, other=0)[:, None]
            constant = tl.load(columns + 3 * column_size + column, mask=here, other=0)[:, None]
            along = tl.load(columns + 4 * column_size + column, mask=here, other=0)[:, None]
            written = dn * gain + v * along + constant
        tl.store(out + (places - origin), written.to(out.dtype.element_ty), mask=inside)
    return sums


@triton.jit(do_not_specialize=NOT_SPECIALISED)
def rebuild_kernel(
    dz, out, columns, matrix, levels, signs, means, codes, scales,
    signs_number, choice_number, units, groups, channels, runs, layers, planes, plane, depth,
    sample_stride, channel_stride, layer_size, column_size, bricks,
    first_sample, first_layer, layers_here,
    PURPOSE: tl.constexpr, SIGNED: tl.constexpr, BITS: tl.constexpr, PER_GROUP: tl.constexpr,
    EDGE: tl.constexpr, VOXELS: tl.constexpr, BLOCK: tl.constexpr, PART: tl.constexpr,
    ROWS: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    """:meth:`Rebuilder.sums`, ``gradient`` (SLOPES: of an activation alone) and ``fill``.

    Of ``columns``, ``(5, B, C)``, the first two are factors where the output is not positive and
    where it is: of dz, or of what is filled in. The others are the linear function that is made
    of dn and v, or of v. ``out`` is ``(3, bricks)`` for the sums, may be dz for the gradient, and
    is the part from ``first_sample`` and ``first_layer`` on, of ``layers_here``, to be filled.
    """
    counted = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    live = counted < units
    row_here = counted // groups
    sample, layer = first_sample + row_here // layers_here, first_layer + row_here % layers_here
    origin = first_sample.to(tl.int64) * sample_stride + first_layer * layer_size
    unit = (sample * layers + layer) * groups + counted % groups
    chosen, _ = chosen_members(choice_number, unit, groups, channels * runs, PER_GROUP)
    if PER_GROUP > 1:
        for member in range(PER_GROUP):
            dn_sum = tl.zeros((ROWS,), tl.float32)
            product_sum = tl.zeros((ROWS,), tl.float32)
            v_sum = tl.zeros((ROWS,), tl.float32)
            for first in tl.static_range(0, BLOCK, PART):
                brick, column, here, places, inside = locate(
                    unit, live & (chosen != member), member, first + tl.arange(0, PART), groups,
                    channels, runs, layers, planes, plane, depth, sample_stride, channel_stride,
                    layer_size, VOXELS, PER_GROUP, EDGE,
                )  # fmt: skip
                sums = use(
                    dz, out, columns, column_size, signs, means, 0.0, origin,
                    brick, column, here, places, inside, first,
                    PURPOSE, SIGNED, VOXELS, ROWS, PART,
                )  # fmt: skip
                dn_sum += sums[0]
                product_sum += sums[1]
                v_sum += sums[2]
            if PURPOSE == SUMS:
                tl.store(out + brick, dn_sum, mask=here)
                tl.store(out + bricks + brick, product_sum, mask=here)
                tl.store(out + 2 * bricks + brick, v_sum, mask=here)

    brick = unit // groups * channels * runs + unit % groups * PER_GROUP + chosen
    if PURPOSE != SLOPES:
        code = unpack(codes, unit, live, 0, BITS, VOXELS, ROWS, BLOCK)
        scale = tl.load(scales + unit, mask=live, other=0)
        if BITS == 1:
            # One and minus one have no small halves, which saves a third of the rotation.
            level = 2.0 * code.to(tl.float32) - 1.0
            scale *= tl.load(levels + 1)
        else:
            level = tl.load(levels + code.to(tl.int32))
        level = tl.where((tl.arange(0, BLOCK) < VOXELS)[None, :], level, 0.0)
        large, small = halves(level)
        low, high = sign_words(signs_number, brick, BLOCK)
    dn_sum = tl.zeros((ROWS,), tl.float32)
    product_sum = tl.zeros((ROWS,), tl.float32)
    v_sum = tl.zeros((ROWS,), tl.float32)
    for first in tl.static_range(0, BLOCK, PART):
        part = first + tl.arange(0, PART)
        rest = 0.0
        if PURPOSE != SLOPES:
            rest = rotate(large, small, matrix, part, True, BITS == 1, BLOCK, HALF)
            rest = with_signs(rest, low, high, part) * scale[:, None]
        brick, column, here, places, inside = locate(
            unit, live, chosen, part, groups, channels, runs, layers, planes, plane, depth,
            sample_stride, channel_stride, layer_size, VOXELS, PER_GROUP, EDGE,
        )  # fmt: skip
        sums = use(
            dz, out, columns, column_size, signs, means, rest, origin,
            brick, column, here, places, inside, first,
            PURPOSE, SIGNED, VOXELS, ROWS, PART,
        )  # fmt: skip
        dn_sum += sums[0]
        product_sum += sums[1]
        v_sum += sums[2]
    if PURPOSE == SUMS:
        tl.store(out + brick, dn_sum, mask=live)
        tl.store(out + bricks + brick, product_sum, mask=live)
        tl.store(out + 2 * bricks + brick, v_sum, mask=live)
