"""Several processes that share a prediction, as ``torchrun`` starts them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed

from seg3d.common.errors import RunFailed

# One process may have much more to do than another, or wait for the disk.
PATIENCE = timedelta(days=7)

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process among all that share the work.

    Attributes:
        rank: its number, from 0.
        count: of processes.
        local: its number on this machine.
        local_count: of processes on this machine.
    """

    rank: int = 0
    count: int = 1
    local: int = 0
    local_count: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    def wait(self) -> None:
        """Wait until all processes are here.

        Raises:
            RunFailed: if one of them has ended.
        """
        if self.count > 1:
            try:
                distributed.barrier()
            except RuntimeError as error:
                raise RunFailed(
                    "another process that shares the work has ended; its own message says why"
                ) from error

    def device(self, device: torch.device) -> torch.device:
        """The process's own GPU, if the device is a GPU without a number."""
        if device.type == "cuda" and device.index is None and self.count > 1:
            return torch.device("cuda", self.local)
        return device


@contextmanager
def joined_ranks() -> Iterator[Ranks]:
    """Join the processes that ``torchrun`` has started; alone, if it has not."""
    count = int(os.environ.get("WORLD_SIZE", 1))
    if count == 1:
        yield Ranks()
        return
    # Only barriers go this way, so GPUs need not take part.
    distributed.init_process_group("gloo", timeout=PATIENCE)
    try:
        rank, local, local_count = (
            int(os.environ[name]) for name in ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        )
        yield Ranks(rank, count, local, local_count)
    finally:
        distributed.destroy_process_group()
