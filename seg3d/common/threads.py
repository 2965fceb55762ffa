"""The same work on many things at a time, in threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

# Files are unpacked and NumPy computes without the interpreter; more threads hold more slabs.
THREADS = 4

Thing = TypeVar("Thing")
Result = TypeVar("Result")


def in_threads(work: Callable[[Thing], Result], things: Sequence[Thing]) -> list[Result]:
    """The results for all things, in their order.

    Whatever is raised, an interrupt among others, is raised at once: work that has not begun never
    does.
    """
    with ThreadPoolExecutor(max_workers=THREADS) as pool:
        try:
            return list(pool.map(work, things))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
