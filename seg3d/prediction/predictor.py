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
from seg3d.config import Config, config_from_tree, config_tree, keys_set
from seg3d.data.case_reader import CaseReader
from seg3d.data.images import Image
from seg3d.io import SEGY, create_volume, ram_of, require_replaceable, suffix
from seg3d.io.convert import blocks
from seg3d.io.regions import Region
from seg3d.plan import Plan, divisors_of
from seg3d.prediction.decisions import Decision
from seg3d.prediction.inputs import Given, images_of
from seg3d.prediction.jobs import Job, require_room_for_probabilities
from seg3d.prediction.legend import require_same_legend, write_legend
from seg3d.prediction.scores import WindowScores
from seg3d.prediction.streaming import Advance, Streaming, limit_of
from seg3d.prediction.tiling import Tiling
from seg3d.prediction.unfinished import Task, Unfinished
from seg3d.runs.checkpoint import find_checkpoint, load_checkpoint, trained_network

# Bytes that go from what is unfinished to the output.
WRITTEN_AT_ONCE = 2**24


class Output(NamedTuple):
    """A file to be written, its number type and its channels."""

    path: Path
    dtype: np.dtype
    channels: int


def unheard(windows: int) -> None:
    """For those who do not want to be told of progress."""


class Predictor:
    """A trained network with all that is needed to apply it to files and arrays.

    Args:
        network: takes `(B, C, D, H, W)`, gives class scores.
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
        self.dtype = compute_dtype("auto" if config.train.amp != "off" else "off", device)
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
        """Load the network of a checkpoint.

        Args:
            path: the checkpoint file, or a run folder, whose best network is taken.
            device: where to compute; a name is one that `choose_device` knows.
            overrides: ``key=value`` changes of keys under ``predict``.
            memory: as for the class.
            ranks: as for the class.

        Raises:
            UserError: if there is no such file or device, if the file is not a checkpoint of seg3d,
                or if another key is set.
        """
        if isinstance(device, str):
            device = choose_device(device)
        checkpoint = find_checkpoint(Path(path))
        stored, plan, content = load_checkpoint(checkpoint)
        config = config_from_tree(config_tree(stored), overrides, source="--set")
        for key in (key for override in overrides for key in keys_set(override)):
            if not key.startswith("predict."):
                raise UserError(
                    f"--set {key}: predictions go by what the network was trained with",
                    legal="keys under predict",
                )
        network = trained_network(checkpoint, config, plan, content)
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
        with CaseReader(job.images, self.plan, read_ahead=True) as case:
            task = self._agree(case, job, unfinished, resume, outputs, ranks)
            try:
                self._fill(case, task, unfinished, advance, ranks)
            except UserError:
                unfinished.discard()
                raise
            ranks.wait()
            if ranks.first:
                # Another process may have written predictions beside this one meanwhile.
                require_same_legend(job.legend, self.plan)
                packing = unfinished.packing()
                for name, output in outputs.items():
                    whole = packing / output.path.name
                    _write(whole, unfinished, name, case)
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
        with CaseReader(job.images, self.plan, read_ahead=True) as case:
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
        images = images_of(image, spacing, affine)
        (labels,) = self._in_ram(images, 1, self.decision.values.dtype, self._decided, advance)
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
        return self._in_ram(
            images_of(image, spacing, affine),
            len(self.plan.classes),
            np.dtype(np.float32),
            lambda found: found.cpu().numpy(),
            advance,
        )

    def _in_ram(
        self,
        images: Sequence[Image],
        channels: int,
        dtype: np.dtype,
        decide: Callable[[Tensor], np.ndarray],
        advance: Advance,
    ) -> np.ndarray:
        """What ``decide`` makes of the probabilities `(K, d, h, w)` of slabs, `(C, X, Y, Z)`."""
        with CaseReader(images, self.plan, read_ahead=True) as case:
            shape = (channels, *case.header.grid.shape)
            tiling = self._tiling(case, {}, math.prod(shape) * dtype.itemsize)
            self.streaming.measure(case, tiling)
            result = np.empty(shape, dtype)
            for tile in tiling.tiles(slice(0, case.grid_map.stored[0])):
                for region, found in self.streaming.probabilities(case, tiling, tile, advance):
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

    def _decided(self, probabilities: Tensor) -> np.ndarray:
        """Label values `(1, d, h, w)` from `(K, d, h, w)`."""
        return self.labels(self.decision.of_probabilities(probabilities).cpu().numpy())[None]

    def _outputs(self, job: Job, probabilities: bool) -> dict[str, Output]:
        outputs = {"labels": Output(job.output, self.decision.values.dtype, 1)}
        if probabilities:
            kind, classes = np.dtype(np.float32), len(self.plan.classes)
            outputs["probabilities"] = Output(job.probabilities, kind, classes)
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
            arrays = {name: (one.dtype, one.channels) for name, one in outputs.items()}
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
    ) -> None:
        """Write all that is left of this process's share."""
        case.moments = task.moments
        tiles = list(self.streaming.tiles(case, task.tiling, ranks))
        left = [region for tile in tiles for region in unfinished.left(tile)]
        tiling = task.tiling
        done = self.streaming.count(case, tiling, tiles) - self.streaming.count(case, tiling, left)
        advance(done)
        for region in left:
            self._fill_region(case, task, unfinished, region, advance)

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

        slabs = self.streaming.probabilities(case, task.tiling, region, next_windows)
        for part, probabilities in slabs:
            unfinished.write("labels", part, self._decided(probabilities))
            if task.identity["probabilities"]:
                unfinished.write("probabilities", part, probabilities.cpu().numpy())
            written.append(part)
            # It may be a view of a slab, which is not to be held while the next is made.
            del probabilities
        note()

    def _tiling(self, case: CaseReader, outputs: Mapping[str, Output], result: int = 0) -> Tiling:
        """How the work on a case is cut, if ``result`` bytes of RAM are for what comes of it."""
        files = sum(
            ram_of(one.path, case.header.grid.shape, one.dtype.itemsize * one.channels)
            for one in outputs.values()
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


def _write(path: Path, unfinished: Unfinished, name: str, case: CaseReader) -> None:
    """Write an array, which is in streaming order, to the file that it shall be.

    Of two channels that add up to one, SEG-Y gets the second.
    """
    grid_map = case.grid_map
    dtype, channels = unfinished.dtype(name), unfinished.channels(name)
    written = slice(-1, None) if suffix(path) in SEGY else slice(None)
    with create_volume(path, case.header, dtype, len(range(channels)[written])) as volume:
        slow = {0} if volume.slow_axis is None else {0, grid_map.order.index(volume.slow_axis)}
        for region in blocks(grid_map.stored, slow, dtype.itemsize * channels, WRITTEN_AT_ONCE):
            voxels = grid_map.in_file_order(unfinished.read(name, region)[written])
            volume.write(grid_map.in_file(region), voxels)
