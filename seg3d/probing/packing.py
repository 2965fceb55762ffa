"""Codes of one, two or four bits, packed into bytes, and the levels that they stand for."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from seg3d.probing.keys import random_words

# Positive Lloyd-Max levels of N(0, 1): J. Max, "Quantizing for minimum distortion", IRE
# Transactions on Information Theory, 1960, table I.
POSITIVE_LEVELS = {
    1: (0.7979,),
    2: (0.4528, 1.5104),
    4: (0.1284, 0.3881, 0.6568, 0.9424, 1.2562, 1.6181, 2.0690, 2.7326),
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
        codes = unpack(packed, self.bits)[:, :n]
        if self.bits == 1:
            (level,) = POSITIVE_LEVELS[1]
            return codes.to(self.levels_of_codes.dtype).mul_(2 * level).sub_(level)
        return self.levels_of_codes.index_select(0, codes.flatten().int()).view(codes.shape)

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
    table = torch.from_numpy(_code_table(bits)).to(packed.device, non_blocking=True)
    words = table.index_select(0, packed.flatten().int())
    return words.view(torch.uint8).view(len(packed), -1)


def random_signs(number: int, bricks: Tensor, voxels: int) -> Tensor:
    """Signs, +1 or -1 (int8), of the bricks with these numbers (int64): ``(bricks, voxels)``."""
    words = -(-voxels // 64)
    counters = bricks[:, None] * words + torch.arange(words, device=bricks.device)
    bits = unpack(random_words(number, counters).view(torch.uint8), 1)[:, :voxels]
    return bits.view(torch.int8).mul(2).sub_(1)


@lru_cache(maxsize=3)
def _code_table(bits: int) -> np.ndarray:
    """For every byte the codes that it holds, a byte each, as one word: ``(256,)``."""
    codes = np.arange(256)[:, None] >> np.arange(0, 8, bits) & 2**bits - 1
    return codes.astype(np.uint8).view({1: np.int64, 2: np.int32, 4: np.int16}[bits])[:, 0]
