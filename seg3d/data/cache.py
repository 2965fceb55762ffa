"""Preprocessed training cases, in RAM or on disk; patches cut from either are the same.

On disk a case is a folder: ``image.npy`` and ``label.npy``, which are mapped into memory whenever
a patch is cut, so that a patch costs the reading of its own pages; ``centres.npy``, where patches
may be centred; and ``about.json``. It appears under its name when it is complete.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any, TypeVar

import numpy as np
from filelock import FileLock

from seg3d.common.files import atomic_write, full_disk_explained, require_space
from seg3d.common.free_ram import free_ram
from seg3d.common.ranks import ALONE, Ranks
from seg3d.common.sizes import readable
from seg3d.config import Config
from seg3d.data.cases import Case
from seg3d.data.grid_map import GridMap, network_view
from seg3d.data.training_case import TrainingCase, padding
from seg3d.data.transforms import CENTRES, IMAGE, LABEL
from seg3d.data.workers import share_ram
from seg3d.geometry import Grid
from seg3d.io import Header, create_volume, open_volume, read_header
from seg3d.plan import Plan

T = TypeVar("T")

# Cases that are preprocessed at a time.
THREADS = 4
# Of what lies in the folder of a case; other versions are not read.
VERSION = 2


class Cache(ABC):
    """Preprocessed cases; what the random transforms start from.

    A case is a dictionary of ``image`` `(C, X, Y, Z)` float32, ``label`` `(1, X, Y, Z)` uint8, both
    in the network's orientation, and the voxels of `TrainingCase.centres`.

    Args:
        cases: with labels.
        plan: what to make of them.

    Attributes:
        sizes: bytes of each case.
        shared: whether other processes see what one has filled.
    """

    shared = False

    def __init__(self, cases: Sequence[Case], plan: Plan) -> None:
        self.cases = cases
        self.plan = plan
        self.sizes = [preprocessed_bytes(case, plan) for case in cases]

    def __len__(self) -> int:
        return len(self.cases)

    @abstractmethod
    def __getitem__(self, index: int) -> dict[str, Any]:
        """A case, when the cache has been filled."""

    @abstractmethod
    def has_labels(self, index: int) -> bool:
        """Whether any voxel of a case has a label, when the cache has been filled."""

    @abstractmethod
    def fill(self, advance: Callable[[], object] = lambda: None) -> None:
        """Preprocess all cases; ``advance`` is called after each.

        Raises:
            UserError: if a case cannot be used.
        """


def training_cache(
    cases: Sequence[Case], config: Config, plan: Plan, folder: Path, ranks: Ranks = ALONE
) -> Cache:
    """An empty cache: in RAM if the cases fit under ``data.cache`` and need be there but once.

    Else it is on disk, and processes that train together see the same one. In RAM each of them has
    its own, and together these have to fit.

    Args:
        cases: with labels.
        config: of the run.
        plan: of the run.
        folder: for a cache on disk.
        ranks: the processes that train together.

    Raises:
        UserError: if the disk has too little space.
    """
    limit = config.data.cache
    if limit == "auto":
        limit = free_ram() / 2
    in_ram = RamCache(cases, plan)
    fits = sum(in_ram.sizes) * ranks.local_count <= limit and share_ram(config)
    # What is free differs from one to the other.
    return in_ram if ranks.from_first(lambda: fits) else DiskCache(cases, plan, folder)


def preprocessed_bytes(case: Case, plan: Plan) -> int:
    """The size of a case ready for training: float32 images, one byte of label a voxel."""
    shape = GridMap.of(read_header(case.images[0]).grid, 0, plan).working
    return math.prod(padding(shape, plan.least_shape(shape))[0]) * (4 * len(plan.channels) + 1)


class RamCache(Cache):
    """Cases in RAM; processes that are forked after it was filled share it."""

    def __str__(self) -> str:
        return f"{readable(sum(self.sizes))} in RAM"

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._filled[index]

    def has_labels(self, index: int) -> bool:
        _, *labelled = self._filled[index][LABEL + CENTRES]
        return any(map(len, labelled))

    def fill(self, advance: Callable[[], object] = lambda: None) -> None:
        self._filled = list(_in_threads(partial(_in_ram, plan=self.plan), self.cases, advance))


class DiskCache(Cache):
    """Cases on disk; what is there already is used again, and what is of no use removed.

    Args:
        cases: with labels.
        plan: what to make of them.
        folder: of the cache; nothing else may use it.

    Raises:
        UserError: if the disk has too little space.
    """

    shared = True

    def __init__(self, cases: Sequence[Case], plan: Plan, folder: Path) -> None:
        super().__init__(cases, plan)
        self.folder = folder
        self.entries = [folder / _entry_name(case, plan) for case in cases]
        missing = [not entry.exists() for entry in self.entries]
        self._found = len(missing) - sum(missing)
        needed = sum(itertools.compress(self.sizes, missing))
        useless = sum(file.stat().st_size for entry in self._useless() for file in entry.iterdir())
        require_space(
            folder, needed - useless, "free some space, or put the run on another disk (--run)"
        )

    def __str__(self) -> str:
        found = f" ({self._found} of {len(self)} from before)" if self._found else ""
        return f"{readable(sum(self.sizes))} on disk{found}, in {self.folder}"

    def _useless(self) -> list[Path]:
        """Cases that have changed since, are of other plans, or were never finished."""
        return [path for path in self.folder.glob("*/") if path not in self.entries]

    def __getitem__(self, index: int) -> dict[str, Any]:
        entry, about = self.entries[index], self._about(index)
        image, label, centres = (
            np.load(entry / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            for name in ("image", "label", "centres")
        )
        turn = about["permutation"], about["flips"]
        # Channels come last in a file, unless there is only one.
        voxels = image[None] if image.ndim == 3 else np.moveaxis(image, -1, 0)
        return {
            IMAGE: network_view(voxels, *turn),
            LABEL: network_view(label[None], *turn),
            LABEL + CENTRES: [centres[a:b] for a, b in itertools.pairwise(about["centres"])],
        }

    def has_labels(self, index: int) -> bool:
        _, unlabelled, *_, total = self._about(index)["centres"]
        return bool(total > unlabelled)

    def _about(self, index: int) -> dict[str, Any]:
        text = (self.entries[index] / "about.json").read_text(encoding="utf-8")
        about: dict[str, Any] = json.loads(text)
        return about

    def fill(self, advance: Callable[[], object] = lambda: None) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        # Another process may be filling it; what that has made need not be made again.
        with FileLock(self.folder / ".lock"):
            for entry in self._useless():
                shutil.rmtree(entry)
            missing = [
                pair for pair in zip(self.cases, self.entries, strict=True) if not pair[1].exists()
            ]
            for _ in range(len(self) - len(missing)):
                advance()
            for _ in _in_threads(self._make, missing, advance):
                pass

    def _make(self, missing: tuple[Case, Path], over: Event) -> None:
        case, entry = missing
        unfinished = entry.with_name(f".{entry.name}")
        try:
            with full_disk_explained(entry):
                _on_disk(case, self.plan, unfinished, over)
                unfinished.rename(entry)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


def _entry_name(case: Case, plan: Plan) -> str:
    """Changes with the plan, and when a file of the case is written anew."""
    decided = repr((VERSION, case.stamp, plan.model_dump_json()))
    return f"{case.name}.{hashlib.sha256(decided.encode()).hexdigest()[:16]}"


def _in_ram(case: Case, over: Event, *, plan: Plan) -> dict[str, Any]:
    with TrainingCase(case, plan) as source:
        image = np.zeros((source.channels, *source.shape), np.float32)
        label = np.zeros((1, *source.shape), np.uint8)
        for region, voxels, numbers in _unless(over, source.blocks()):
            image[:, *region] = voxels
            label[:, *region] = numbers
        centres = source.centres(lambda region: label[:, *region])
        return {
            IMAGE: network_view(image, source.permutation, source.flips),
            LABEL: network_view(label, source.permutation, source.flips),
            LABEL + CENTRES: centres,
        }


def _on_disk(case: Case, plan: Plan, folder: Path, over: Event) -> None:
    with TrainingCase(case, plan) as source:
        header = Header(Grid(source.shape, np.eye(4)), source.channels, None)
        with (
            create_volume(folder / "image.npy", header, np.float32, source.channels) as image,
            create_volume(folder / "label.npy", header, np.uint8) as label,
        ):
            for region, voxels, numbers in _unless(over, source.blocks()):
                image.write(region, voxels)
                label.write(region, numbers)
        with open_volume(folder / "label.npy") as stored:
            centres = source.centres(stored.read)
        with (
            atomic_write(folder / "centres.npy") as temporary,
            temporary.open("wb") as file,
        ):
            np.save(file, np.concatenate(centres))
        about = {
            "permutation": source.permutation,
            "flips": source.flips,
            "centres": [0, *itertools.accumulate(map(len, centres))],
        }
        with atomic_write(folder / "about.json") as temporary:
            temporary.write_text(json.dumps(about), encoding="utf-8")


def _in_threads(
    work: Callable[[Any, Event], Any], things: Sequence[Any], advance: Callable[[], object]
) -> Iterator[Any]:
    """The results of some work; after an error or an interrupt, no thread goes on with its own."""
    over = Event()
    with ThreadPoolExecutor(max_workers=THREADS) as pool:
        try:
            for result in pool.map(work, things, itertools.repeat(over)):
                advance()
                yield result
        finally:
            over.set()


def _unless(over: Event, things: Iterator[T]) -> Iterator[T]:
    """The things, as long as they are wanted."""
    for thing in things:
        if over.is_set():
            raise CancelledError
        yield thing
