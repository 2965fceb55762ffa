"""Several processes that share a training or a prediction, as ``torchrun`` starts them.

What they tell each other goes by gloo, which needs no GPU and fails at once where a process has
ended. Tensors on GPUs, the gradients above all, go by NCCL.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from threading import Event, Thread
from typing import TypeVar

import torch
from torch import distributed

from seg3d.common.errors import FAILED, OtherEnded, UserError
from seg3d.common.one_voice import end_in_one_voice, note_lost

# One process may have much more to do than another, or wait for the disk.
PATIENCE = timedelta(days=7)
# Seconds that a process has to end by itself once another one has ended.
GRACE = 15.0

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process among all that share the work.

    Every process has to call the methods that exchange something, in the same order. They raise
    `OtherEnded` if a process has ended.

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
        """Wait until all processes are here."""
        if self.count > 1:
            with _end_explained():
                distributed.barrier()

    def from_first(self, make: Callable[[], T]) -> T:
        """What the first process makes, for all; the others only wait for it."""
        if self.count == 1:
            return make()
        made = [make() if self.first else None]
        with _end_explained():
            distributed.broadcast_object_list(made)
        found: T = made[0]  # type: ignore[assignment]
        return found

    def gathered(self, value: T) -> list[T]:
        """The values of all processes, in their order."""
        if self.count == 1:
            return [value]
        found: list[T] = [value] * self.count
        with _end_explained():
            distributed.all_gather_object(found, value)
        return found

    def largest(self, number: int) -> int:
        """The largest of the numbers that the processes have; quick enough for every step."""
        if self.count == 1:
            return number
        held = torch.tensor(number)
        with _end_explained():
            distributed.all_reduce(held, distributed.ReduceOp.MAX)
        return int(held)

    def group(self, device: torch.device) -> distributed.ProcessGroup | None:
        """The way of tensors on a device from process to process; None if there is but one."""
        if self.count == 1:
            return None
        if device.type != "cuda":
            return distributed.group.WORLD
        torch.cuda.set_device(device)
        # Whether a process is gone is seen elsewhere (`_Watch`), and sooner.
        return distributed.new_group(backend="nccl", timeout=PATIENCE)

    def device(self, device: torch.device) -> torch.device:
        """The process's own GPU, if the device is a GPU without a number.

        Raises:
            UserError: if there are fewer GPUs than processes.
        """
        if device.type != "cuda" or device.index is not None or self.count == 1:
            return device
        if self.local_count > (gpus := torch.cuda.device_count()):
            raise UserError(
                "there are more processes than GPUs on this machine",
                given=f"{self.local_count} processes, {gpus} GPUs",
                fix=f"torchrun --nproc-per-node {gpus}, or --device cpu",
            )
        return torch.device("cuda", self.local)


ALONE = Ranks()


@contextmanager
def joined_ranks() -> Iterator[Ranks]:
    """Join the processes that ``torchrun`` has started; alone, if it has not."""
    count = int(os.environ.get("WORLD_SIZE", 1))
    if count == 1:
        yield ALONE
        return
    distributed.init_process_group("gloo", timeout=PATIENCE)
    rank, local, local_count = (
        int(os.environ[name]) for name in ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    )
    ranks = Ranks(rank, count, local, local_count)
    watch = _Watch(ranks)
    try:
        yield ranks
        ranks.wait()
    except BaseException:
        watch.leave()
        raise
    watch.part()
    distributed.destroy_process_group()


class _Watch:
    """Sees when the next process ends before its time, whatever this one is doing then.

    In a circle, each process waits for a word of the next one, which that sends when all is done.
    Who is gone without it has ended. Without this, a process that waits for a GPU, which waits for
    gradients that nobody sends, would wait for ever.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._next = (ranks.rank + 1) % ranks.count
        self._before = (ranks.rank - 1) % ranks.count
        self._group = distributed.new_group(backend="gloo", timeout=PATIENCE)
        self._left = Event()
        self._thread = Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        try:
            distributed.recv(torch.zeros(1), self._next, group=self._group)
        except RuntimeError:
            note_lost(self._next)
            if not self._left.wait(GRACE):
                end_in_one_voice(f"failed: {OtherEnded()}", FAILED, OtherEnded())

    def part(self) -> None:
        """Say that all is done, and wait until the next process says so too."""
        distributed.send(torch.zeros(1), self._before, group=self._group)
        self._thread.join()

    def leave(self) -> None:
        """This process ends by itself, for a reason of its own."""
        self._left.set()


@contextmanager
def _end_explained() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise OtherEnded from error
