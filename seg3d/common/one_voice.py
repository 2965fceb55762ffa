"""Of several processes that share the work, one says what went wrong; then all end.

Whoever fails first speaks. The others find that something was said already: their own failures are
the same mistake met once more, or its consequence. What they need to know of each other lies in the
store that ``torchrun`` keeps, which is there before they have met and after one has died.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from datetime import timedelta
from threading import Lock
from typing import Any, NoReturn

import click

from seg3d.common.errors import FAILED, OtherEnded, RunFailed, UserError
from seg3d.common.plain_text import message_of

# In the environment if the process of torchrun itself tells of processes that were killed.
TORCHRUN_TELLS = "SEG3D_TORCHRUN_TELLS"
# Seconds within which the others know of the end of a process, and a speaker has spoken.
PATIENCE = 2.0
# What is known: who speaks, that it was said, and who has ended without a word.
SPEAKER, SAID, LOST = "speaker", "said", "lost"

_lock = Lock()


def are_several() -> bool:
    """Whether this process is one of several that ``torchrun`` has started."""
    return int(os.environ.get("WORLD_SIZE", 1)) > 1


def is_first() -> bool:
    """Whether this process is the only one, or the one of several that prints and writes."""
    return not are_several() or os.environ["RANK"] == "0"


def end_in_one_voice(message: str, status: int, error: BaseException) -> NoReturn:
    """End this process, one of several, and say why, unless that has been said.

    It ends at once: a library that waits for a process that is no more would wait for ever.

    Args:
        message: for people.
        status: with which the process ends, unless another one has spoken, with its own.
        error: why it ends.
    """
    with _lock:
        with suppress(Exception):
            status = _say(message, status, error)
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(status)


def note_lost(rank: int) -> None:
    """Let all know that a process has ended without a word."""
    with suppress(Exception):
        _store().set(LOST, str(rank))


def _say(message: str, status: int, error: BaseException) -> int:
    store = _store()
    own = isinstance(error, (UserError, RunFailed, click.ClickException))
    if not own or isinstance(error, OtherEnded):
        # The end of a process makes others fail in many ways, and torchrun interrupts them.
        _await(lambda: store.check([SPEAKER]) or store.check([LOST]))
        if store.check([LOST]) and not store.check([SPEAKER]):
            if os.environ.get(TORCHRUN_TELLS):
                return FAILED
            status = FAILED
            message = f"failed: {OtherEnded(store.get(LOST).decode())}"
    rank = os.environ["RANK"]
    if store.compare_set(SPEAKER, "", rank).decode() != rank:
        # Whoever ends first makes torchrun end the others, the speaker too.
        _await(lambda: store.check([SAID]))
        return int(store.get(SAID)) if store.check([SAID]) else status
    with suppress(OSError):
        click.echo(message_of(message), err=True)
    store.set(SAID, str(status))
    return status


def _await(known: Any) -> None:
    end = time.monotonic() + PATIENCE
    while not known() and time.monotonic() < end:
        time.sleep(0.02)


def _store() -> Any:
    """The store of ``torchrun``: a way to it of one's own, for any thread at any time."""
    from torch.distributed import PrefixStore, TCPStore

    store = TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=False,
        wait_for_workers=False,
        timeout=timedelta(seconds=5),
    )
    return PrefixStore(f"seg3d/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
