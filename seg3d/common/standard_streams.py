"""Standard output and error that may be closed, from the start or all of a sudden."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO


def open_what_is_closed() -> None:
    """Give the numbers of closed standard streams to nothing.

    Otherwise the next files would get them, and what libraries print would go there.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # It takes the lowest number that is free.
            os.open(os.devnull, os.O_RDWR)


@contextmanager
def going_on_unheard() -> Iterator[None]:
    """For work that goes on in the block when nobody reads any more what it prints."""
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (one and _GoesOn(one) for one in streams)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams


_lock = threading.Lock()
_unheard: list[int] = []


@contextmanager
def libraries_unheard() -> Iterator[None]:
    """Have nobody hear what compiled libraries write to standard error while the block runs.

    Several threads may be in such a block at once.
    """
    with _lock:
        if not _unheard:
            kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, 2)
            os.close(nothing)
        else:
            kept = _unheard[0]
        _unheard.append(kept)
    try:
        yield
    finally:
        with _lock:
            kept = _unheard.pop()
            if not _unheard:
                os.dup2(kept, 2)
                os.close(kept)


class _GoesOn:
    """A stream that becomes silent where it could not be written to."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            self._silence()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            self._silence()

    def _silence(self) -> None:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, self._stream.fileno())
        os.close(nothing)
        # What the stream still holds goes there too.
        with suppress(OSError):
            self._stream.flush()
