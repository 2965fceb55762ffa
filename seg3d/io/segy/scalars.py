"""The scalars of trace headers: a positive one multiplies, a negative one divides, 0 is 1."""

from __future__ import annotations

import numpy as np


def scaled(numbers: np.ndarray, scalars: np.ndarray) -> np.ndarray:
    """Header words as the numbers that they stand for, each with its own scalar, float64."""
    factors = np.where(scalars == 0, 1.0, np.abs(scalars.astype(np.float64)))
    return np.where(scalars < 0, numbers / factors, numbers * factors)


def finest_scalar(largest: float, largest_word: int) -> int:
    """The negative power of ten (or 1) that keeps most decimals of numbers up to ``largest``.

    Args:
        largest: magnitude of the numbers to be written.
        largest_word: magnitude that the header word holds.
    """
    for power in (10_000, 1000, 100, 10):
        if largest * power <= largest_word:
            return -power
    return 1
