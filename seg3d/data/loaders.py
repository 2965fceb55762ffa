"""From cases to batches: a cache of preprocessed volumes and a stream of random patches.

Patch number i of a run is a function of (run seed, i) alone. That makes the sampler's position one
number, and a resumed run draws what the uninterrupted run would have drawn, with any number of
worker processes.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from monai.data import CacheDataset, PersistentDataset
from monai.data import Dataset as MonaiDataset
from monai.transforms import Compose
from torch.utils.data import DataLoader, Dataset

from seg3d.config import Config
from seg3d.data.cases import Case
from seg3d.data.transforms import (
    IMAGE,
    LABEL,
    augmentation,
    preprocessing,
    training_preprocessing,
)
from seg3d.io import read_header
from seg3d.plan import Plan
from seg3d.stopping import leave_signals_to_parent


def record(case: Case) -> dict[str, Any]:
    """A case as the dictionary that the transforms start from."""
    paths = {IMAGE: [str(path) for path in case.images], "name": case.name}
    return paths | ({LABEL: str(case.label)} if case.label else {})


class PatchStream(Dataset[dict[str, Any]]):
    """Endless random patches; every case comes once before any comes again.

    Args:
        volumes: preprocessed cases.
        names: their names.
        augment: the random transforms, crop included.
        seed: of the run.
    """

    def __init__(
        self, volumes: Sequence[Any], names: Sequence[str], augment: Compose, seed: int
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
        patch = self.augment(self.volumes[case])[0]
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
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=leave_signals_to_parent,
        # Its own, or each start of the loader would draw a number from the global generator.
        generator=torch.Generator(),
    )


def worker_count(config: Config) -> int:
    """Processes that prepare patches."""
    if config.data.workers != "auto":
        return config.data.workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(12, max(1, (cores or 1) - 1))


def training_volumes(
    cases: Sequence[Case], config: Config, plan: Plan, folder: Path, progress: bool
) -> MonaiDataset:
    """Preprocessed training cases: in RAM if they fit under ``data.cache``, else on disk.

    Args:
        cases: with labels.
        config: of the run.
        plan: of the run.
        folder: where the disk cache goes if it is needed.
        progress: show a bar while RAM is filled.
    """
    records = [record(case) for case in cases]
    transform = training_preprocessing(plan)
    limit = config.data.cache
    if limit == "auto":
        limit = psutil.virtual_memory().available / 2
    needed = sum(preprocessed_bytes(case, plan) for case in cases)
    if needed <= limit:
        return CacheDataset(records, transform, num_workers=2, progress=progress, copy_cache=False)
    key = hashlib.sha256(plan.model_dump_json().encode()).hexdigest()[:16]
    return PersistentDataset(records, transform, cache_dir=folder / key)


def preprocessed_bytes(case: Case, plan: Plan) -> float:
    """About the size of a case after preprocessing: float32 images, one byte of label a voxel."""
    grid = read_header(case.images[0]).grid
    millimetres = np.array(grid.shape) * np.array(grid.spacing)
    voxels = float((millimetres / np.array(plan.spacing or grid.spacing)).prod())
    return max(voxels, math.prod(plan.patch_size)) * (4 * len(plan.channels) + 1)


def patch_stream(
    volumes: MonaiDataset, cases: Sequence[Case], config: Config, plan: Plan
) -> PatchStream:
    """The run's stream of augmented patches."""
    names = [case.name for case in cases]
    return PatchStream(volumes, names, augmentation(config, plan), config.train.seed)


def validation_volumes(cases: Sequence[Case], plan: Plan) -> MonaiDataset:
    """Preprocessed validation cases, whole, read anew each time (they would crowd the cache)."""
    return MonaiDataset([record(case) for case in cases], preprocessing(plan, labelled=True))
