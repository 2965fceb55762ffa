"""What a GPU makes of the engine, block by block, the most important first.

After each block all results so far are written, so that a run that is cut off leaves what it has.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import Any

import torch
from torch import Tensor, nn

from seg3d.benchmarks.baselines import BASELINES, PlainUNet3d
from seg3d.benchmarks.speed import Way, network_step
from seg3d.benchmarks.tables import print_table
from seg3d.common.sizes import GIB
from seg3d.memory import inference_memory, training_memory
from seg3d.networks import UNet3d
from seg3d.probing import ProbeKey, set_bits
from seg3d.probing.kernels import kernels_for
from seg3d.probing.norms import Normalisation, normalise, normalise_backward, pooled_moments
from seg3d.probing.rotated import RotatedSketch

CLASSES = 4
DTYPE = torch.bfloat16
Result = dict[str, Any]
# Edge of the cube, number of cubes, steps that are timed, and the methods.
Steps = tuple[int, int, int, tuple[str, ...]]


@dataclass(frozen=True)
class Scale:
    """How large everything is.

    Attributes:
        channels: of the networks, per level.
        volume: of the passes, ``(B, C, D, H, W)``.
        steps: of ours.
        rivals: of others.
        inference: edge of the cube.
    """

    channels: tuple[int, ...]
    volume: tuple[int, int, int, int, int]
    steps: tuple[Steps, ...]
    rivals: Steps
    inference: int


OURS = "seg3d, 1 bit"
RIVALS = ("plain", "plain, channels last", "compile-0.5")
FULL = Scale(
    channels=(32, 64, 128, 256, 320, 320),
    volume=(2, 32, 128, 128, 128),
    steps=(
        (128, 2, 8, ("plain", OURS, "seg3d, 0.125 bit", "checkpoint-stages")),
        (320, 1, 2, ("plain", OURS)),
        (512, 1, 1, (OURS,)),
        (192, 1, 4, ("plain", OURS)),
    ),
    rivals=(128, 2, 8, RIVALS),
    inference=256,
)
TOY = Scale(
    channels=(4, 8),
    volume=(1, 2, 4, 8, 8),
    steps=((16, 1, 1, ("plain", OURS, "checkpoint-stages")),),
    rivals=(16, 1, 1, RIVALS[:2]),
    inference=16,
)
COLUMNS = (
    "size", "batch", "method", "seconds", "times_plain", "queued_seconds", "peak_gib",
    "reserved_gib", "first_seconds", "failed",
)  # fmt: skip


def blocks(device: torch.device, scale: Scale) -> Iterator[tuple[str, Result]]:
    """The results of each block, by its name; also printed."""
    trained = partial(steps, device, scale.channels)
    first, *others = scale.steps
    for name, block in (
        (f"steps of {first[0]}³", partial(trained, first)),
        ("profile", partial(profiled, device, scale)),
        *((f"steps of {other[0]}³", partial(trained, other)) for other in others),
        ("passes", partial(passes, device, scale)),
        ("inference", partial(inference, device, scale)),
        ("rivals", partial(trained, scale.rivals)),
        # Not while something is timed: a step may have to wait for the CPU.
        ("predicted peaks", partial(predicted_peaks, scale)),
    ):
        print(f"== {name}", flush=True)
        yield name, block()


def steps(device: torch.device, channels: tuple[int, ...], wanted: Steps) -> Result:
    """Times and peaks of training steps."""
    rows: list[Result] = []
    size, batch, rounds, names = wanted
    plain = None
    for name in names:
        row = _step(device, channels, size, batch, rounds, name)
        plain = row.get("seconds") if name == "plain" else plain
        if plain and "seconds" in row:
            row["times_plain"] = row["seconds"] / plain
        rows.append(row)
        print(", ".join(f"{key} {_short(value)}" for key, value in row.items()), flush=True)
    cells = [[_short(row.get(name)) for name in COLUMNS] for row in rows]
    print_table("training step, bf16 autocast", COLUMNS, cells)
    return {"rows": rows}


def predicted_peaks(scale: Scale) -> Result:
    """In GiB, what `seg3d.memory` says that the steps take."""
    wanted = [
        (name, scale.channels, size, batch)
        for size, batch, _, names in scale.steps
        for name in names
        if name in ("plain", OURS)
    ]
    with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as pool:
        peaks = list(pool.map(_predicted, *zip(*wanted, strict=True)))
    found = {
        f"{size}³, batch {batch}, {name}": peak / GIB
        for (name, _, size, batch), peak in zip(wanted, peaks, strict=True)
    }
    print_table("predicted peaks", ["step", "GiB"], [[k, _short(v)] for k, v in found.items()])
    return found


def _step(
    device: torch.device, channels: tuple[int, ...], size: int, batch: int, rounds: int, name: str
) -> Result:
    row: Result = {"size": size, "batch": batch, "method": name}
    image, target = _batch(device, size, batch)
    _forget(device)
    start = time.perf_counter()
    try:
        step = network_step(way(name, channels), image, target)
        step(0)
        _wait(device)
        row["first_seconds"] = time.perf_counter() - start
        step(1)
        times, queued = [], []
        _wait(device)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        for number in range(rounds):
            start = time.perf_counter()
            step(number + 2)
            queued.append(time.perf_counter() - start)
            _wait(device)
            times.append(time.perf_counter() - start)
    except torch.cuda.OutOfMemoryError as error:
        return row | {"failed": str(error).splitlines()[0]}
    row |= {"seconds": statistics.median(times), "queued_seconds": statistics.median(queued)}
    if device.type == "cuda":
        row["peak_gib"] = torch.cuda.max_memory_allocated(device) / GIB
        row["reserved_gib"] = torch.cuda.max_memory_reserved(device) / GIB
    return row


def way(name: str, channels: tuple[int, ...]) -> Way:
    """How a method of :data:`FULL` trains."""
    if not name.startswith("seg3d"):
        method, _, last = name.partition(", ")
        return Way(
            lambda: BASELINES[method](PlainUNet3d(1, CLASSES, channels)),
            amp=True,
            memory_format=torch.channels_last_3d if last else torch.contiguous_format,
        )

    def make() -> nn.Module:
        network = UNet3d(1, CLASSES, channels)
        set_bits(network, float(name.split()[1]))
        return network

    return Way(make, amp=True)


def _predicted(name: str, channels: tuple[int, ...], size: int, batch: int) -> int:
    torch.set_num_threads(1)
    shape = (batch, 1, size, size, size)
    network = way(name, channels).make()
    return training_memory(network, shape, DTYPE, amp=True, workspaces=True).peak


def profiled(device: torch.device, scale: Scale) -> Result:
    """Kernels of one step: how many, how long, and the longest of them."""
    if device.type != "cuda":
        return {}
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    size, batch, _, _ = scale.steps[0]
    image, target = _batch(device, size, batch)
    found: Result = {}
    for name in ("plain", OURS):
        _forget(device)
        step = network_step(way(name, scale.channels), image, target)
        for number in range(3):
            step(number)
        _wait(device)
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
            step(3)
            _wait(device)
        kernels: dict[str, list[float]] = {}
        for event in profiler.events() or []:
            if event.device_type == DeviceType.CUDA:
                kernels.setdefault(event.name[:90], []).append(event.device_time / 1e3)
        count, total = sum(map(len, kernels.values())), sum(map(sum, kernels.values()))
        longest = sorted(kernels.items(), key=lambda item: -sum(item[1]))[:12]
        rows = [[kernel, str(len(times)), f"{sum(times):.2f}"] for kernel, times in longest]
        print_table(f"{name}: {count} kernels, {total:.1f} ms", ["kernel", "launches", "ms"], rows)
        found[name] = {
            "kernels": count,
            "milliseconds": total,
            "longest": {kernel: [len(times), sum(times)] for kernel, times in longest},
        }
    return found


def passes(device: torch.device, scale: Scale) -> Result:
    """Time of every pass, and its share of the bandwidth of a copy; without what Python takes."""
    x = torch.randn(scale.volume, device=device).to(DTYPE)
    if kernels_for(None, x) is None:
        return {}
    gigabytes = x.nbytes / 1e9
    y = torch.empty_like(x)
    milliseconds = partial(_milliseconds, device)
    copy = 2 * gigabytes / milliseconds(lambda: y.copy_(x))
    found: Result = {"copy_tb_per_s": copy}
    one = torch.ones(scale.volume[:2], device=device)
    how = Normalisation(one, one * 0, lambda values: values, 0.01)
    moments = milliseconds(partial(pooled_moments, x, how.pool))
    found["moments"] = gigabytes / moments / copy
    for bits in (1, 0.125, 4):
        sketch, key = RotatedSketch(bits), ProbeKey()
        record = normalise(x, y, one[0], one[0] * 0, how, sketch, key)
        fill, _ = record.filler(DTYPE)
        grid = record.open(DTYPE).grid
        whole = slice(0, grid.batch), slice(0, grid.layers)
        make = partial(normalise, x, y, one[0], one[0] * 0, how, sketch, key)
        back = partial(normalise_backward, x, y, record, one, how.pool)
        for name, volumes, run in (
            ("normalise and sketch", 2, make),
            ("gradient of the norm", 3, back),
            ("surrogate", 1, partial(fill, y, *whole)),
        ):
            found[f"{name}, {bits:g} bits"] = volumes * gigabytes / milliseconds(run) / copy
    rows = [[name, f"{value:.2f}"] for name, value in found.items()]
    print_table("passes: share of the bandwidth of a copy (that in TB/s)", ["pass", ""], rows)
    return found


def _milliseconds(device: torch.device, run: Callable[[], Any], count: int = 8) -> float:
    """Time of one of so many calls; a GPU's, which has all in its queue before it begins."""
    run()
    if device.type != "cuda":
        begun = time.perf_counter()
        for _ in range(count):
            run()
        return (time.perf_counter() - begun) * 1e3 / count
    torch.cuda.synchronize()
    start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda._sleep(100_000_000)  # cycles, in which the calls are queued
    start.record()
    for _ in range(count):
        run()
    stop.record()
    torch.cuda.synchronize()
    return start.elapsed_time(stop) / count


