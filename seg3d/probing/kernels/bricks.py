"""What the kernels share: where bricks lie, their random signs, and how they are rotated.

A program works on ROWS *units*: the bricks themselves or, with 1 / m bits, groups of m bricks of
which one is coded, numbered as :class:`seg3d.probing.rotated.Choice` does. What it knows of
units is ``(ROWS,)``, and of voxels ``(ROWS, BLOCK)``, BLOCK being the next power of two of a
brick's voxels, or ``(ROWS, PART)`` where it goes through the voxels in parts.
"""

import triton
import triton.language as tl

# Numbers whose divisibility is of no use to the compiler.
NOT_SPECIALISED = [
    "signs_number", "choice_number", "units", "groups", "channels", "runs", "layers", "planes",
    "plane", "depth", "column_size", "bricks", "first_sample", "first_layer", "layers_here",
]  # fmt: skip


@triton.jit
def random_words(number, counters):
    """:func:`seg3d.probing.keys.random_words`, unsigned."""
    words = (counters.to(tl.uint64) + 1) * 0x9E3779B97F4A7C15 + number.to(tl.uint64)
    words = (words ^ (words >> 30)) * 0xBF58476D1CE4E5B9
    words = (words ^ (words >> 27)) * 0x94D049BB133111EB
    return words ^ (words >> 31)


@triton.jit
def sign_words(number, brick, BLOCK: tl.constexpr):
    """The random bits of every brick: two words, of which small bricks need one."""
    if BLOCK <= 64:
        low = random_words(number, brick)
        high = low
    else:
        low = random_words(number, brick.to(tl.int64) * 2)
        high = random_words(number, brick.to(tl.int64) * 2 + 1)
    return low, high


@triton.jit
def with_signs(tile, low, high, lanes):
    """Voxels ``lanes`` times their signs: :func:`seg3d.probing.packing.multiply_by_signs_`."""
    # In 32 bits, of which a GPU shifts twice as many numbers in the same time.
    first = tl.where((lanes % 64 < 32)[None, :], low.to(tl.uint32)[:, None],
                     (low >> 32).to(tl.uint32)[:, None])  # fmt: skip
    second = tl.where((lanes % 64 < 32)[None, :], high.to(tl.uint32)[:, None],
                      (high >> 32).to(tl.uint32)[:, None])  # fmt: skip
    words = tl.where((lanes < 64)[None, :], first, second)
    return tl.where((words >> (lanes % 32).to(tl.uint32)[None, :]) & 1 != 0, tile, -tile)


@triton.jit
def halves(tile):
    """The tile as the sum of two in bfloat16, which together have 16 bits of mantissa."""
    large = tile.to(tl.bfloat16)
    return large, (tile - large.to(tl.float32)).to(tl.bfloat16)


@triton.jit
def rotate(large, small, matrix, lanes, TRANSPOSED: tl.constexpr, SHORT: tl.constexpr,
           BLOCK: tl.constexpr, HALF: tl.constexpr):  # fmt: skip
    """Columns ``lanes`` of a tile of :func:`halves` times the matrix, or times its transpose.

    Of the products of large and small halves the least is left out. ``SHORT`` says that the
    small halves of the tile are zero.
    """
    rows = tl.arange(0, BLOCK)
    if TRANSPOSED:
        places = rows[:, None] + lanes[None, :] * BLOCK
    else:
        places = rows[:, None] * BLOCK + lanes[None, :]
    part = tl.load(matrix + places).to(HALF)
    product = tl.dot(large.to(HALF), part)
    if not SHORT:
        product = tl.dot(small.to(HALF), part, product)
    return tl.dot(large.to(HALF), tl.load(matrix + BLOCK * BLOCK + places).to(HALF), product)


@triton.jit
def chosen_members(number, unit, groups, row, PER_GROUP: tl.constexpr):
    """Which member of every unit is coded, and how many there are: :meth:`Choice.of`."""
    size = tl.minimum(row - unit % groups * PER_GROUP, PER_GROUP)
    draws = (random_words(number, unit) & 0x7FFFFFFF).to(tl.int64)
    return (draws * size >> 31).to(tl.int32), size


