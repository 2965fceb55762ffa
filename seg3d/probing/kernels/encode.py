"""One pass over a tensor that normalises it, activates it and sketches it."""

import triton
import triton.language as tl

from seg3d.probing.kernels.bricks import (
    NOT_SPECIALISED,
    chosen_members,
    halves,
    locate,
    pack,
    rotate,
    sign_words,
    with_signs,
)

LEAST_NORMAL = tl.constexpr(1.1754943508222875e-38)


@triton.jit
def centred(
    y, z, columns, signs, means, column_size,
    brick, column, here, places, inside, lanes,
    NORMALISE: tl.constexpr, SIGNED: tl.constexpr, EDGE: tl.constexpr, VOXELS: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Do with one member of every unit all but the coding; return what is left to be coded."""
    in_brick = (lanes < VOXELS)[None, :]
    v = tl.load(y + places, mask=here[:, None] & in_brick, other=0).to(tl.float32)
    n = v
    if NORMALISE:
        scale = tl.load(columns + column, mask=here, other=0)[:, None]
        offset = tl.load(columns + column_size + column, mask=here, other=0)[:, None]
        gain = tl.load(columns + 2 * column_size + column, mask=here, other=0)[:, None]
        shift = tl.load(columns + 3 * column_size + column, mask=here, other=0)[:, None]
        slope = tl.load(columns + 4 * column_size + column, mask=here, other=0)[:, None]
        v = v * scale + offset
        n = v * gain + shift
        if EDGE:
            # Voxels that stick out were read where another thread is going to write.
            tl.debug_barrier()
        activated = tl.where(n > 0, n, n * slope)
        tl.store(z + places, activated.to(z.dtype.element_ty), mask=inside)
    if SIGNED:
        positive = (n > 0) & in_brick
        sign_bytes = (VOXELS + 7) // 8
        byte = tl.arange(0, BLOCK // 8)[None, :]
        tl.store(
            signs + brick.to(tl.int64)[:, None] * sign_bytes + byte,
            pack(positive.to(tl.int32), 1, ROWS, BLOCK),
            mask=here[:, None] & (byte < sign_bytes),
        )
        count = tl.sum(positive.to(tl.float32), axis=1)
        below = tl.sum(tl.where(positive | ~in_brick, 0.0, v), axis=1)
        above = tl.sum(tl.where(positive, v, 0.0), axis=1)
        # A brick without voxels of a kind has 0 / 1 for their mean.
        below = (below / tl.maximum(VOXELS - count, 1.0)).to(means.dtype.element_ty)
        above = (above / tl.maximum(count, 1.0)).to(means.dtype.element_ty)
        tl.store(means + brick * 2, below, mask=here)
        tl.store(means + brick * 2 + 1, above, mask=here)
        mean = tl.where(positive, above.to(tl.float32)[:, None], below.to(tl.float32)[:, None])
    else:
        whole = tl.sum(tl.where(in_brick, v, 0.0), axis=1) / VOXELS
        whole = whole.to(means.dtype.element_ty)
        tl.store(means + brick, whole, mask=here)
        mean = whole.to(tl.float32)[:, None]
    # Subtracting the means as they were rounded loses nothing to the rounding.
    return tl.where(in_brick, v - mean, 0.0)


@triton.jit(do_not_specialize=NOT_SPECIALISED)
def encode_kernel(
    y, z, columns, matrix, thresholds, levels, signs, means, codes, scales,
    signs_number, choice_number, units, groups, channels, runs, layers, planes, plane, depth,
    sample_stride, channel_stride, layer_size, column_size,
    NORMALISE: tl.constexpr, SIGNED: tl.constexpr, BITS: tl.constexpr, PER_GROUP: tl.constexpr,
    EDGE: tl.constexpr, VOXELS: tl.constexpr, BLOCK: tl.constexpr, PART: tl.constexpr,
    ROWS: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    """What :func:`seg3d.probing.norms.normalise` does lot by lot.

    Without ``NORMALISE`` it is :meth:`seg3d.probing.rotated.Encoder.put` alone, of v = y;
    ``SIGNED``, with the signs of v. ``columns``, ``(5, B, C)``, are scale, offset, gain, shift
    and the slope of the activation. z may be y: a program reads what it writes, and nothing else.
    """
    unit = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    live = unit < units
    lanes = tl.arange(0, BLOCK)
    chosen, size = chosen_members(choice_number, unit, groups, channels * runs, PER_GROUP)
    if PER_GROUP > 1:
        for member in range(PER_GROUP):
            brick, column, here, places, inside = locate(
                unit, live & (chosen != member), member, lanes, groups, channels, runs, layers,
                planes, plane, depth, sample_stride, channel_stride, layer_size,
                VOXELS, PER_GROUP, EDGE,
            )  # fmt: skip
            centred(
                y, z, columns, signs, means, column_size,
                brick, column, here, places, inside, lanes,
                NORMALISE, SIGNED, EDGE, VOXELS, ROWS, BLOCK,
            )  # fmt: skip
    brick, column, here, places, inside = locate(
        unit, live, chosen, lanes, groups, channels, runs, layers, planes, plane, depth,
        sample_stride, channel_stride, layer_size, VOXELS, PER_GROUP, EDGE,
    )  # fmt: skip
    rest = centred(
        y, z, columns, signs, means, column_size,
        brick, column, here, places, inside, lanes,
        NORMALISE, SIGNED, EDGE, VOXELS, ROWS, BLOCK,
    )  # fmt: skip

    energy = tl.sum(rest * rest, axis=1)
    spread = tl.sqrt(energy / VOXELS)[:, None]
    low, high = sign_words(signs_number, brick, BLOCK)
    large, small = halves(with_signs(rest, low, high, lanes))
    overlap = tl.zeros((ROWS,), tl.float32)
    code_bytes = (VOXELS * BITS + 7) // 8
    for first in tl.static_range(0, BLOCK, PART):
        part = first + tl.arange(0, PART)
        rotated = rotate(large, small, matrix, part, False, False, BLOCK, HALF)
        if BITS == 1:
            code = (rotated > 0).to(tl.int32)
        else:
            code = tl.zeros((ROWS, PART), tl.int32)
            scaled = rotated / spread  # of a constant brick NaN, which exceeds no threshold
            for threshold in tl.static_range((1 << BITS) - 1):
                code += (scaled > tl.load(thresholds + threshold)).to(tl.int32)
        code = tl.where((part < VOXELS)[None, :], code, 0)
        if BITS == 1:
            overlap += tl.sum(tl.abs(rotated), axis=1) * tl.load(levels + 1)
        else:
            overlap += tl.sum(rotated * tl.load(levels + code), axis=1)
        byte = (first * BITS // 8 + tl.arange(0, PART * BITS // 8))[None, :]
        tl.store(
            codes + unit.to(tl.int64)[:, None] * code_bytes + byte,
            pack(code, BITS, ROWS, PART),
            mask=live[:, None] & (byte < code_bytes),
        )
    # A constant brick has norm 0 and overlap 0; its scale is 0, and NaN stays NaN.
    overlap = tl.where(overlap < LEAST_NORMAL, LEAST_NORMAL, overlap)
    tl.store(scales + unit, energy * size / overlap, mask=live)
