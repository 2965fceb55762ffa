"""In the process of ``torchrun`` itself: what seg3d has said is not followed by a traceback.

PyTorch loads what packages offer under the entry point ``torchrun.handlers``; there is no other way
to be heard there. All of it concerns ``torchrun ... -m seg3d`` alone.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from types import TracebackType
from typing import Any, NoReturn

from seg3d.common.one_voice import TORCHRUN_TELLS

# Of torchrun: which process it ends, and which has failed.
LOGGERS = (
    "torch.distributed.elastic.multiprocessing.api",
    "torch.distributed.elastic.agent.server.api",
)


def told_once() -> Any:
    """Take over what ``torchrun`` says at its end if it has started seg3d.

    Returns:
        What PyTorch takes for a way to let processes meet, and nobody asks for.
    """
    if _starts_seg3d(sys.argv):
        os.environ[TORCHRUN_TELLS] = "1"
        for name in LOGGERS:
            # Their levels are set when they are made.
            logging.getLogger(name).addFilter(lambda record: False)
        sys.excepthook = _end
    return _no_meeting


def _starts_seg3d(arguments: list[str]) -> bool:
    pairs = zip(arguments, arguments[1:], strict=False)
    return any(one in ("-m", "--module") and other == "seg3d" for one, other in pairs)


def _end(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """End as the processes did."""
    if kind.__name__ == "SignalException":
        sys.exit(128 + int(error.sigval))  # type: ignore[attr-defined]
    if kind.__name__ != "ChildFailedError":
        sys.__excepthook__(kind, error, trace)
        return
    statuses = {rank: one.exitcode for rank, one in error.failures.items()}  # type: ignore[attr-defined]
    for rank, status in statuses.items():
        # With SIGTERM torchrun ends the others.
        if status < 0 and status != -signal.SIGTERM:
            name = signal.Signals(-status).name
            why = ", perhaps for lack of memory" if name == "SIGKILL" else ""
            print(
                f"failed: process {rank} was ended by {name}{why}\n"
                "  to do: --resume goes on from what was done",
                file=sys.stderr,
            )
            sys.exit(1)
    sys.exit(max(1, *statuses.values()))


def _no_meeting(parameters: Any) -> NoReturn:
    raise ValueError("seg3d is no rendezvous backend")