def inference(device: torch.device, scale: Scale) -> Result:
    """Time and peak of a forward pass of a whole cube, the latter beside the prediction."""
    edge = scale.inference
    shape = (1, 1, edge, edge, edge)
    found: Result = {}
    for name in ("plain", OURS):
        _forget(device)
        network = way(name, scale.channels).make().to(device).eval()
        image = torch.randn(shape, device=device)
        times = []
        with torch.no_grad(), torch.autocast(device.type, DTYPE):
            for number in range(4):
                if number == 1 and device.type == "cuda":
                    torch.cuda.reset_peak_memory_stats(device)
                _wait(device)
                start = time.perf_counter()
                network(image)
                _wait(device)
                times.append(time.perf_counter() - start)
        row: Result = {"seconds": statistics.median(times[1:])}
        if device.type == "cuda":
            row["peak_gib"] = torch.cuda.max_memory_allocated(device) / GIB
        predicted = inference_memory(network, shape, DTYPE, amp=True, workspaces=True)
        row["predicted_gib"] = predicted / GIB
        found[name] = row
        print(f"inference of {edge}³, bf16, {name}: {row}", flush=True)
    return found


def _batch(device: torch.device, size: int, batch: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator(device).manual_seed(0)
    shape = (batch, 1, size, size, size)
    image = torch.randn(shape, device=device, generator=generator)
    target = torch.randint(CLASSES, shape, device=device, generator=generator, dtype=torch.int16)
    return image, target


def _forget(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)
