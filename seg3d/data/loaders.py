"""From preprocessed cases to batches: a stream of random patches.

Patch number i of a run is a function of (run seed, i) alone. That makes the sampler's position one
number, and a resumed run draws what the uninterrupted run would have drawn, with any number of
worker processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch
from monai.transforms import Compose
from torch.utils.data import DataLoader, Dataset

from seg3d.common.errors import RunFailed
from seg3d.common.ranks import ALONE, Ranks
from seg3d.common.stopping import leave_signals_to_parent
from seg3d.config import Config
from seg3d.data.augmentation import augmentation
from seg3d.data.cache import Cache
from seg3d.data.transforms import IMAGE, LABEL
from seg3d.data.worker_failures import (
    LESS_MEMORY,
    FailuresAsValues,
    collated,
    ends_of_workers_explained,
    received,
)
from seg3d.data.workers import start_method, worker_count
from seg3d.plan import Plan


class PatchStream(Dataset[dict[str, Any]]):
    """Endless random patches; every case comes once before any comes again.

    Args:
        volumes: preprocessed cases.
        names: their names.
        augment: the random transforms, crop included.
        seed: of the run.
        drawn: numbers of the cases that patches are drawn from; by default all.

    Raises:
        RunFailed: when asked for a patch that cannot be cut.
    """

    def __init__(
        self,
        volumes: Cache | Sequence[Any],
        names: Sequence[str],
        augment: Compose,
        seed: int,
        drawn: Sequence[int] | None = None,
    ) -> None:
        self.volumes = volumes
        self.names = names
        self.augment = augment
        self.seed = seed
        self.drawn = range(len(volumes)) if drawn is None else drawn

    def __getitem__(self, index: int) -> dict[str, Any]:
        turn, position = divmod(index, len(self.drawn))
        order = np.random.default_rng([self.seed, 0, turn]).permutation(len(self.drawn))
        case = self.drawn[int(order[position])]
        draw = np.random.SeedSequence([self.seed, 1, index]).generate_state(1)
        self.augment.set_random_state(seed=int(draw[0]))
        try:
            patch = self.augment(self.volumes[case])
        except Exception as error:
            raise RunFailed(_no_patch(self.names[case], error)) from error
        return {IMAGE: patch[IMAGE], LABEL: patch[LABEL], "name": self.names[case]}


def _no_patch(name: str, error: Exception) -> str:
    said = f"no patch can be cut from case {name}: "
    if isinstance(error, MemoryError):
        return f"{said}{error or 'no memory left'}\n{LESS_MEMORY}"
    if isinstance(error, OSError) and error.filename is not None:
        return (
            f"{said}{error.filename}: {error.strerror}\n"
            "  to do: --resume goes on from the last checkpoint, and prepares anew what is missing"
        )
    return f"{said}{type(error).__name__}: {error}"


@contextmanager
def patch_batches(
    stream: PatchStream,
    config: Config,
    plan: Plan,
    first: int,
    last: int,
    ranks: Ranks = ALONE,
) -> Iterator[Iterator[dict[str, Any]]]:
    """Batches of the patches ``first`` to ``last`` (not included) of the stream.

    They are made by worker processes, which end with the block. Several processes that train take
    turns: what they get at a time is together the batch that one would get whose batches are as
    much larger.

    Yields:
        Batches of ``image`` `(B, C, D, H, W)` float32, ``label`` `(B, 1, D, H, W)` int16 class
        numbers (`seg3d.losses.IGNORE` where there is none) and the cases' ``name``.

    Raises:
        RunFailed: if a patch cannot be cut, or a worker process ends too early.
    """
    workers = worker_count(config, ranks.local_count)
    size = plan.batch_size
    starts = range(first + ranks.rank * size, last, ranks.count * size)
    loader = DataLoader(
        FailuresAsValues(stream),
        batch_sampler=(list(range(start, start + size)) for start in starts),
        num_workers=workers,
        collate_fn=collated,
        prefetch_factor=4 if workers else None,
        multiprocessing_context=start_method() if workers else None,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=leave_signals_to_parent,
        # Its own, or each start of the loader would draw a number from the global generator.
        generator=torch.Generator(),
    )
    batches = iter(loader)
    # PyTorch has no public names for these, and they are not there without workers.
    processes = getattr(batches, "_workers", ())
    end = getattr(batches, "_shutdown_workers", lambda: None)
    try:
        with ends_of_workers_explained(processes):
            yield received(batches)
    finally:
        # PyTorch does so when the last reference is gone; but tracebacks hold references, and at
        # the interpreter's end it waits for workers that nobody has told to end.
        with suppress(RuntimeError):
            end()
        for process in processes:
            # Still there if it hangs, or if the news of another's end cut this short.
            process.kill()


def patch_stream(cache: Cache, config: Config, plan: Plan) -> PatchStream:
    """The run's stream of augmented patches, from all cases of the filled cache with any label."""
    names = [case.name for case in cache.cases]
    labelled = [number for number in range(len(cache)) if cache.has_labels(number)]
    augment = augmentation(config, plan)
    return PatchStream(cache, names, augment, config.train.seed, labelled or None)
