"""From cases to batches: a cache of preprocessed volumes and a stream of random patches.

Patch number i of a run is a function of (run seed, i) alone. That makes the sampler's position one
number, and a resumed run draws what the uninterrupted run would have drawn, with any number of
worker processes.
"""

from __future__ import annotations

import functools
import hashlib
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from monai.data import Dataset as MonaiDataset
from monai.transforms import Compose
from rich.progress import track
from torch.utils.data import DataLoader, Dataset

from seg3d.config import Config
from seg3d.data.augmentation import augmentation
from seg3d.data.cases import Case
from seg3d.data.transforms import (
    IMAGE,
    LABEL,
    preprocessed_shape,
    preprocessing,
    training_preprocessing,
)
from seg3d.files import atomic_write
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
) -> Sequence[Any]:
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
    if needed > limit:
        return DiskCache(records, transform, folder, plan)
    with ThreadPoolExecutor(max_workers=2) as pool:
        volumes = pool.map(functools.partial(transform, threading=True), records)
        bar = track(volumes, "filling the cache", len(records), disable=not progress)
        return list(bar)


class DiskCache(MonaiDataset):
    """Preprocessed cases on disk, each computed when it is first asked for.

    They are mapped into memory, so that a patch costs the reading of its own pages and not of the
    whole volume. (MONAI's PersistentDataset reads whole volumes, and stale or half-written ones.)

    Args:
        records: of the cases.
        transform: their preprocessing.
        folder: of the cache; may hold cases of other plans.
        plan: that the preprocessing follows.
    """

    def __init__(
        self, records: Sequence[dict[str, Any]], transform: Compose, folder: Path, plan: Plan
    ) -> None:
        super().__init__(records, transform)
        decided = plan.model_dump_json()
        self.paths = [folder / f"{_fingerprint(record, decided)}.pt" for record in records]

    def __getitem__(self, index: int) -> dict[str, Any]:
        path = self.paths[index]
        if not path.is_file():
            with atomic_write(path) as temporary:
                torch.save(self.transform(self.data[index]), temporary)
        volume: dict[str, Any] = torch.load(path, mmap=True, weights_only=True)
        return volume


def _fingerprint(record: dict[str, Any], plan: str) -> str:
    """Changes with the plan, and when a file of the case is written anew."""
    files = [Path(path) for path in (*record[IMAGE], record[LABEL])]
    # A missing file is reported by the preprocessing.
    stats = [file.stat() for file in files if file.exists()]
    seen = [(stat.st_mtime_ns, stat.st_size) for stat in stats]
    return hashlib.sha256(repr((record, seen, plan)).encode()).hexdigest()[:32]


def preprocessed_bytes(case: Case, plan: Plan) -> int:
    """The size of a case ready for training: float32 images, one byte of label a voxel."""
    shape = preprocessed_shape(read_header(case.images[0]).grid, plan)
    voxels = math.prod(map(max, shape, plan.patch_size))
    return voxels * (4 * len(plan.channels) + 1)


def patch_stream(
    volumes: Sequence[Any], cases: Sequence[Case], config: Config, plan: Plan
) -> PatchStream:
    """The run's stream of augmented patches."""
    names = [case.name for case in cases]
    return PatchStream(volumes, names, augmentation(config, plan), config.train.seed)


def validation_volumes(cases: Sequence[Case], plan: Plan) -> MonaiDataset:
    """Preprocessed validation cases, whole, read anew each time (they would crowd the cache)."""
    return MonaiDataset([record(case) for case in cases], preprocessing(plan, labelled=True))
