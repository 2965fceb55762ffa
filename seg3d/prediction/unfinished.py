"""A prediction that is being made: what has been written lies beside its output until all has.

``out/liver.nii.gz`` is made in the folder ``out/.liver.nii.gz.unfinished``, whose arrays need not
be packed, can be written in any order and by several processes, and survive the death of them
all. What a process has written it notes down after it is safely on the disk.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap

from seg3d.common.errors import UserError
from seg3d.common.files import (
    NewFolders,
    atomic_write,
    full_disk_explained,
    no_entry_explained,
    reserve,
)
from seg3d.common.sizes import readable
from seg3d.data.intensity import Moments
from seg3d.geometry import Shape3
from seg3d.io.regions import Region
from seg3d.prediction.tiling import Tiling


@dataclass(frozen=True)
class Task:
    """What is being predicted and how; the same task gives the same bytes.

    Attributes:
        identity: of images, network and settings, in names and numbers.
        tiling: how the work is cut.
        moments: of the intensities, per channel.
    """

    identity: dict[str, Any]
    tiling: Tiling
    moments: list[Moments]


class Unfinished:
    """The folder of a prediction that is being made.

    Args:
        output: the file that is to be.

    Attributes:
        folder: beside ``output``.
    """

    def __init__(self, output: Path) -> None:
        self.folder = output.with_name(f".{output.name}.unfinished")
        self._task = self.folder / "task.json"
        self._above: NewFolders | None = None

    @property
    def exists(self) -> bool:
        return self._task.is_file()

    def begin(self, task: Task, shape: Shape3, arrays: dict[str, tuple[np.dtype, int]]) -> None:
        """Make the folder, in place of one that may be there, and room for the arrays.

        Args:
            task: to be remembered.
            shape: of the arrays.
            arrays: number type and number of channels of each.

        Raises:
            UserError: if the disk has too little space; then nothing is left behind.
        """
        self.discard()
        self._above = NewFolders(self.folder.parent)
        with no_entry_explained(self.folder.parent):
            self.folder.mkdir()
        try:
            for name, (dtype, channels) in arrays.items():
                path = self._array(name)
                whole = (channels, *shape)
                # Only the header is written by this; the voxels are a hole.
                array = open_memmap(path, "w+", dtype, whole)
                size = array.offset + array.nbytes
                del array
                with path.open("r+b") as file:
                    reserve(file, size, path)
            content = asdict(task)
            text = json.dumps({"digest": _digest(content), **content})
            with atomic_write(self._task) as temporary:
                temporary.write_text(text, encoding="utf-8")
        except BaseException:
            self.discard()
            raise

    def task(self, identity: dict[str, Any]) -> Task:
        """The task that was begun.

        Args:
            identity: of the task to go on with.

        Raises:
            UserError: if that is not the same, or the note of it is damaged.
        """
        with self._damage_explained():
            stored = dict(json.loads(self._task.read_text(encoding="utf-8")))
            if stored.pop("digest") != _digest(stored):
                raise ValueError("task.json is not as it was written")
        begun = stored["identity"]
        # What JSON makes of tuples and numbers, it is to make of both.
        asked = json.loads(json.dumps(identity))
        if changed := [key for key in begun | asked if begun.get(key) != asked.get(key)]:
            raise UserError(
                f"--resume: the prediction in {self.folder} was begun in another way",
                given="; ".join(_in_words(key, asked.get(key)) for key in changed),
                legal="; ".join(_in_words(key, begun.get(key)) for key in changed),
                fix="leave --resume out to begin anew",
            )
        cut = stored["tiling"]
        second, third = map(tuple, cut.pop("borders"))
        x, y, z = cut.pop("window")
        moments = [Moments(**one) for one in stored["moments"]]
        return Task(begun, Tiling((x, y, z), (second, third), **cut), moments)

    def write(self, name: str, region: Region, array: np.ndarray) -> None:
        """Store the voxels `(C, d, h, w)` of a region of an array."""
        with self._damage_explained():
            self._map(name)[:, *region] = array

    def read(self, name: str, region: Region) -> np.ndarray:
        """The voxels `(C, d, h, w)` of a region of an array."""
        with self._damage_explained():
            part: np.ndarray = self._map(name)[:, *region].copy()
            return part

    def dtype(self, name: str) -> np.dtype:
        """The number type of an array."""
        return self._map(name).dtype

    def channels(self, name: str) -> int:
        """C of an array."""
        return len(self._map(name))

    @contextmanager
    def _damage_explained(self) -> Iterator[None]:
        try:
            yield
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise UserError(
                f"{self.folder} is damaged", given=error, fix="leave --resume out to begin anew"
            ) from error

    def _map(self, name: str) -> np.ndarray:
        # For a moment only, since mapped pages count as memory of the process.
        return open_memmap(self._array(name), "r+")

    def note(self, region: Region, rank: int) -> None:
        """Have the disk keep what was written, then note that a region is done.

        Args:
            region: of every array.
            rank: of this process; each has notes of its own.

        Raises:
            UserError: if the disk has no space left for the note.
        """
        for path in self.folder.glob("*.npy"):
            with path.open("r+b") as file:
                os.fsync(file.fileno())
        with (
            full_disk_explained(self.folder),
            (self.folder / f"done_{rank}.jsonl").open("a", encoding="utf-8") as file,
        ):
            file.write(json.dumps([(part.start, part.stop) for part in region]) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def left(self, region: Region) -> list[Region]:
        """What of a region is not done, cut along the first axis."""
        done = sorted(
            (start, stop)
            for path in self.folder.glob("done_*.jsonl")
            for (start, stop), *cross in map(_noted, path.read_bytes().splitlines())
            if cross == [[part.start, part.stop] for part in region[1:]]
        )
        left, reached = [], region[0].start
        for start, stop in [*done, (region[0].stop, region[0].stop)]:
            if reached < min(start, region[0].stop):
                left.append((slice(reached, min(start, region[0].stop)), *region[1:]))
            reached = max(reached, stop)
        return left

    def packing(self) -> Path:
        """An empty folder for outputs until they are whole; what lay there is removed."""
        folder = self.folder / "packing"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    def discard(self) -> None:
        """Remove the folder, and those above it that were made for it and are empty."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._above is not None:
            self._above.discard()

    def _array(self, name: str) -> Path:
        return self.folder / f"{name}.npy"


def _noted(line: bytes) -> list[list[int]]:
    """The first and last voxel of a region along each axis; nothing, if the line is damaged."""
    try:
        noted = [[int(first), int(last)] for first, last in json.loads(line)]
    except (TypeError, ValueError):
        # The last line of a process that was killed may be half a line.
        noted = []
    return noted or [[0, 0]]


def _in_words(key: str, value: Any) -> str:
    """A part of a task as a person gave it."""
    if key == "memory":
        return "no --memory" if value is None else f"--memory {readable(value).replace(' ', '')}"
    return f"{key} {value}"


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
