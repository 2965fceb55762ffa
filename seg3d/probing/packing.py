"""Codes of one, two or four bits, packed into bytes, and the levels that they stand for."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from seg3d.probing.keys import random_words

# Positive Lloyd-Max levels of N(0, 1): J. Max, "Quantizing for minimum distortion", IRE
# Transactions on Information Theory, 1960, table I. They are rounded to what bf16 can hold, so
# that they are the same in every precision.
POSITIVE_LEVELS = {
    1: (0.796875,),
    2: (0.453125, 1.5078125),
    4: (0.12890625, 0.388671875, 0.65625, 0.94140625, 1.2578125, 1.6171875, 2.0625, 2.734375),
}
WORDS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


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
        self.levels_of_codes = torch.from_numpy(levels).to(device, dtype, non_blocking=True)
        codes = _codes_of_bytes(bits).to(device, non_blocking=True)
        self._levels_of_bytes = self.levels_of_codes[codes.int()]

    def quantise(self, values: Tensor, spread: Tensor) -> Tensor:
        """Pack the nearest levels' codes of ``values / spread``: ``(rows, n)`` to bytes.

        ``spread`` is ``(rows, 1)`` and may be zero. Returns ``(rows, ceil(n * bits / 8))``.
        """
        first, *others = self.thresholds
        codes = (values > first * spread).view(torch.uint8)
        for threshold in others:
            codes += values > threshold * spread
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


def pack(codes: Tensor, bits: int) -> Tensor:
    """Pack ``(rows, n)`` bytes that hold codes of ``bits`` bits; the first code lies lowest.

    Returns:
        ``(rows, ceil(n * bits / 8))`` uint8.
    """
    per_byte = 8 // bits
    codes = F.pad(codes, (0, -codes.shape[1] % per_byte))
    # One multiplication shifts all codes of a byte, each by its own distance, into the highest
    # byte of the word that they fill; the codes are too short to run into each other.
    top = 8 * (per_byte - 1)
    gather = sum(1 << (top - (8 - bits) * place) for place in range(per_byte))
    return ((codes.contiguous().view(WORDS[per_byte]) * gather) >> top).to(torch.uint8)


def unpack(packed: Tensor, bits: int) -> Tensor:
    """Undo :func:`pack`: ``(rows, bytes)`` to ``(rows, codes)``, both uint8."""
    # The codes of a byte are fetched as one word.
    words = _codes_of_bytes(bits).view(WORDS[8 // bits]).to(packed.device, non_blocking=True)
    return _look_up(words, packed).view(torch.uint8)


class RandomSigns:
    """Draws +1 or -1 for every voxel of a brick.

    Args:
        number: of the draw.
        voxels: of a brick.
        device: of the signs.
        dtype: of the signs.
    """

    def __init__(self, number: int, voxels: int, device: torch.device, dtype: torch.dtype) -> None:
        self.number = number
        self.voxels = voxels
        codes = _codes_of_bytes(1).to(device, dtype, non_blocking=True)
        self._signs_of_bytes = 2 * codes - 1

    def of(self, bricks: Tensor) -> Tensor:
        """Those of the bricks with these numbers (int64): ``(bricks, voxels)``."""
        words = -(-self.voxels // 64)
        counters = bricks[:, None] * words + torch.arange(words, device=bricks.device)
        packed = random_words(self.number, counters).view(torch.uint8)
        return _look_up(self._signs_of_bytes, packed)[:, : self.voxels]


def _look_up(table: Tensor, packed: Tensor) -> Tensor:
    """What ``table``, ``(256, n)``, says of every byte, row by row: ``(rows, n * bytes)``."""
    return table.index_select(0, packed.flatten().int()).view(len(packed), -1)


def _codes_of_bytes(bits: int) -> Tensor:
    """The codes that every byte holds: ``(256, 8 / bits)`` uint8."""
    return torch.from_numpy(_code_table(bits))


@lru_cache(maxsize=3)
def _code_table(bits: int) -> np.ndarray:
    codes = np.arange(256)[:, None] >> np.arange(0, 8, bits) & 2**bits - 1
    return codes.astype(np.uint8)
