"""Ending a run early without losing anything: signals and a time limit."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Literal, get_args

Reason = Literal["out of time", "interrupted"]
# The later ones matter more.
REASONS: tuple[Reason | None, ...] = (None, *get_args(Reason))


class StopRequest:
    """Asked between steps whether training should save and end.

    Args:
        max_time: seconds from now after which it should; None for never.
        largest: of the numbers that the processes have which share the training: all of them are
            to end at the same step.
    """

    def __init__(
        self, max_time: float | None, largest: Callable[[int], int] = lambda number: number
    ) -> None:
        self._largest = largest
        self._deadline = None if max_time is None else time.monotonic() + max_time
        self._signalled = False

    def agreed(self) -> Reason | None:
        """Why any of the processes should stop; all of them have to ask at the same time."""
        return REASONS[self._largest(REASONS.index(self.reason))]

    @property
    def reason(self) -> Reason | None:
        """Why this process should stop, or None to go on."""
        if self._signalled:
            return "interrupted"
        if self._deadline is not None and time.monotonic() >= self._deadline:
            return "out of time"
        return None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take SIGINT and SIGTERM as requests; a second one acts as it would have without this.

        Beside the main thread, which signals go to, nothing is taken.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def restore() -> None:
            for number, handler in before.items():
                signal.signal(number, handler)

        def note(number: int, frame: FrameType | None) -> None:
            self._signalled = True
            restore()

        for number in before:
            signal.signal(number, note)
        try:
            yield
        finally:
            restore()


@contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """Have SIGTERM raise ``KeyboardInterrupt`` in the block, so that nothing is left half done."""
    if threading.current_thread() is not threading.main_thread():
        # Which alone may say what a signal does.
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def new_processes_leave_signals_to_parent() -> Iterator[None]:
    """Let this process decide what an interrupt means for those that are started in the block."""
    if not hasattr(signal, "pthread_sigmask"):
        # Windows has none.
        yield
        return
    # What is held back is handed down, so it holds before a program's first line; here it comes
    # when the block ends.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent() -> None:
    """In a worker process: do not go on when the main process has been killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def leave_signals_to_parent(worker: int) -> None:
    """In a data worker: let the main process decide what an interrupt means."""
    # Terminals and batch systems signal the whole group; workers end with their parent anyway.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for name in ("SIGBUS", "SIGFPE", "SIGSEGV"):
        # PyTorch would print something; the parent sees what has ended a worker, and explains it.
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)
