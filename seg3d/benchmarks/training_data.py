"""Memory and time of training from disk on a dataset that does not fit into the cache."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from seg3d.benchmarks.tables import print_table
from seg3d.common.resources import resource
from seg3d.common.sizes import GIB
from seg3d.geometry import Grid, Shape3
from seg3d.io import Header, create_volume
from seg3d.runs.run_folder import Run

# Organs: intensity in Hounsfield units; centre and half axes as shares of the volume.
ORGANS = {
    "liver": (110, (0.35, 0.5, 0.6), (0.15, 0.2, 0.2)),
    "spleen": (90, (0.68, 0.6, 0.65), (0.07, 0.1, 0.12)),
    "kidney": (160, (0.6, 0.65, 0.35), (0.06, 0.07, 0.12)),
}
BODY = (40, (0.5, 0.5, 0.5), (0.42, 0.35, 2.0))
AIR = -1000
NOISE = 20.0  # Hounsfield units
WANDER = 0.05  # share of the volume by which organs are moved from case to case
SPACINGS = (0.7, 0.9)  # mm in plane, so that every volume has to be resampled
THICKNESS = 1.0  # mm
SLICES = 16

SECONDS_BETWEEN_SAMPLES = 0.1
# Lines that `seg3d train` prints, and what goes on from then on.
PHASES = {
    "preprocessed volumes:": "preprocessing",
    "training step": "training",
    "finished:": "end",
}
# Parts of the proportional set size: what is the processes' own, shared memory, and pages of mapped
# files, which the system takes back when it needs room.
PARTS = ("Pss_Anon", "Pss_Shmem", "Pss_File")


def measure(
    folder: Path, count: int, shape: Shape3, ending: str, cache: str, channels: list[int],
    epochs: int, steps: int,
) -> dict[str, Any]:  # fmt: skip
    """Print and return what training takes, and what starting again takes.

    Args:
        folder: for dataset and run; there must be room for 10 bytes a voxel.
        count: of volumes, one of which validates.
        shape: of each, in voxels.
        ending: of the files, ``.nii`` or ``.nii.gz``.
        cache: what ``data.cache`` is set to, or ``auto``.
        channels: of MONAI's U-Net, per level; its first layer halves the resolution, so that the
            network is not what takes the time.
        epochs: of the first start; resuming adds one.
        steps: per epoch.
    """
    dataset, run = folder / "dataset", Run(folder / "run")
    size = make_dataset(dataset, count, shape, ending)
    network = {"name": "monai.UNet", "channels": channels, "strides": [2] * (len(channels) - 1)}
    settings = {
        "data.labels": json.dumps(
            {"background": 0} | {name: n for n, name in enumerate(ORGANS, 1)}
        ),
        "data.cache": cache,
        "data.folds": count,
        "network": json.dumps(network),
        "probing.bits": 1,
        "train.iterations_per_epoch": steps,
        "validation.every": 1_000_000,
    }
    starts = {
        "first start": start(dataset, run, settings | {"train.epochs": epochs}),
        "--resume": start(dataset, run, {"train.epochs": epochs + 1}, "--resume"),
    }
    print_table(
        f"{count} volumes of {'×'.join(map(str, shape))}, {size / GIB:.1f} GiB of {ending}; "
        f"data.cache={cache}",
        ("peak of all processes, GiB", "proportional", "own", "shared", "mapped files", "resident"),
        [
            (
                f"{name}, {phase}",
                *(f"{peak[part]:.2f}" for part in ("Pss", *PARTS, "Rss")),
            )
            for name, one in starts.items()
            for phase, peak in one["peaks_gib"].items()
        ],
    )
    print_table(
        "seconds from the start of the process, and what the log says",
        ("", *PHASES.values(), "patches per second", "data-wait fraction"),
        [
            (
                name,
                *(f"{one['seconds'][phase]:.1f}" for phase in PHASES.values()),
                f"{one['patches_per_second']:.2f}",
                f"{one['data_wait_fraction']:.3f}",
            )
            for name, one in starts.items()
        ],
    )
    return {
        "count": count,
        "shape": shape,
        "ending": ending,
        "dataset_gib": size / GIB,
        "settings": settings,
        "starts": starts,
    }


def make_dataset(folder: Path, count: int, shape: Shape3, ending: str) -> int:
    """Write the volumes that are not there yet; returns the bytes of all files."""
    for number in range(count):
        name = f"ct_{number:03d}{ending}"
        if not (folder / "labels" / name).exists():
            make_case(folder / "images" / name, folder / "labels" / name, shape, number)
    return sum(path.stat().st_size for path in folder.glob("*/*"))


def make_case(image_path: Path, label_path: Path, shape: Shape3, seed: int) -> None:
    """A body in air with organs and noise, written slab by slab; image int16, labels uint8."""
    rng = np.random.default_rng(seed)
    in_plane = rng.uniform(*SPACINGS)
    grid = Grid(shape, np.diag([-in_plane, -in_plane, THICKNESS, 1]))
    # The noise of one slab, shifted, is that of the next: much faster than drawing it anew.
    noise = (NOISE * rng.standard_normal((*shape[:2], SLICES), np.float32)).astype(np.int16)
    organs = [
        (value, np.array(centre) + rng.uniform(-WANDER, WANDER, 3), axes)
        for value, centre, axes in ORGANS.values()
    ]
    header = Header(grid, 1, None)
    with (
        create_volume(image_path, header, np.int16) as image,
        create_volume(label_path, header, np.uint8) as label,
    ):
        for first in range(0, shape[2], SLICES):
            region = (
                slice(0, shape[0]),
                slice(0, shape[1]),
                slice(first, min(first + SLICES, shape[2])),
            )
            voxels = np.roll(noise, rng.integers(shape[0]), axis=0)[..., : region[2].stop - first]
            numbers = np.zeros(voxels.shape, np.uint8)
            intensity = np.full(voxels.shape, AIR, np.int16)
            intensity[_inside(region, shape, *BODY[1:])] = BODY[0]
            for number, (value, centre, axes) in enumerate(organs, 1):
                inside = _inside(region, shape, centre, axes)
                intensity[inside], numbers[inside] = value, number
            image.write(region, (intensity + voxels)[None])
            label.write(region, numbers[None])


def _inside(
    region: tuple[slice, slice, slice], shape: Shape3, centre: Sequence[float] | np.ndarray,
    axes: Sequence[float],
) -> np.ndarray:  # fmt: skip
    """Which voxels of a region lie in an ellipsoid."""
    x, y, z = (
        ((np.arange(part.start, part.stop, dtype=np.float32) / length - middle) / half) ** 2
        for part, length, middle, half in zip(region, shape, centre, axes, strict=True)
    )
    inside: np.ndarray = (x[:, None] + y)[..., None] + z < 1
    return inside


@dataclass
class Watched:
    """A process that is running, and what has been seen of it.

    Attributes:
        begin: when it was started.
        phase: what goes on.
        seconds: when every phase began, from the start of the process.
        peaks: in each phase, bytes when the proportional set size of all processes was largest.
    """

    begin: float = field(default_factory=time.perf_counter)
    phase: str = "survey"
    seconds: dict[str, float] = field(default_factory=dict)
    peaks: dict[str, dict[str, int]] = field(default_factory=dict)

    def read(self, lines: Any) -> None:
        for line in lines:
            print(f"  {time.perf_counter() - self.begin:7.1f} s  {line}", end="", flush=True)
            for beginning, phase in PHASES.items():
                if line.startswith(beginning):
                    self.phase = phase
                    self.seconds[phase] = time.perf_counter() - self.begin

    def sample(self, process: psutil.Process) -> None:
        taken = memory_of([process, *process.children(recursive=True)])
        if taken["Pss"] >= self.peaks.get(self.phase, taken)["Pss"]:
            self.peaks[self.phase] = taken


def memory_of(processes: Sequence[psutil.Process]) -> dict[str, int]:
    """Bytes of several processes together.

    In the proportional set size (Pss) a page that n processes share counts as an n-th of a page in
    each, so the sum counts it once. The resident size (Rss) counts it n times.
    """
    total = dict.fromkeys(("Pss", "Rss", *PARTS), 0)
    for process in processes:
        try:
            lines = (
                Path(f"/proc/{process.pid}/smaps_rollup")
                .read_text(encoding="utf-8")
                .splitlines()[1:]
            )
        except OSError:  # It has ended.
            continue
        found = {line.split(":")[0]: 1024 * int(line.split()[1]) for line in lines}
        for name in total:
            total[name] += found[name]
    return total


def start(dataset: Path, run: Run, settings: dict[str, Any], *options: str) -> dict[str, Any]:
    """Run ``seg3d train`` in a process of its own, and watch it and its children."""
    process = psutil.Popen(
        [
            sys.executable, "-m", "seg3d", "train", resource("configs/medical_ct.yaml"),
            "--data", dataset, "--run", run.folder, "--device", "cpu", *options,
            *(part for key, value in settings.items() for part in ("--set", f"{key}={value}")),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    watched = Watched()
    reader = threading.Thread(target=watched.read, args=(process.stdout,))
    reader.start()
    while process.poll() is None:
        watched.sample(process)
        time.sleep(SECONDS_BETWEEN_SAMPLES)
    reader.join()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, "seg3d train")
    last = json.loads(run.log.read_text(encoding="utf-8").splitlines()[-1])
    return {
        "seconds": watched.seconds,
        "peaks_gib": {
            phase: {name: value / GIB for name, value in peak.items()}
            for phase, peak in watched.peaks.items()
        },
        "patches_per_second": last["speed/patches_per_second"],
        "data_wait_fraction": last["speed/data_wait_fraction"],
    }
