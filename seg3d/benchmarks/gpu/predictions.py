"""What `seg3d.memory` says that the steps take, beside what they took."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import torch

from seg3d.benchmarks.gpu.scale import Scale, Steps
from seg3d.benchmarks.gpu.ways import DTYPE, OURS, PLAIN, SMALL, STAGES, way
from seg3d.benchmarks.tables import print_table
from seg3d.common.sizes import GIB
from seg3d.memory import step_memory

PREDICTED = (PLAIN, OURS, SMALL, STAGES)
PROCESSES = min(4, os.cpu_count() or 1)


def predicted_peaks(scale: Scale, found: dict[str, Any]) -> dict[str, Any]:
    """Peaks in GiB of steps, predicted, and as parts of those that were measured.

    Args:
        scale: its steps.
        found: results of :func:`~seg3d.benchmarks.gpu.steps.timed_steps` by the steps' titles.
    """
    wanted = [
        (name, steps)
        for steps in dict.fromkeys((scale.first, *scale.steps))
        for name in steps.methods
        if name in PREDICTED
    ]
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as pool:
        peaks = list(pool.map(_predicted, *zip(*wanted, strict=True)))
    result: dict[str, Any] = {}
    for (name, steps), peak in zip(wanted, peaks, strict=True):
        row: dict[str, float] = {"predicted_gib": peak / GIB}
        for measured in found.get(steps.title, {}).get("rows", ()):
            if measured["method"] == name and "peak_gib" in measured:
                row["measured_gib"] = measured["peak_gib"]
                row["predicted_of_measured"] = row["predicted_gib"] / row["measured_gib"]
        result[f"{steps.title}: {name}"] = row
    columns = ("predicted_gib", "measured_gib", "predicted_of_measured")
    cells = [
        [title, *(f"{row[key]:.3f}" if key in row else "" for key in columns)]
        for title, row in result.items()
    ]
    print_table("peaks", ["step", *columns], cells)
    return result


def _predicted(name: str, steps: Steps) -> int:
    torch.set_num_threads(1)
    shape = (steps.batch, 1, *[steps.size] * 3)
    network = way(name, steps.net, []).make()
    return step_memory(network, shape, DTYPE, amp=True, workspaces=True).peak