@triton.jit
def locate(unit, live, member, lanes, groups, channels, runs, layers, planes, plane, depth,
           sample_stride, channel_stride, layer_size,
           VOXELS: tl.constexpr, PER_GROUP: tl.constexpr, EDGE: tl.constexpr):  # fmt: skip
    """One member of every unit.

    Returns:
        Its number, its sample and channel as one number, and whether there is one, ``(ROWS,)``
        each; where its voxels ``lanes`` lie, and whether they are voxels of the volume. Those
        that stick out lie on the nearest voxel inside, as :meth:`BrickGrid.read` has it.
    """
    row = channels * runs
    row_number = unit // groups
    place = unit % groups * PER_GROUP + member
    here = live & (place < row)
    sample, layer = row_number // layers, row_number % layers
    channel, run = place // runs, place % runs
    first = sample.to(tl.int64) * sample_stride + channel.to(tl.int64) * channel_stride
    inside = here[:, None] & (lanes < VOXELS)[None, :]
    if EDGE:
        length = VOXELS // planes
        z = (layer * planes)[:, None] + (lanes // length)[None, :]
        within = (run * length)[:, None] + (lanes % length)[None, :]
        inside &= (z < depth) & (within < plane)
        nearest = tl.minimum(z, depth - 1) * plane + tl.minimum(within, plane - 1)
        places = first[:, None] + nearest
    else:
        places = (first + layer * layer_size + run * VOXELS)[:, None] + lanes[None, :]
    return row_number * row + place, sample * channels + channel, here, places, inside


@triton.jit
def pack(codes, BITS: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr):
    """:func:`seg3d.probing.packing.pack`, of ``(ROWS, LANES)`` int32."""
    PER_BYTE: tl.constexpr = 8 // BITS
    fields = tl.reshape(codes, (ROWS, LANES // PER_BYTE, PER_BYTE))
    return tl.sum(fields << (tl.arange(0, PER_BYTE) * BITS)[None, None, :], axis=2).to(tl.uint8)


@triton.jit
def unpack(packed, rows, here, first, BITS: tl.constexpr, VOXELS: tl.constexpr,
           ROWS: tl.constexpr, LANES: tl.constexpr):  # fmt: skip
    """The codes of LANES voxels from ``first`` on, integers: :func:`seg3d.probing.packing.unpack`.

    Args:
        rows: numbers of the rows of bytes, ``(ROWS,)``.
        here: whether there is such a row.
        first: a multiple of LANES.

    Returns:
        ``(ROWS, LANES)``, 0 beyond VOXELS.
    """
    if VOXELS % 32 == 0 and LANES % 32 == 0:
        # One number is read for as many voxels as fit in it.
        PER_WORD: tl.constexpr = 32 // BITS
        number = first // PER_WORD + tl.arange(0, LANES // PER_WORD)
        places = rows.to(tl.int64)[:, None] * (VOXELS // PER_WORD) + number[None, :]
        mask = here[:, None] & (number < VOXELS // PER_WORD)[None, :]
        words = tl.load(packed.to(tl.pointer_type(tl.uint32)) + places, mask=mask, other=0)
        shifts = (tl.arange(0, PER_WORD) * BITS).to(tl.uint32)
        codes = tl.reshape(words[:, :, None] >> shifts[None, None, :], (ROWS, LANES))
        return codes & ((1 << BITS) - 1)
    else:
        PER_BYTE: tl.constexpr = 8 // BITS
        lanes = first + tl.arange(0, LANES)
        row_bytes: tl.constexpr = (VOXELS * BITS + 7) // 8
        places = rows.to(tl.int64)[:, None] * row_bytes + (lanes // PER_BYTE)[None, :]
        mask = here[:, None] & (lanes < VOXELS)[None, :]
        codes = tl.load(packed + places, mask=mask, other=0).to(tl.int32)
        return (codes >> (lanes % PER_BYTE * BITS)[None, :]) & ((1 << BITS) - 1)
