"""The processes that prepare patches: how many, and how they are started."""

from __future__ import annotations

import multiprocessing
import os
import sys

from seg3d.config import Config


def worker_count(config: Config, sharing: int = 1) -> int:
    """Processes that prepare patches for one that trains.

    Args:
        config: of the run.
        sharing: processes on this machine that train; those that are left to seg3d share its cores.
    """
    if config.data.workers != "auto":
        return config.data.workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(12, max(1, (cores or 1) // sharing - 1))


def start_method() -> str:
    """How these processes are started: as the program has chosen, or else the way that suits.

    ``fork`` where it is safe, since forked processes share what lies in RAM and are there at once.
    """
    # Not Python's default, which is no longer fork from 3.14 on.
    suitable = "fork" if sys.platform == "linux" else "spawn"
    return multiprocessing.get_start_method(allow_none=True) or suitable


def share_ram(config: Config) -> bool:
    """Whether all that prepare patches see the same RAM; if not, each would need its own copy."""
    return start_method() == "fork" or worker_count(config) == 0
