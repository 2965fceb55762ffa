"""From a checkpoint and new volumes to label volumes in the volumes' own geometry.

`Predictor.run` goes from files to files, `Predictor.segment` and `Predictor.probabilities` from a
file or an array to an array; both take the same way through windows and slabs.

A volume is never held whole. It is read in slabs and predicted by windows, and every slab that no
window can touch any more is resampled back, turned into labels and written.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from seg3d.common.device import choose_device, compute_dtype
from seg3d.common.errors import UserError
from seg3d.common.files import put_in_place, stamp
from seg3d.common.notes import Note
from seg3d.common.ranks import ALONE, Ranks
from seg3d.common.sole_writer import sole_writer
from seg3d.config import Config
from seg3d.data.case_reader import CaseReader
from seg3d.data.images import Image
from seg3d.data.open_case import open_case
from seg3d.io import SEGY, create_volume, ram_of, require_replaceable, suffix
from seg3d.io.convert import blocks
from seg3d.io.regions import Region, lengths
from seg3d.plan import Plan, divisors_of
from seg3d.prediction.decisions import Decision
from seg3d.prediction.inputs import Given, images_of
from seg3d.prediction.jobs import Job, require_room_for_probabilities
from seg3d.prediction.legend import require_same_legend, write_legend
from seg3d.prediction.models import load_model
from seg3d.prediction.scores import WindowScores
from seg3d.prediction.streaming import Advance, Streaming, limit_of
from seg3d.prediction.tiling import Tiling
from seg3d.prediction.unfinished import Task, Unfinished

# Bytes that go from what is unfinished to the output.
WRITTEN_AT_ONCE = 2**24


class Output(NamedTuple):
    """A file to be written, and what its channels `(C,)` hold where the network sees nothing."""

    path: Path
    outside: np.ndarray


def unheard(windows: int) -> None:
    """For those who do not want to be told of progress."""


def _dtype(config: Config, plan: Plan, device: torch.device) -> torch.dtype:
    """In which the network computes; one of nnU-Net's in what it was trained in."""
    if config.train.amp == "off":
        return torch.float32
    return compute_dtype("fp16" if plan.nnunet and device.type == "cuda" else "auto", device)


