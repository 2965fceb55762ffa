"""Codes of one, two or four bits, packed into bytes, and the levels that they stand for."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# Positive Lloyd-Max levels of N(0, 1): J. Max, "Quantizing for minimum distortion", IRE
# Transactions on Information Theory, 1960, table I.
POSITIVE_LEVELS = {
    1: (0.7979,),
    2: (0.4528, 1.5104),
    4: (0.1284, 0.3881, 0.6568, 0.9424, 1.2562, 1.6181, 2.0690, 2.7326),
}


class Codebook:
    """The levels that codes of ``bits`` bits stand for, on the device and in the type of use.

    Attributes:
        thresholds: between neighbouring levels, half-way, as Lloyd-Max has them.
    """

    def __init__(self, bits: int, device: torch.device, dtype: torch.dtype) -> None:
        levels, table = _levels_and_table(bits)
        self.bits = bits
        self.thresholds: list[float] = ((levels[1:] + levels[:-1]) / 2).tolist()
        self._table = torch.from_numpy(table).to(device, dtype, non_blocking=True)

    def quantise(self, values: Tensor, spread: Tensor) -> Tensor:
        """Pack the nearest levels' codes of ``values / spread``: ``(rows, n)`` to bytes.

        ``spread`` is ``(rows, 1)`` and may be zero. Returns ``(rows, ceil(n * bits / 8))``.
        """
        codes = torch.zeros_like(values, dtype=torch.uint8)
        for threshold in self.thresholds:
            codes += values > threshold * spread
        per_byte = 8 // self.bits
        codes = F.pad(codes, (0, -codes.shape[1] % per_byte)).unflatten(1, (-1, per_byte))
        shifts = torch.arange(0, 8, self.bits, device=codes.device, dtype=torch.uint8)
        return (codes << shifts).sum(2, dtype=torch.uint8)

    def levels(self, packed: Tensor, n: int) -> Tensor:
        """The levels of the first ``n`` codes of every row of bytes: ``(rows, n)``."""
        values = self._table.index_select(0, packed.flatten().int())
        return values.view(len(packed), -1)[:, :n]


@lru_cache(maxsize=8)
def _levels_and_table(bits: int) -> tuple[np.ndarray, np.ndarray]:
    """All levels, ascending, and ``(256, 8 // bits)`` those that every byte holds."""
    positive = np.array(POSITIVE_LEVELS[bits])
    levels = np.concatenate([-positive[::-1], positive])
    codes = np.arange(256)[:, None] >> np.arange(0, 8, bits) & 2**bits - 1
    return levels, levels[codes]
