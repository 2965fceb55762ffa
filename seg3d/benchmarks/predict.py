"""Memory and time of predicting volumes of any size, against MONAI's inferer on one that fits."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.inferers import sliding_window_inference

from seg3d.benchmarks.tables import print_table
from seg3d.common.sizes import GIB
from seg3d.config import config_from_tree
from seg3d.geometry import Grid, Shape3
from seg3d.io import Header, create_volume, read_volume, write_volume
from seg3d.plan import ChannelIntensity, LabelClass, Plan, build_network
from seg3d.prediction.decisions import best_classes
from seg3d.prediction.jobs import Job
from seg3d.prediction.predictor import Predictor
from seg3d.prediction.windows import score_slabs
from seg3d.runs.checkpoint import save_checkpoint

OVERLAP = 0.25
CLASSES = 2
SLICES = 16


def compare(
    shapes: list[Shape3], limit_gib: float, fitting: int, window: int, features: list[int],
    rounds: int,
) -> dict[str, Any]:  # fmt: skip
    """Print and return peaks of RAM for volumes of some shapes, and times for one that fits.

    Args:
        shapes: voxels of float32.
        limit_gib: what ``--memory`` is set to.
        fitting: edge of the cube on which the time is compared, in voxels.
        window: edge of the windows.
        features: channels of the U-Net, per level.
        rounds: of the comparison.
    """
    with tempfile.TemporaryDirectory(prefix="seg3d_") as name:
        folder = Path(name)
        checkpoint = make_checkpoint(folder / "network.pt", window, features)
        imports, _ = peak("-c", "import seg3d.prediction.predictor")
        memory = []
        for shape in shapes:
            image = make_volume(folder / "image.nii", shape)
            size = image.stat().st_size
            taken, seconds = peak(
                "-m", "seg3d", "predict", checkpoint, image, "--output", folder / "labels.nii",
                "--memory", f"{limit_gib}GiB", "--set", f"predict.overlap={OVERLAP}",
                "--device", "cpu",
            )  # fmt: skip
            labels = np.asarray(nib.load(folder / "labels.nii").dataobj[:: max(1, shape[0] // 8)])
            memory.append(
                {
                    "shape": shape,
                    "file_gib": size / GIB,
                    "peak_gib": taken / GIB,
                    "seconds": seconds,
                    "foreground": float((labels > 0).mean()),
                }
            )
            image.unlink()
        speed = compare_speed(folder, checkpoint, fitting, rounds)
    print_table(
        f"--memory {limit_gib}GiB: peak of the resident size, of which {imports / GIB:.2f} GiB are "
        "imports",
        ("volume", "on disk, GiB", "peak, GiB", "seconds"),
        [
            (
                "×".join(map(str, shape)),
                *(f"{row[key]:.2f}" for key in ("file_gib", "peak_gib")),
                f"{row['seconds']:.0f}",
            )
            for shape, row in zip(shapes, memory, strict=True)
        ],
    )
    print_table(
        f"{fitting}³, in seconds",
        ("", "MONAI's sliding_window_inference", "seg3d", "throughput, × MONAI's"),
        [
            (
                words,
                *(
                    f"{speed[key]:.3g}"
                    for key in (
                        f"monai{where}_seconds",
                        f"seg3d{where}_seconds",
                        f"throughput{where}",
                    )
                ),
            )
            for words, where in (
                ("from image to labels in RAM", "_in_ram"),
                ("from file to file", ""),
            )
        ],
    )
    return {
        "limit_gib": limit_gib,
        "window": window,
        "overlap": OVERLAP,
        "features": features,
        "imports_gib": imports / GIB,
        "memory": memory,
        "fitting": fitting,
        "speed": speed,
    }


def peak(*arguments: object) -> tuple[int, float]:
    """Run Python, and have the system say the largest resident size in bytes, and the seconds."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, *map(str, arguments)], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, process.args)
    return usage.ru_maxrss * 1024, time.perf_counter() - start


