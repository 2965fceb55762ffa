"""Mean and variance of the channels of a tensor, in one pass over it."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["parts", "span"])
def moments_kernel(y, out, volume, parts, span, total, BLOCK: tl.constexpr):
    """Write count, mean, and sum of squared deviations of every part: ``out`` ``(3, total)``.

    A part is ``span`` of the ``volume`` voxels of a channel, of which y, ``(B, C, D, H, W)``, has
    ``total / parts``. By Welford's recurrence (Technometrics 4, 1962) in each of BLOCK lanes; these
    are put together in the end.
    """
    part = tl.program_id(0)
    first = part % parts * span
    stop = tl.minimum(first + span, volume)
    lanes = tl.arange(0, BLOCK)
    start = y + (part // parts).to(tl.int64) * volume
    count = tl.zeros((BLOCK,), tl.float32)
    mean = tl.zeros((BLOCK,), tl.float32)
    squares = tl.zeros((BLOCK,), tl.float32)
    number = 0.0
    for block in range(first, stop, BLOCK):
        number += 1.0
        mask = block + lanes < stop
        values = tl.load(start + block + lanes, mask=mask, other=0).to(tl.float32)
        deviation = tl.where(mask, values - mean, 0.0)
        mean += deviation / number
        squares += deviation * tl.where(mask, values - mean, 0.0)
        count += tl.where(mask, 1.0, 0.0)
    whole = tl.sum(count)
    middle = tl.sum(count * mean) / whole
    between = tl.sum(count * (mean - middle) * (mean - middle))
    tl.store(out + part, whole)
    tl.store(out + total + part, middle)
    tl.store(out + 2 * total + part, tl.sum(squares) + between)


@triton.jit(do_not_specialize=["parts", "total"])
def pooling_kernel(of_parts, out, volume, parts, total, BLOCK: tl.constexpr):
    """Mean and (biased) variance of every channel, ``(2, total)``, from those of its parts.

    ``of_parts``, ``(3, total, parts)``, is what :func:`moments_kernel` wrote.
    """
    channel = tl.program_id(0)
    lanes = tl.arange(0, BLOCK)
    mask = lanes < parts
    here = of_parts + channel * parts + lanes
    count = tl.load(here, mask=mask, other=0)
    means = tl.load(here + total * parts, mask=mask, other=0)
    squares = tl.load(here + 2 * total * parts, mask=mask, other=0)
    mean = tl.sum(count * means) / volume
    between = tl.sum(count * (means - mean) * (means - mean))
    tl.store(out + channel, mean)
    tl.store(out + total + channel, (tl.sum(squares) + between) / volume)
