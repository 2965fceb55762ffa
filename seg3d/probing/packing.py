"""Codes of one, two or four bits, packed into bytes, and the levels that they stand for."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from seg3d.common.device import brought
from seg3d.probing.keys import random_words

# Positive Lloyd-Max levels of N(0, 1): J. Max, "Quantizing for minimum distortion", IRE
# Transactions on Information Theory, 1960, table I. They are rounded to what bf16 can hold, so
# that they are the same in every precision.
POSITIVE_LEVELS = {
    1: (0.796875,),
    2: (0.453125, 1.5078125),
    4: (0.12890625, 0.388671875, 0.65625, 0.94140625, 1.2578125, 1.6171875, 2.0625, 2.734375),
}
# A type for so many bytes: what is moved as one word is moved quickly.
WORDS = {
    1: torch.uint8,
    2: torch.int16,
    4: torch.int32,
    8: torch.int64,
    16: torch.complex128,
}


class Codebook:
    """The levels that codes of ``bits`` bits stand for, on the device and in the type of use.

    Attributes:
        thresholds: between neighbouring levels, half-way, as Lloyd-Max has them.
        levels_of_codes: the level of every code.
    """

    def __init__(self, bits: int, device: torch.device, dtype: torch.dtype) -> None:
        positive = np.array(POSITIVE_LEVELS[bits])
        levels = np.concatenate([-positive[::-1], positive])
        self.bits = bits
        self.thresholds: list[float] = ((levels[1:] + levels[:-1]) / 2).tolist()
        self.levels_of_codes = brought(torch.from_numpy(levels).to(dtype), device)
        codes = brought(_codes_of_bytes(bits), device)
        self._levels_of_bytes = self.levels_of_codes[codes.int()]

    def quantise(self, values: Tensor, spread: Tensor) -> Tensor:
        """Pack the nearest levels' codes of ``values / spread``: ``(rows, n)`` to bytes.

        ``spread`` is ``(rows, 1)`` and may be zero. Returns ``(rows, ceil(n * bits / 8))``.
        """
        first, *others = self.thresholds
        codes = exceeds(values, first * spread)
        for threshold in others:
            codes += exceeds(values, threshold * spread)
        return pack(codes, self.bits)

    def levels(self, packed: Tensor, n: int) -> Tensor:
        """The levels of the first ``n`` codes of every row of bytes: ``(rows, n)``."""
        return _look_up(self._levels_of_bytes, packed)[:, :n]

    def overlap(self, values: Tensor, packed: Tensor) -> Tensor:
        """The scalar product of each row of ``values`` with its levels: ``(rows, 1)``."""
        if self.bits == 1:
            (level,) = POSITIVE_LEVELS[1]
            return level * values.abs().sum(1, keepdim=True)
        return (values * self.levels(packed, values.shape[1])).sum(1, keepdim=True)


def exceeds(values: Tensor, threshold: Tensor | float) -> Tensor:
    """1.0 where ``values`` are above the threshold, else 0.0, in their type."""
    # Comparing into bool is slower on a CPU.
    return torch.gt(values, threshold, out=torch.empty_like(values))


def pack(codes: Tensor, bits: int) -> Tensor:
    """Pack ``(rows, n)`` codes of ``bits`` bits, of any type; the first code lies lowest.

    Returns:
        ``(rows, ceil(n * bits / 8))`` uint8.
    """
    per_byte = 8 // bits
    if codes.is_floating_point():
        codes = codes.to(torch.int32)  # straight to bytes would be slower on a CPU
    codes = _padded(codes.to(torch.uint8), per_byte)
    # One multiplication shifts all codes of a byte, each by its own distance, into the highest
    # byte of the word that they fill; the codes are too short to run into each other.
    top = 8 * (per_byte - 1)
    gather = sum(1 << (top - (8 - bits) * place) for place in range(per_byte))
    return ((codes.view(WORDS[per_byte]) * gather) >> top).to(torch.uint8)


def unpack(packed: Tensor, bits: int) -> Tensor:
    """Undo :func:`pack`: ``(rows, bytes)`` to ``(rows, codes)``, both uint8."""
    # The codes of a byte are fetched as one word.
    words = _codes_of_bytes(bits).view(WORDS[8 // bits]).to(packed.device, non_blocking=True)
    return _look_up(words, packed).view(torch.uint8)


def masks(packed: Tensor, n: int, dtype: torch.dtype) -> Tensor:
    """For the first ``n`` bits of every row of bytes, integers as wide as ``dtype``.

    Returns:
        ``(rows, n)``: all bits one for a bit that is one, else zero.
    """
    return _on_top(packed, n, dtype).bitwise_right_shift_(8 * dtype.itemsize - 1)


def as_masks(flags: Tensor) -> Tensor:
    """The same for flags that are 1.0 or 0.0."""
    return flags.to(WORDS[flags.element_size()]).neg_()


def masked(mask: Tensor, values: Tensor) -> Tensor:
    """``values`` where the mask of :func:`masks` is ones, and 0.0 where it is zeros."""
    return (mask & values.view(mask.dtype)).view(values.dtype)


def multiply_by_signs_(rows: Tensor, bricks: Tensor, number: int) -> Tensor:
    """Multiply in place by random signs, +1 or -1 for every voxel of a brick.

    Args:
        rows: ``(bricks, voxels)`` float32 or float64.
        bricks: their numbers, ``(bricks,)`` int64.
        number: of the draw.
    """
    words = -(-rows.shape[1] // 64)
    counters = bricks[:, None] * words + torch.arange(words, device=bricks.device)
    minuses = (~random_words(number, counters)).view(torch.uint8)
    flips = _on_top(minuses, rows.shape[1], rows.dtype)
    flips.bitwise_and_(torch.iinfo(flips.dtype).min)
    rows.view(flips.dtype).bitwise_xor_(flips)
    return rows


def _on_top(packed: Tensor, n: int, dtype: torch.dtype) -> Tensor:
    """Integers as wide as ``dtype`` whose signs are the first ``n`` bits of every row of bytes."""
    word = WORDS[dtype.itemsize]
    words = _padded(packed, dtype.itemsize).view(word)
    shifts = torch.arange(8 * dtype.itemsize - 1, -1, -1, dtype=word, device=packed.device)
    return (words[:, :, None] << shifts).flatten(1)[:, :n]


def _padded(rows: Tensor, multiple: int) -> Tensor:
    """With zeros behind, up to a multiple of so many columns."""
    missing = -rows.shape[1] % multiple
    # Torch copies even where nothing is missing.
    return F.pad(rows, (0, missing)) if missing else rows.contiguous()


def _look_up(table: Tensor, packed: Tensor) -> Tensor:
    """What ``table``, ``(256, n)``, says of every byte, row by row: ``(rows, n * bytes)``."""
    word = WORDS.get(table.shape[1] * table.element_size())
    by_words = table if word is None else table.view(word).flatten()
    found = by_words.index_select(0, packed.flatten().int())
    return found.view(table.dtype).view(len(packed), -1)


def _codes_of_bytes(bits: int) -> Tensor:
    """The codes that every byte holds: ``(256, 8 / bits)`` uint8."""
    return torch.from_numpy(_code_table(bits))


@lru_cache(maxsize=3)
def _code_table(bits: int) -> np.ndarray:
    codes = np.arange(256)[:, None] >> np.arange(0, 8, bits) & 2**bits - 1
    return codes.astype(np.uint8)
