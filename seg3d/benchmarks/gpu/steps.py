"""Time and peak of training steps, by several methods in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from seg3d.benchmarks.gpu.scale import Steps
from seg3d.benchmarks.gpu.ways import random_batch, random_patches, way
from seg3d.benchmarks.gpu.work import (
    allocated,
    first_line,
    forget,
    in_a_cell,
    measure_peak,
    peaks,
    wait,
)
from seg3d.benchmarks.speed import Step, network_step
from seg3d.benchmarks.tables import print_table
from seg3d.common.sizes import GIB

COLUMNS = (
    "method", "seconds", "times_plain", "queued_seconds", "peak_gib", "reserved_gib",
    "first_seconds", "failed",
)  # fmt: skip
PATCHES = 3  # from which auto chooses bits
WARM = 2  # steps before those that count


def timed_steps(device: torch.device, wanted: Steps) -> dict[str, Any]:
    """Medians of the steps' times, and how long Python needs to ask for them; peaks of each.

    Every method makes its first steps alone, when its peak is measured, and then one a round.
    """
    image, target = random_batch(device, wanted.size, wanted.batch)
    rows: dict[str, dict[str, Any]] = {name: {"method": name} for name in wanted.methods}
    ready: dict[str, Step] = {}
    for name, row in rows.items():
        forget(device)
        others = allocated(device) - image.nbytes - target.nbytes
        try:
            patches = random_patches(device, min(wanted.size, 64), PATCHES)
            start = time.perf_counter()
            step = network_step(way(name, wanted.net, patches), image, target)
            del patches
            step(0)
            wait(device)
            row["first_seconds"] = time.perf_counter() - start
            row |= _alone(device, step, others)
            ready[name] = step
        # Whatever becomes of one method, the others are to be heard.
        except Exception as error:
            row["failed"] = first_line(error)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ready}
    for number in range(wanted.rounds):
        for name in list(ready):
            try:
                times[name].append(_timed(device, ready[name], number + WARM))
            except torch.OutOfMemoryError as error:
                rows[name]["failed"] = first_line(error)
                del ready[name]
    for name in ready:
        seconds, queued = (statistics.median(one) for one in zip(*times[name], strict=True))
        rows[name] |= {"seconds": seconds, "queued_seconds": queued}
    plain = rows.get("plain", {}).get("seconds")
    for row in rows.values():
        if plain and "seconds" in row:
            row["times_plain"] = row["seconds"] / plain
    cells = [[in_a_cell(row.get(name)) for name in COLUMNS] for row in rows.values()]
    print_table(f"training step, bf16 autocast: {wanted.title}", COLUMNS, cells)
    return {"size": wanted.size, "batch": wanted.batch, "rows": list(rows.values())}


def _alone(device: torch.device, step: Step, others: int) -> dict[str, float]:
    """Peaks of a step, without the bytes that other methods hold on the GPU meanwhile."""
    forget(device)
    measure_peak(device)
    for number in range(1, WARM):
        step(number)
    wait(device)
    return {name: peak - others / GIB for name, peak in peaks(device).items()}


def _timed(device: torch.device, step: Callable[[int], None], number: int) -> tuple[float, float]:
    start = time.perf_counter()
    step(number)
    queued = time.perf_counter() - start
    wait(device)
    return time.perf_counter() - start, queued
