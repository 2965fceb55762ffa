"""Work in threads: results in order, and an end at once if something is raised."""

from __future__ import annotations

import threading
import time

import pytest

from seg3d.common.threads import THREADS, in_threads


def test_results_stand_in_the_order_of_the_things() -> None:
    def work(number: int) -> int:
        time.sleep(0.01 * (number % 3))
        return number * number

    assert in_threads(work, range(20)) == [number * number for number in range(20)]
    assert in_threads(work, []) == []


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_what_has_not_begun_never_does(kind: type[BaseException]) -> None:
    begun: list[int] = []
    open_gate = threading.Event()

    def work(number: int) -> None:
        begun.append(number)
        if number == 0:
            raise kind
        open_gate.wait(0.5)

    with pytest.raises(kind):
        in_threads(work, range(100))
    # Each thread may have taken another one before it was told.
    assert len(begun) <= 2 * THREADS + 1