class Predictor:
    """A trained network with all that is needed to apply it to files and arrays.

    Args:
        network: takes `(B, C, D, H, W)`, gives class scores; of several, in a ``ModuleList``, the
            scores are averaged.
        config: of the run that trained it.
        plan: of that run.
        device: where to compute.
        memory: bytes of RAM that the process may take in all, and of the GPU's memory that it may
            take besides what is taken already; by default a share of what is free.
        ranks: the processes that share the work.
    """

    def __init__(
        self,
        network: nn.Module,
        config: Config,
        plan: Plan,
        device: torch.device,
        memory: float | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        self.network = network.to(device).eval()
        self.config = config
        self.plan = plan
        self.device = device
        self.memory = memory
        self.ranks = ranks or ALONE
        self.decision = Decision(plan)
        self.dtype = _dtype(config, plan, device)
        mirror_axes = config.augment.flip.axes if config.predict.mirror else ()
        self.streaming = Streaming(
            WindowScores(self.network, mirror_axes, self.dtype),
            config.predict,
            plan,
            divisors_of(config, plan),
            device,
            limit_of(memory, device, self.ranks.local_count),
        )

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        device: torch.device | str = "auto",
        overrides: tuple[str, ...] = (),
        memory: float | None = None,
        ranks: Ranks | None = None,
    ) -> Predictor:
        """Load the network of a checkpoint, or the networks of a model of nnU-Net's.

        Args:
            path: the checkpoint file; a run folder, whose best network is taken; or the folder of
                a model of nnU-Net's.
            device: where to compute; a name is one that `choose_device` knows.
            overrides: ``key=value`` changes of keys under ``predict``.
            memory: as for the class.
            ranks: as for the class.

        Raises:
            UserError: if there is no such file or device, if it holds nothing that can be used, or
                if another key is set.
        """
        if isinstance(device, str):
            device = choose_device(device)
        network, config, plan = load_model(Path(path), overrides)
        return cls(network, config, plan, device, memory, ranks)

    def run(
        self,
        job: Job,
        *,
        probabilities: bool = False,
        resume: bool = False,
        advance: Advance = unheard,
        alone: bool = False,
    ) -> None:
        """Make one prediction and write it.

        Until it is finished, what has been done lies in a hidden folder beside the output (see
        `seg3d.prediction.unfinished`). It stays there if the process ends, but not if the images
        turn out to be unusable.

        Args:
            job: what to predict, and where to.
            probabilities: write the class probabilities too, a channel for each; in SEG-Y, which
                has one number for a sample, that of the second of two classes.
            resume: go on with what is unfinished, and leave alone what is finished.
            advance: told the number of windows that have just been done.
            alone: this process makes all of it, while others make other predictions; by default
                all of them have to call this, and share the windows.

        Raises:
            UserError: if the volume cannot be used, the memory does not suffice, the disk is full,
                the format cannot hold so many probabilities, what has the output's name cannot be
                replaced, another process is writing it, or what is unfinished was begun in another
                way.
        """
        if probabilities:
            require_room_for_probabilities([job], self.plan)
        outputs = self._outputs(job, probabilities)
        for output in outputs.values():
            require_replaceable(output.path)
        require_same_legend(job.legend, self.plan)
        with self.sole_writer([job], probabilities=probabilities):
            self._make(job, outputs, resume, advance, ALONE if alone else self.ranks)

    def sole_writer(
        self, jobs: Iterable[Job], *, probabilities: bool = False
    ) -> AbstractContextManager[None]:
        """Keep others from writing the outputs of jobs, lest a later job's are taken meanwhile.

        Args:
            jobs: to be run within the block.
            probabilities: as for `run`.
        """
        if not self.ranks.first:
            return nullcontext()
        return sole_writer(
            *(one.path for job in jobs for one in self._outputs(job, probabilities).values())
        )

    def _make(
        self,
        job: Job,
        outputs: dict[str, Output],
        resume: bool,
        advance: Advance,
        ranks: Ranks,
    ) -> None:
        unfinished = Unfinished(job.output)
        if resume and not unfinished.exists and all(one.path.exists() for one in outputs.values()):
            # A process may have been killed while it removed the rest.
            unfinished.discard()
            write_legend(job.legend, self.plan)
            alone = ranks.count == 1
            advance(self.windows(job, probabilities="probabilities" in outputs, alone=alone))
            return
        with open_case(job.images, self.plan, read_ahead=True) as case:
            task = self._agree(case, job, unfinished, resume, outputs, ranks)
            try:
                done = self._fill(case, task, unfinished, advance, ranks)
            except UserError:
                unfinished.discard()
                raise
            if case.grid_map.cropped:
                # What `windows` has counted, which does not read voxels.
                asked, alone = "probabilities" in outputs, ranks.count == 1
                advance(max(0, self.windows(job, probabilities=asked, alone=alone) - done))
            ranks.wait()
            if ranks.first:
                # Another process may have written predictions beside this one meanwhile.
                require_same_legend(job.legend, self.plan)
                packing = unfinished.packing()
                for name, output in outputs.items():
                    whole = packing / output.path.name
                    _write(whole, unfinished, name, case, output.outside)
                    put_in_place(whole, output.path)
                write_legend(job.legend, self.plan)
                unfinished.discard()

    def windows(
        self,
        job: Job,
        *,
        probabilities: bool = False,
        note: Callable[[Note], object] = lambda note: None,
        alone: bool = False,
    ) -> int:
        """How many windows this process does for a job, for a progress bar.

        It may be more than there are once the volume is cropped, by the rules of nnU-Net.

        Args:
            job: as for `run`.
            probabilities: as for `run`.
            note: told what is odd about the files.
            alone: as for `run`.

        Raises:
            UserError: if the volume cannot be used, the memory does not suffice, or values of the
                predictions beside it have another meaning.
        """
        require_same_legend(job.legend, self.plan)
        with open_case(job.images, self.plan, read_ahead=True, header_only=True) as case:
            for one in case.header.notes:
                note(one)
            tiling = self._tiling(case, self._outputs(job, probabilities))
            ranks = ALONE if alone else self.ranks
            return self.streaming.count(case, tiling, self.streaming.tiles(case, tiling, ranks))

    def segment(
        self,
        image: Given,
        advance: Advance = unheard,
        *,
        spacing: Sequence[float] | None = None,
        affine: ArrayLike | None = None,
    ) -> np.ndarray:
        """Labels of a volume, on its own grid, in RAM: the voxels that `run` would write.

        Args:
            image: a file, or one file per channel; or an array, `(X, Y, Z)` or `(C, X, Y, Z)`, or
                what `seg3d.io.read_volume` gives.
            advance: told the number of windows that have just been done.
            spacing: of an array, mm along its axes, which point to the right, to the front and
                upwards; 1 mm by default.
            affine: of an array, `(4, 4)`, voxel index to world millimetres (RAS+), in place of the
                spacing.

        Returns:
            `(X, Y, Z)`, label values, in the order of the axes of the file or array.

        Raises:
            UserError: if the volume cannot be used, or the memory does not suffice.
        """

        def decide(found: Tensor) -> np.ndarray:
            return self.decision.labels(found)[None]

        images = images_of(image, spacing, affine)
        outside = np.zeros(1, self.decision.values.dtype)
        (labels,) = self._in_ram(images, outside, decide, advance)
        return labels

    def probabilities(
        self,
        image: Given,
        advance: Advance = unheard,
        *,
        spacing: Sequence[float] | None = None,
        affine: ArrayLike | None = None,
    ) -> np.ndarray:
        """Class probabilities of a volume, on its own grid, in RAM.

        Arguments and errors are as for `segment`.

        Returns:
            `(K, X, Y, Z)` float32, in the order of the axes of the file or array. Class k is
            ``plan.classes[k]``.
        """
        images, decision = images_of(image, spacing, affine), self.decision
        return self._in_ram(images, decision.outside, decision.probabilities, advance)

    def _in_ram(
        self,
        images: Sequence[Image],
        outside: np.ndarray,
        decide: Callable[[Tensor], np.ndarray],
        advance: Advance,
    ) -> np.ndarray:
        """What ``decide`` makes of slabs `(K, d, h, w)`, `(C, X, Y, Z)`; `(C,)` is around them."""
        with open_case(images, self.plan, read_ahead=True) as case:
            shape = (len(outside), *case.header.grid.shape)
            tiling = self._tiling(case, {}, math.prod(shape) * outside.itemsize)
            self.streaming.measure(case, tiling)
            result = np.empty(shape, outside.dtype)
            if case.grid_map.cropped:
                result[...] = outside[:, None, None, None]
            for tile in tiling.tiles(slice(0, case.grid_map.stored[0])):
                for region, found in self.streaming.found(case, tiling, tile, advance):
                    there = (slice(None), *case.grid_map.in_file(region))
                    result[there] = case.grid_map.in_file_order(decide(found))
                    del found
            return result

    def labels(self, classes: np.ndarray) -> np.ndarray:
        """The values of the training labels that stand for class numbers.

        Args:
            classes: numbers of the plan's parts, of any shape.

        Returns:
            Values of that shape, in the smallest common integer type that holds them all.
        """
        return self.decision.values[classes]

    def _outputs(self, job: Job, probabilities: bool) -> dict[str, Output]:
        outputs = {"labels": Output(job.output, np.zeros(1, self.decision.values.dtype))}
        if probabilities:
            outputs["probabilities"] = Output(job.probabilities, self.decision.outside)
        return outputs

    def _agree(
        self,
        case: CaseReader,
        job: Job,
        unfinished: Unfinished,
        resume: bool,
        outputs: dict[str, Output],
        ranks: Ranks,
    ) -> Task:
        """Begin the task, or find how it was begun; all processes come to the same."""
        identity = {
            "images": [stamp(path) for path in job.images],
            "network": self._fingerprint,
            "predict": self.config.predict.model_dump(mode="json"),
            "probabilities": "probabilities" in outputs,
            "precision": str(self.dtype),
            "device": self.device.type,
            "memory": self.memory,
        }
        if ranks.first and not (resume and unfinished.exists):
            tiling = self._tiling(case, outputs)
            self.streaming.measure(case, tiling)
            arrays = {name: (one.outside.dtype, len(one.outside)) for name, one in outputs.items()}
            unfinished.begin(Task(identity, tiling, case.moments), case.grid_map.stored, arrays)
        ranks.wait()
        return unfinished.task(identity)

    def _fill(
        self,
        case: CaseReader,
        task: Task,
        unfinished: Unfinished,
        advance: Advance,
        ranks: Ranks,
    ) -> int:
        """Write all that is left of this process's share, of so many windows."""
        case.moments = task.moments
        tiles = list(self.streaming.tiles(case, task.tiling, ranks))
        left = [region for tile in tiles for region in unfinished.left(tile)]
        tiling = task.tiling
        windows = self.streaming.count(case, tiling, tiles)
        advance(windows - self.streaming.count(case, tiling, left))
        for region in left:
            self._fill_region(case, task, unfinished, region, advance)
        return windows

    def _fill_region(
        self, case: CaseReader, task: Task, unfinished: Unfinished, region: Region, advance: Advance
    ) -> None:
        written: list[Region] = []

        def note() -> None:
            if written:
                done = slice(written[0][0].start, written[-1][0].stop), *region[1:]
                unfinished.note(done, self.ranks.rank)
                written.clear()

        def next_windows(count: int) -> None:
            # Once for each plane of windows, since waiting for the disk takes time.
            note()
            advance(count)

        for part, found in self.streaming.found(case, task.tiling, region, next_windows):
            unfinished.write("labels", part, self.decision.labels(found)[None])
            if task.identity["probabilities"]:
                unfinished.write("probabilities", part, self.decision.probabilities(found))
            written.append(part)
            # It may be a view of a slab, which is not to be held while the next is made.
            del found
        note()

    def _tiling(self, case: CaseReader, outputs: Mapping[str, Output], result: int = 0) -> Tiling:
        """How the work on a case is cut, if ``result`` bytes of RAM are for what comes of it."""
        files = sum(
            ram_of(one.path, case.header.grid.shape, one.outside.nbytes) for one in outputs.values()
        )
        labels = self.decision.values.itemsize
        return self.streaming.tiling(case, labels=labels, files=files, result=result)

    @cached_property
    def _fingerprint(self) -> str:
        """Of all that the network is made of."""
        digest = hashlib.sha256(self.plan.model_dump_json().encode())
        for name, tensor in self.network.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()


def _write(
    path: Path, unfinished: Unfinished, name: str, case: CaseReader, outside: np.ndarray
) -> None:
    """Write an array, which is in streaming order, to the file that it shall be.

    Of two channels that add up to one, SEG-Y gets the second. What is not in the array, as the
    network does not see it, is as ``outside``.
    """
    grid_map = case.grid_map
    dtype, channels = outside.dtype, len(outside)
    written = slice(-1, None) if suffix(path) in SEGY else slice(None)
    with create_volume(path, case.header, dtype, len(range(channels)[written])) as volume:
        slow = {0} if volume.slow_axis is None else {0, grid_map.order.index(volume.slow_axis)}
        for region in blocks(grid_map.whole, slow, dtype.itemsize * channels, WRITTEN_AT_ONCE):
            voxels = np.empty((channels, *lengths(region)), dtype)
            stored, place = grid_map.within(region)
            if lengths(stored) != lengths(region):
                voxels[...] = outside[:, None, None, None]
            if min(lengths(stored)) > 0:
                voxels[:, *place] = unfinished.read(name, stored)
            volume.write(grid_map.in_whole_file(region), grid_map.in_file_order(voxels[written]))
