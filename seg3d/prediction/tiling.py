"""How the work on a volume is cut so that it fits into memory.

The volume is streamed along its first axis, so its length costs nothing. Its cross-section does:
image and sums are held over the thickness of a window. If that is too much, the cross-section is
cut into tiles that are streamed one after the other, and windows that reach over a border between
tiles are computed for both. Of the cuts that fit, the one with the least work is taken.

All regions here are in streaming order (see `seg3d.data.grid_map`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from seg3d.common.errors import UserError
from seg3d.common.sizes import readable
from seg3d.data.grid_map import GridMap
from seg3d.geometry import Shape3
from seg3d.io.regions import Region, whole
from seg3d.io.resampling import Resampling
from seg3d.prediction.scores import SCORES_AT_ONCE
from seg3d.prediction.windows import Windows

FLOAT, DOUBLE = 4, 8
# Windows per forward pass where the config leaves it open. A GPU that is given small windows one by
# one waits for the next. On a CPU, which one keeps busy, two would be rounded
# otherwise: labels would depend on the memory where scores are nearly equal.
MOST_WINDOWS_ON_GPU, MOST_WINDOWS_ON_CPU = 8, 1
# Of the limit, that voxels in passing may take: those being read, or resampled and written.
IN_PASSING = 1 / 16
# What Python and the libraries take, of which PyTorch loads and generates some with its first
# operations: 540 MiB with a tiny volume, up to 610 with several threads and all that there is to
# be written (x86-64, PyTorch 2.13 for CPUs). A number, not a
# measurement, so that the same limit always makes the same cut.
PROCESS = 640 * 2**20


@dataclass(frozen=True)
class Memory:
    """Bytes, to be had or needed.

    Attributes:
        ram: of the process, in all.
        gpu: in tensors on the GPU on which the network computes; 0 if it computes on a CPU.
    """

    ram: float
    gpu: float = 0

    def holds(self, needed: Memory) -> bool:
        return needed.ram <= self.ram and needed.gpu <= self.gpu

    def __str__(self) -> str:
        on_gpu = f" and {readable(self.gpu)} of the GPU's memory" if self.gpu else ""
        return f"{readable(self.ram)} of RAM{on_gpu}"


@dataclass(frozen=True, eq=False)
class Work:
    """All that decides on how much memory a volume takes.

    Attributes:
        grid_map: the way between the file's grid and the network's.
        windows: of the volume, on the network's grid.
        channels: of the image.
        classes: of the scores.
        stored: bytes of a voxel of the image in its files.
        chunk: voxels of the files that can only be read together.
        written: bytes of a voxel of all that is written.
        network: bytes of the network's parameters.
        per_window: bytes that the network needs besides for each window of a batch.
        files: bytes of RAM that open files take, and arrays that are read or made.
        on_gpu: whether the network computes on a GPU.
        passes: over each window, whose scores are added up.
    """

    grid_map: GridMap
    windows: Windows
    channels: int
    classes: int
    stored: int
    chunk: Shape3
    written: int
    network: int
    per_window: int
    files: int
    on_gpu: bool
    passes: int = 1

    @cached_property
    def slices_to_read(self) -> int:
        """The most slices of the file that one slice of the network's grid is made from."""
        return _slices_for_one(self.grid_map.forward)

    @cached_property
    def slices_to_write(self) -> int:
        """The most slices of the network's grid that one slice of the file is made from."""
        return _slices_for_one(self.grid_map.backward)


@dataclass(frozen=True)
class Tiling:
    """The cut that was chosen.

    Attributes:
        window: voxels of a window, on the network's grid.
        borders: where tiles begin and end along the second and the third axis of the file's grid.
        window_batch: windows per forward pass, at most.
        sums_on_gpu: whether image and sums are held on the GPU.
        slices_read: of the network's grid, at once.
        slices_written: of the file's grid, at once.
        network_streamed: whether the network goes through a window in slabs.
    """

    window: Shape3
    borders: tuple[tuple[int, ...], tuple[int, ...]]
    window_batch: int
    sums_on_gpu: bool
    slices_read: int
    slices_written: int
    network_streamed: bool = False

    def tiles(self, part: slice) -> Iterator[Region]:
        """The tiles of a part of the file's grid along the first axis."""
        for second, third in itertools.product(*map(itertools.pairwise, self.borders)):
            yield part, slice(*second), slice(*third)


