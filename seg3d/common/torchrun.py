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
            logging.getLogger(name).setLevel(logging.CRITICAL)
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
    failures = error.failures.items()  # type: ignore[attr-defined]
    for rank, failure in failures:
        if failure.exitcode < 0:
            name = signal.Signals(-failure.exitcode).name
            why = ", perhaps for lack of memory" if name == "SIGKILL" else ""
            print(
                f"failed: process {rank} was ended by {name}{why}\n"
                "  to do: --resume goes on from what was done",
                file=sys.stderr,
            )
            sys.exit(1)
    sys.exit(max(failure.exitcode for _, failure in failures))


def _no_meeting(parameters: Any) -> NoReturn:
    raise ValueError("seg3d is no rendezvous backend")