def make_checkpoint(path: Path, window: int, features: list[int]) -> Path:
    """MONAI's U-Net with random weights, for one channel; its first layer halves the resolution."""
    levels = len(features)
    network = {"name": "monai.UNet", "channels": features, "strides": [2] * (levels - 1)}
    config = config_from_tree({"network": network})
    plan = Plan(
        dataset="benchmark",
        orientation="RAS",
        spacing=None,
        typical_spacing=(1.0, 1.0, 1.0),
        channels=[ChannelIntensity(name="CT", kind="ct", low=-2, high=2)],
        classes=[LabelClass(name=str(value), values=[value]) for value in range(CLASSES)],
        ignore=[],
        patch_size=(window, window, window),
        kernels=[(3, 3, 3)] * levels,
        strides=[(1, 1, 1)] + [(2, 2, 2)] * (levels - 1),
        features=features,
    )
    torch.manual_seed(0)
    save_checkpoint(path, config, plan, {"network": build_network(config, plan).state_dict()})
    return path


def make_volume(path: Path, shape: Shape3) -> Path:
    """Noise, written slab by slab."""
    generator = np.random.default_rng(0)
    header = Header(Grid(shape, np.eye(4)), 1, None)
    with create_volume(path, header, np.float32) as volume:
        for start in range(0, shape[2], SLICES):
            stop = min(start + SLICES, shape[2])
            noise = generator.standard_normal((1, *shape[:2], stop - start), np.float32)
            volume.write((slice(0, shape[0]), slice(0, shape[1]), slice(start, stop)), noise)
    return path


def compare_speed(folder: Path, checkpoint: Path, edge: int, rounds: int) -> dict[str, float]:
    """Times from image to labels, in RAM and from file to file, in turn."""
    predictor = Predictor.from_checkpoint(
        checkpoint, torch.device("cpu"), (f"predict.overlap={OVERLAP}",)
    )
    image = make_volume(folder / "image.nii", (edge, edge, edge))
    job = Job((image,), folder / "seg3d.nii")
    network, window = predictor.network, predictor.plan.patch_size
    held = torch.from_numpy(np.ascontiguousarray(read_volume(image).array)).clamp_(-2, 2)

    def monai_in_ram(voxels: torch.Tensor = held) -> torch.Tensor:
        with torch.inference_mode():
            scores = sliding_window_inference(voxels[None], window, 1, network, OVERLAP, "gaussian")
        assert isinstance(scores, torch.Tensor)
        return best_classes(scores[0].softmax(0))

    def seg3d_in_ram() -> None:
        slabs = score_slabs(network, held, window, overlap=OVERLAP, device=predictor.device)
        torch.cat([best_classes(slab.softmax(0)) for slab in slabs])

    def monai() -> None:
        volume = read_volume(image)
        voxels = torch.from_numpy(np.ascontiguousarray(volume.array)).clamp_(-2, 2)
        labels = monai_in_ram(voxels).numpy()
        write_volume(folder / "monai.nii", labels[None], volume.header)

    ways: dict[str, Callable[[], object]] = {
        "monai_in_ram": monai_in_ram,
        "seg3d_in_ram": seg3d_in_ram,
        "monai": monai,
        "seg3d": lambda: predictor.run(job),
    }
    times: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, run in ways.items():
            start = time.perf_counter()
            run()
            times[way].append(time.perf_counter() - start)
    ours, theirs = (
        np.asarray(nib.load(folder / f"{way}.nii").dataobj) for way in ("seg3d", "monai")
    )
    return {
        **{f"{way}_seconds": statistics.median(taken) for way, taken in times.items()},
        **{
            f"throughput{where}": statistics.median(
                theirs / ours
                for ours, theirs in zip(times[f"seg3d{where}"], times[f"monai{where}"], strict=True)
            )
            for where in ("", "_in_ram")
        },
        "labels_that_differ": int((ours != theirs).sum()),
    }