def choose_tiling(
    work: Work, limit: Memory, window_batch: int | Literal["auto"], name: str
) -> Tiling:
    """The cut with the least work that fits, with the largest batch of windows that does.

    Args:
        work: what is to be done.
        limit: what it may take.
        window_batch: most windows per forward pass; see `MOST_WINDOWS_ON_GPU` for ``auto``.
        name: of the volume, for the message.

    Raises:
        UserError: if nothing fits; it says how much memory would do, and how much does it best.
    """
    if window_batch == "auto":
        window_batch = MOST_WINDOWS_ON_GPU if work.on_gpu else MOST_WINDOWS_ON_CPU
    second, third = ([_cut(work, axis, n) for n in _numbers(work, axis)] for axis in (1, 2))
    cuts = sorted(
        itertools.product(second, third), key=lambda pair: pair[0].windows * pair[1].windows
    )
    least: list[Memory] = []
    for pair, sums_on_gpu in itertools.product(cuts, (True, False) if work.on_gpu else (False,)):
        use = _Use(work, pair, sums_on_gpu)
        if limit.holds(use.total(1)):
            batch = max(b for b in range(1, window_batch + 1) if limit.holds(use.total(b)))
            return use.tiling(limit, batch)
        least.append(use.total(1))
    raise UserError(
        f"{name}: too little memory for windows of {list(work.windows.size)} voxels",
        given=limit,
        legal=f"at least {min(least, key=lambda one: max(one.ram, one.gpu))}",
        # The first cut has no tiles.
        fix=f"raise --memory; with {least[0]} no window is computed twice",
    )


def borders(grid_map: GridMap, windows: Windows, axis: int, parts: int) -> tuple[int, ...]:
    """Where to cut the file's grid along an axis so that about as many windows see each part.

    Args:
        grid_map: whose file's grid is to be cut.
        windows: of the volume, on the network's grid.
        axis: to be cut.
        parts: at most; there are fewer if the volume is too small.

    Returns:
        Both ends of the axis and what lies between parts, ascending.
    """
    parts = min(parts, len(windows.starts[axis]))
    starts, length = windows.starts[axis], grid_map.stored[axis]
    scale, offset = grid_map.backward.matrix[axis, axis], grid_map.backward.offset[axis]
    faces = (starts[round(number * len(starts) / parts)] for number in range(1, parts))
    # The last slice in front of the border is made from what lies in front of the window's face.
    inner = {math.floor((face - 1 - offset) / scale) + 1 for face in faces}
    return (0, *sorted(one for one in inner if 0 < one < length), length)


@dataclass(frozen=True)
class _Cut:
    """An axis cut into tiles.

    Attributes:
        borders: both ends and what lies between tiles.
        windows: along the axis, in all tiles together.
        stored: most voxels of the file that a tile reads, along the axis.
        seen: most voxels of the network's grid that its windows see.
        scored: most voxels of the network's grid whose scores it needs.
        written: most voxels of the file that it writes.
    """

    borders: tuple[int, ...]
    windows: int
    stored: int
    seen: int
    scored: int
    written: int


def _numbers(work: Work, axis: int) -> list[int]:
    """Of tiles: 1, 2, 3, 4, 6, 8, 12, ... up to one for each window."""
    most = len(work.windows.starts[axis])
    usual = {few << power for power in range(most.bit_length()) for few in (1, 3)}
    return sorted({number for number in usual if number <= most} | {most})


def _cut(work: Work, axis: int, parts: int) -> _Cut:
    edges = borders(work.grid_map, work.windows, axis, parts)
    windows, sizes = 0, []
    for start, stop in itertools.pairwise(edges):
        x, y, z = (
            slice(start, stop) if axis == other else part
            for other, part in enumerate(whole(work.grid_map.stored))
        )
        scored = work.grid_map.backward.needed((x, y, z))
        touching = work.windows.touching(scored)
        stored = work.grid_map.forward.needed(touching.extent)
        windows += len(touching.starts[axis])
        sizes.append([_length(one[axis]) for one in (stored, touching.extent, scored, (x, y, z))])
    return _Cut(edges, windows, *(max(column) for column in zip(*sizes, strict=True)))


