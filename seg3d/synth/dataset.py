"""Datasets of synthetic volumes, in the layout of nnU-Net."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import numpy as np

from seg3d.common.errors import RunFailed, UserError
from seg3d.common.files import atomic_write, full_disk_explained, require_folder
from seg3d.common.sole_writer import NOTES, sole_writer
from seg3d.common.stopping import end_with_parent, new_processes_leave_signals_to_parent
from seg3d.geometry import Grid, Shape3
from seg3d.io import Header, write_volume
from seg3d.synth.model import Survey, draw_model
from seg3d.synth.strata import FACIES

Kind = Literal["faults", "layers"]
Ending = Literal[".nii.gz", ".sgy"]

# Of a survey that could be: bins in m and samples in ms, somewhere east and north.
BIN, INTERVAL = 25.0, 4.0
CORNER = 500_000.0, 6_000_000.0
# Written last.
DESCRIPTION = "dataset.json"
# Less leaves no room for a wavelet and a throw.
SMALLEST = 16
LABELS = {
    "faults": {"background": 0, "fault": 1},
    "layers": {facies.name: number for number, facies in enumerate(FACIES)},
}


@dataclass(frozen=True)
class Part:
    """Volumes that are written side by side.

    Attributes:
        suffix: of the folders, ``Tr`` or ``Ts``.
        prefix: of the cases' names.
        number: that sets the random numbers of this part apart.
    """

    suffix: str
    prefix: str
    number: int


# Arguments of `_write_volume`.
Job = tuple[Path, Kind, Shape3, int, Part, int, Ending]


def description(kind: Kind, seed: int) -> str:
    """What ``dataset.json`` says of such a dataset."""
    return f"Synthetic seismic volumes (seg3d synth {kind}, seed {seed})"


def make_volume(kind: Kind, shape: Shape3, seed: Sequence[int]) -> Survey:
    """A random survey; the same seed gives the same one."""
    rng = np.random.default_rng(seed)
    return draw_model(rng, shape, units=kind == "layers").render(shape, rng)


def write_dataset(
    folder: Path,
    kind: Kind,
    *,
    count: int,
    shape: Shape3,
    seed: int,
    test: int = 0,
    ending: Ending = ".nii.gz",
    workers: int | None = None,
    advance: Callable[[], object] = lambda: None,
) -> None:
    """Write ``imagesTr``, ``labelsTr`` and, last, ``dataset.json``.

    Volume n depends on ``seed``, ``shape`` and n alone: not on the number of workers, and a larger
    dataset begins with the smaller one. Axes are inline, crossline, time. In SEG-Y, bins are 25 m
    wide and samples 4 ms apart; in NIfTI a voxel is 1 mm wide, for want of a unit that suits all
    three.

    Args:
        folder: an empty one, or one that does not exist yet.
        kind: what is labelled: ``faults``, or the facies of ``layers``.
        count: volumes for training.
        shape: `(X, Y, T)` voxels.
        seed: of the dataset.
        test: further volumes, in ``imagesTs`` and ``labelsTs``.
        ending: of the files, which says their format.
        workers: processes; None for as many as there are cores.
        advance: called after each volume, for a progress bar.

    Raises:
        UserError: if the folder holds something, another process is writing it, the volumes would
            be too small, or the disk has too little space; then nothing is left behind.
        RunFailed: if a worker process is killed; nothing is left behind either.
    """
    if min(shape) < SMALLEST:
        raise UserError(
            "the volumes are too small",
            given=" × ".join(map(str, shape)),
            legal=f"at least {SMALLEST} voxels along each axis",
        )
    require_folder(folder, "--out")
    parts = (Part("Tr", kind, 0), count), (Part("Ts", f"{kind}_test", 1), test)
    jobs: list[Job] = [
        (folder, kind, shape, seed, part, number, ending)
        for part, volumes in parts
        for number in range(1, volumes + 1)
    ]
    about = {
        "name": folder.name,
        "description": description(kind, seed),
        "channel_names": {"0": "amplitude"},
        "labels": LABELS[kind],
        "numTraining": count,
        "file_ending": ending,
    }
    with sole_writer(folder / DESCRIPTION):
        if any(one.name != NOTES for one in folder.iterdir()):
            raise UserError(
                f"{folder} is not an empty folder",
                fix="choose a folder that does not exist yet, or remove this one",
            )
        try:
            _write_volumes(jobs, workers, advance)
            with full_disk_explained(folder), atomic_write(folder / DESCRIPTION) as temporary:
                temporary.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        except BaseException:
            for part, _ in parts:
                for name in ("images", "labels"):
                    shutil.rmtree(folder / f"{name}{part.suffix}", ignore_errors=True)
            raise


def _write_volumes(jobs: list[Job], workers: int | None, advance: Callable[[], object]) -> None:
    with ProcessPoolExecutor(
        min(workers or os.cpu_count() or 1, len(jobs)),
        # Threads of libraries do not survive a fork.
        mp_context=get_context("spawn"),
        initializer=end_with_parent,
    ) as pool:
        try:
            with new_processes_leave_signals_to_parent():
                submitted = [pool.submit(_write_volume, *job) for job in jobs]
            for done in as_completed(submitted):
                done.result()
                advance()
        except BrokenProcessPool as error:
            raise RunFailed(
                "a worker process was killed, most likely for lack of memory\n"
                "  to do: fewer --workers, or a smaller --shape"
            ) from error
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _write_volume(
    folder: Path, kind: Kind, shape: Shape3, seed: int, part: Part, number: int, ending: Ending
) -> None:
    survey = make_volume(kind, shape, [seed, part.number, number])
    labels = survey.faults if kind == "faults" else survey.facies
    name = f"{part.prefix}_{number:04d}"
    header = Header(_survey_grid(shape) if ending == ".sgy" else Grid(shape, np.eye(4)), 1, None)
    image = folder / f"images{part.suffix}" / f"{name}_0000{ending}"
    write_volume(image, survey.image[None], header)
    write_volume(folder / f"labels{part.suffix}" / f"{name}{ending}", labels[None], header)


def _survey_grid(shape: Shape3) -> Grid:
    """Where a volume would lie if it were a survey, inlines going east."""
    affine = np.diag([BIN, BIN, INTERVAL, 1.0])
    affine[:2, 3] = CORNER
    return Grid(shape, affine, axes=("inline", "crossline", "time"), units=("m", "m", "ms"))
