"""How a network goes through volumes of any size: cut into tiles that a limit of memory allows."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
from torch import Tensor

from seg3d.common.errors import UserError
from seg3d.common.free_ram import free_ram
from seg3d.common.ranks import Ranks
from seg3d.config import PredictConfig
from seg3d.data.case_reader import CaseReader
from seg3d.geometry import Shape3
from seg3d.io.regions import Region
from seg3d.io.resampling import resample_slabs
from seg3d.losses import Scores
from seg3d.memory import inference_memory
from seg3d.plan import Plan
from seg3d.prediction.decisions import Decision
from seg3d.prediction.scores import WindowScores, reordered
from seg3d.prediction.tiling import Memory, Tiling, Work, borders, choose_tiling
from seg3d.prediction.window_sizes import window_sizes
from seg3d.prediction.windows import Windows, stream_scores

# Without --memory: of the RAM, and of the GPU's memory, that is free.
SHARE_OF_RAM, SHARE_OF_GPU = 0.5, 0.8

Advance = Callable[[int], object]


@dataclass(frozen=True)
class Streaming:
    """What it takes to go through a case, whatever becomes of its class probabilities.

    Attributes:
        scores: of windows, by the network.
        settings: overlap and batch of the windows.
        plan: of the run that trained the network.
        divisors: of the sides of what the network takes; None if it takes patches only.
        device: where to compute.
        limit: of the memory.
    """

    scores: WindowScores
    settings: PredictConfig
    plan: Plan
    divisors: Shape3 | None
    device: torch.device
    limit: Memory

    def windows(self, case: CaseReader, window: Shape3) -> Windows:
        """All windows of a size of a case, in streaming order."""
        grid_map = case.grid_map
        nnunet = self.plan.nnunet is not None
        windows = Windows.covering(grid_map.shape, window, self.settings.overlap, nnunet=nnunet)
        return windows.mirrored(grid_map.streamed_flips)

    def count(self, case: CaseReader, tiling: Tiling, regions: Iterable[Region]) -> int:
        """Windows that are needed for regions of the file's grid."""
        windows = self.windows(case, tiling.window)
        return sum(windows.touching(case.grid_map.backward.needed(one)).count for one in regions)

    def tiling(self, case: CaseReader, *, labels: int, files: int, result: int = 0) -> Tiling:
        """How the work on a case is cut.

        Args:
            case: open.
            labels: bytes of a label.
            files: bytes of RAM that the outputs take.
            result: bytes of RAM for what comes of it.

        Raises:
            UserError: if the memory does not suffice.
        """
        refused: UserError | None = None
        sizes = window_sizes(self.settings, self.plan, case.grid_map.working, self.divisors)
        # In slabs a window takes twice as long. Smaller ones, which overlap, take longer still.
        ways = (False, True) if self.scores.streamable else (False,)
        for size, streamed in itertools.product(sizes, ways):
            own, besides = self._network_bytes(size, streamed)
            work = Work(
                grid_map=case.grid_map,
                windows=self.windows(case, case.grid_map.streamed(size)),
                channels=len(self.plan.channels),
                classes=len(self.plan.classes),
                stored=case.stored_bytes,
                chunk=case.chunk,
                written=labels + 4 * len(self.plan.classes),
                network=own,
                per_window=besides,
                passes=len(self.scores.passes),
                files=case.ram + result + files,
                on_gpu=self.device.type == "cuda",
            )
            batch, name = self.settings.window_batch, str(case.images[0])
            try:
                tiling = choose_tiling(work, self.limit, batch, name)
                return replace(tiling, network_streamed=streamed)
            except UserError as error:
                refused = error
        assert refused is not None
        raise refused

    def tiles(self, case: CaseReader, tiling: Tiling, ranks: Ranks) -> Iterator[Region]:
        """The tiles of this process: of its share of the file's grid along the first axis.

        Args:
            case: open.
            tiling: how the work on it is cut.
            ranks: the processes that share it.
        """
        edges = borders(case.grid_map, self.windows(case, tiling.window), 0, ranks.count)
        if ranks.rank + 1 < len(edges):
            yield from tiling.tiles(slice(*edges[ranks.rank : ranks.rank + 2]))

    def measure(self, case: CaseReader, tiling: Tiling) -> None:
        """Let a case find the moments of its intensities, in reads that the limit allows."""
        case.slices_at_once = tiling.slices_read
        second, third = (len(edges) - 1 for edges in tiling.borders)
        case.measure((second, third))

    def found(
        self, case: CaseReader, tiling: Tiling, region: Region, advance: Advance
    ) -> Iterator[tuple[Region, Tensor]]:
        """What is to be decided on, `(K, d, h, w)`, of a region of the file's grid, slab by slab.

        Class probabilities; by the rules of nnU-Net, scores.
        """
        grid_map = case.grid_map
        case.device = self.device if tiling.sums_on_gpu else torch.device("cpu")
        case.slices_at_once = tiling.slices_read
        self.scores.stream(tiling.network_streamed)

        def turned(one: Callable[[Tensor], Scores], windows: Tensor) -> Scores:
            return reordered(one(grid_map.to_network(windows)), grid_map.from_network)

        slabs = stream_scores(
            [partial(turned, one) for one in self.scores.passes],
            case.read,
            self.windows(case, tiling.window),
            grid_map.backward.needed(region),
            window_batch=tiling.window_batch,
            device=self.device,
            advance=advance,
        )
        # A map, unlike a generator, holds no slab while it waits for the next.
        ready = map(partial(self._ready, slices_at_once=tiling.slices_written), slabs)
        return resample_slabs(grid_map.backward, region, ready, tiling.slices_written)

    def _ready(self, slab: tuple[int, Tensor], slices_at_once: int) -> tuple[int, Tensor]:
        """What is resampled in place of the scores `(K, d, h, w)` of a slab."""
        for part in slab[1].split(slices_at_once, dim=1):
            Decision(self.plan).make_ready(part)
        return slab

    def _network_bytes(self, size: Shape3, streamed: bool) -> tuple[int, int]:
        """Of the parameters, and of what one window of a size needs besides."""
        own = sum(one.nbytes for one in (*self.scores.parameters(), *self.scores.buffers()))
        if (size, streamed) not in self._peaks:
            shape = (1, len(self.plan.channels), *size)
            # A GPU that shares the RAM is counted as the CPU is.
            kind = "cuda" if self.device.type == "cuda" else "cpu"
            self.scores.stream(streamed)
            peak = inference_memory(self.scores, shape, device=kind, workspaces=True)
            self._peaks[size, streamed] = peak
        return own, self._peaks[size, streamed] - own

    @cached_property
    def _peaks(self) -> dict[tuple[Shape3, bool], int]:
        return {}


def limit_of(memory: float | None, device: torch.device, processes: int) -> Memory:
    """What a prediction may take.

    Args:
        memory: bytes, of RAM in all and of the GPU's memory besides what is taken already; None
            for a share of what is free.
        device: where it computes; a GPU is told the limit.
        processes: that share the RAM.
    """
    ram = memory or SHARE_OF_RAM * free_ram() / processes
    if device.type != "cuda":
        return Memory(ram)
    free, total = torch.cuda.mem_get_info(device)
    limit = Memory(ram, memory or SHARE_OF_GPU * free)
    # Convolutions choose a way that needs less workspace when they meet with the limit.
    taken = torch.cuda.memory_reserved(device) + limit.gpu
    torch.cuda.set_per_process_memory_fraction(min(taken / total, 1.0), device)
    return limit