class _Use:
    """The memory that a cut takes."""

    def __init__(self, work: Work, cuts: tuple[_Cut, _Cut], sums_on_gpu: bool) -> None:
        self.work = work
        self.cuts = cuts
        self.sums_on_gpu = sums_on_gpu
        self.fixed = PROCESS + work.files + self._chunks_kept()
        seen, scored = cuts[0].seen * cuts[1].seen, cuts[0].scored * cuts[1].scored
        thickness = min(work.windows.size[0], work.grid_map.shape[0])
        self.held = FLOAT * (
            thickness * work.channels * seen
            # Besides, the weights of the slab being finished, and slices that wait for the next. A
            # single pass over a single window needs no sums.
            + (
                thickness * (work.classes + 1) * scored
                if work.windows.count * work.passes > 1
                else 0
            )
            + work.slices_to_write * work.classes * scored
        )
        # A slice in passing, at its largest; what it is made from, and the steps in between.
        y, z = (max(cut.stored, cut.seen, cut.scored, cut.written) for cut in cuts)
        steps = 4 if work.grid_map.backward.straight else 20
        self.read = (
            y
            * z
            * (work.slices_to_read * (2 * work.stored + steps * FLOAT * work.channels) + 3 * DOUBLE)
        )
        # A chunk is packed and unpacked, then its voxels are converted.
        voxels = math.prod(work.chunk)
        self.decoded = voxels * (3 * work.stored + FLOAT * work.channels) if voxels > 1 else 0
        self.written = (
            y
            * z
            * (work.slices_to_write * steps * FLOAT * work.classes + DOUBLE + 2 * work.written)
        )

    def total(self, window_batch: int) -> Memory:
        """The least that it can do with."""
        passing = max(self.read, self.written)
        in_ram, on_gpu = self._at_work(window_batch)
        if self.sums_on_gpu:
            return Memory(self.fixed + max(passing, self.decoded), self.held + max(on_gpu, passing))
        return Memory(self.fixed + self.held + max(in_ram, passing, self.decoded), on_gpu)

    def tiling(self, limit: Memory, window_batch: int) -> Tiling:
        """The cut, with as many slices at once as pay, or as take no more than the network does."""
        free = limit.ram - self.fixed
        in_ram, on_gpu = self._at_work(window_batch)
        if self.sums_on_gpu:
            most = max(IN_PASSING * limit.gpu, on_gpu)
            room = min(IN_PASSING * free, most, limit.gpu - self.held)
        else:
            room = min(max(IN_PASSING * free, in_ram), free - self.held)
        edges = self.cuts[0].borders, self.cuts[1].borders
        read, written = (max(1, int(room / one)) for one in (self.read, self.written))
        size = self.work.windows.size
        return Tiling(size, edges, window_batch, self.sums_on_gpu, read, written)

    def _at_work(self, window_batch: int) -> tuple[int, int]:
        """What a batch of windows takes of RAM and of the GPU's memory."""
        work = self.work
        depth, *cross = work.windows.size
        row = window_batch * work.classes * math.prod(cross)
        # Scores as the network makes them, and in float32.
        scores = 2 * FLOAT * min(max(SCORES_AT_ONCE, row), depth * row)
        network = work.network + work.per_window * window_batch + scores
        if not work.on_gpu:
            return network, 0
        image = FLOAT * work.channels * depth * math.prod(cross) * window_batch
        return 0 if self.sums_on_gpu else image + scores, network

    def _chunks_kept(self) -> int:
        """What `seg3d.data.read_ahead` keeps."""
        work, (second, third) = self.work, self.cuts
        if math.prod(work.chunk) == 1:
            return 0
        slices = min(work.chunk[0], work.grid_map.stored[0])
        return FLOAT * work.channels * slices * second.stored * third.stored


def _slices_for_one(resampling: Resampling) -> int:
    _, y, z = whole(resampling.shape)
    slices = (slice(x, x + 1) for x in range(resampling.shape[0]))
    return max(_length(resampling.needed((x, y, z))[0]) for x in slices)


def _length(part: slice) -> int:
    return int(part.stop - part.start)
