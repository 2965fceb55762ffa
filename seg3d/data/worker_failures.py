"""What goes wrong in a worker process, told in the words of its cause.

PyTorch makes an exception of a worker anew in the main process, with the worker's traceback for its
message. So a failure comes as a value, in place of the patch that there is none of.
"""

from __future__ import annotations

import signal
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any

from torch.utils.data import Dataset, default_collate

from seg3d.common.errors import RunFailed

# How PyTorch begins what it says of a worker process that is no more.
WORKER = "DataLoader worker"
LESS_SHARED_MEMORY = (
    "  to do: more shared memory (docker run --shm-size=8g), fewer data.workers, or "
    "data.workers=0; --resume goes on from the last checkpoint"
)
LESS_MEMORY = (
    "  to do: fewer data.workers, a smaller data.cache, or more RAM; --resume goes on from the "
    "last checkpoint"
)


@dataclass(frozen=True)
class Failure:
    """Why there is no patch, or no batch.

    Attributes:
        words: for people.
        trace: for those who debug.
    """

    words: str
    trace: str


class FailuresAsValues(Dataset[Any]):
    """The items of a dataset, or why one cannot be had."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __getitem__(self, index: int) -> Any:
        try:
            return self.dataset[index]
        except RunFailed as error:
            return Failure(str(error), traceback.format_exc())


def collated(patches: list[Any]) -> Any:
    """A batch, or why there is none."""
    for patch in patches:
        if isinstance(patch, Failure):
            return patch
    try:
        return default_collate(patches)
    except RuntimeError as error:
        # Batches of workers lie in shared memory.
        words = f"no batch could be made in a data worker: {error}\n{LESS_SHARED_MEMORY}"
        return Failure(words, traceback.format_exc())


def received(batches: Iterator[Any]) -> Iterator[dict[str, Any]]:
    """The batches, as long as none is a failure.

    Raises:
        RunFailed: if one is.
    """
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except (EOFError, ConnectionError) as error:
            # It was sending a batch.
            raise RuntimeError(f"{WORKER} hung up") from error
        if isinstance(batch, Failure):
            raise RunFailed(batch.words) from RuntimeError(batch.trace)
        yield batch


@contextmanager
def ends_of_workers_explained(workers: Sequence[BaseProcess]) -> Iterator[None]:
    """Turn PyTorch's error that a worker has ended, which comes at any time, into `RunFailed`."""
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith(WORKER):
            raise
        raise RunFailed(_end_of_worker(error, _statuses(workers))) from error


def _statuses(workers: Sequence[BaseProcess]) -> set[int | None]:
    # The news may be here before the end.
    for _ in range(2):
        # PyTorch may tell it once more meanwhile, and then for the last time.
        with suppress(RuntimeError):
            closed = wait([worker.sentinel for worker in workers], timeout=1)
            # A process closes what it has open some time before it has ended.
            for worker in workers:
                if worker.sentinel in closed:
                    worker.join()
            break
    return {worker.exitcode for worker in workers}


def _end_of_worker(error: RuntimeError, statuses: set[int | None]) -> str:
    # Of a process that a signal has ended, the status is the signal's number with a minus.
    signals = {number.name for number in signal.Signals if -number in statuses}
    if "SIGBUS" in signals:
        return f"a data worker found no room in shared memory\n{LESS_SHARED_MEMORY}"
    if "SIGKILL" in signals:
        return f"a data worker was killed, most likely for lack of memory\n{LESS_MEMORY}"
    why = signals.pop() if signals else str(error).partition(". ")[0]
    return f"a data worker has ended ({why})\n{LESS_MEMORY}"
