"""From preprocessed cases to batches: a stream of random patches.

Patch number i of a run is a function of (run seed, i) alone. That makes the sampler's position one
number, and a resumed run draws what the uninterrupted run would have drawn, with any number of
worker processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from monai.transforms import Compose
from torch.utils.data import DataLoader, Dataset

from seg3d.common.stopping import leave_signals_to_parent
from seg3d.config import Config
from seg3d.data.augmentation import augmentation
from seg3d.data.cache import Cache
from seg3d.data.transforms import IMAGE, LABEL
from seg3d.data.workers import start_method, worker_count
from seg3d.plan import Plan


class PatchStream(Dataset[dict[str, Any]]):
    """Endless random patches; every case comes once before any comes again.

    Args:
        volumes: preprocessed cases.
        names: their names.
        augment: the random transforms, crop included.
        seed: of the run.
    """

    def __init__(
        self, volumes: Cache | Sequence[Any], names: Sequence[str], augment: Compose, seed: int
    ) -> None:
        self.volumes = volumes
        self.names = names
        self.augment = augment
        self.seed = seed

    def __getitem__(self, index: int) -> dict[str, Any]:
        turn, position = divmod(index, len(self.volumes))
        order = np.random.default_rng([self.seed, 0, turn]).permutation(len(self.volumes))
        case = int(order[position])
        draw = np.random.SeedSequence([self.seed, 1, index]).generate_state(1)
        self.augment.set_random_state(seed=int(draw[0]))
        patch = self.augment(self.volumes[case])
        return {IMAGE: patch[IMAGE], LABEL: patch[LABEL], "name": self.names[case]}


def patch_loader(stream: PatchStream, config: Config, first: int, last: int) -> DataLoader[Any]:
    """Batches of the patches ``first`` to ``last`` (not included) of the stream.

    A batch holds ``image`` `(B, C, D, H, W)` float32, ``label`` `(B, 1, D, H, W)` int16 class
    numbers (`seg3d.losses.IGNORE` where there is none) and the cases' ``name``.
    """
    workers = worker_count(config)
    return DataLoader(
        stream,
        batch_size=config.train.batch_size,
        sampler=range(first, last),
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        multiprocessing_context=start_method() if workers else None,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=leave_signals_to_parent,
        # Its own, or each start of the loader would draw a number from the global generator.
        generator=torch.Generator(),
    )


def patch_stream(cache: Cache, config: Config, plan: Plan) -> PatchStream:
    """The run's stream of augmented patches."""
    names = [case.name for case in cache.cases]
    return PatchStream(cache, names, augmentation(config, plan), config.train.seed)
