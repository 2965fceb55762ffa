"""Random draws from things that come one part after the other."""

from __future__ import annotations

import numpy as np


class Draw:
    """Some of many things, none twice, every choice as likely as any other.

    How the things are cut into parts does not change what is drawn.

    Args:
        count: of all things.
        most: to be drawn, if there are as many.
        seed: of the draw.
    """

    def __init__(self, count: int, most: int, seed: int | list[int]) -> None:
        generator = np.random.default_rng(seed)
        self._places = np.sort(generator.choice(count, min(most, count), replace=False))
        self._passed = 0

    def among(self, count: int) -> np.ndarray:
        """Which of the next ``count`` things are drawn, counted from the first of them."""
        first, last = np.searchsorted(self._places, (self._passed, self._passed + count))
        drawn: np.ndarray = self._places[first:last] - self._passed
        self._passed += count
        return drawn


def seed_of(text: str) -> int:
    """A seed that depends on the text alone (Python's own hash changes from run to run)."""
    # Names of files may hold what is no text.
    return int.from_bytes(text.encode(errors="surrogatepass"), "little") % (2**61 - 1)
