"""Time of the engine's passes over a tensor, beside that of a copy."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from seg3d.benchmarks.gpu.scale import Scale
from seg3d.benchmarks.gpu.ways import DTYPE
from seg3d.benchmarks.tables import print_table
from seg3d.probing import ProbeKey
from seg3d.probing.kernels import kernels_for
from seg3d.probing.norms import Normalisation, normalise, normalise_backward, pooled_moments
from seg3d.probing.rotated import RotatedSketch


def passes(device: torch.device, scale: Scale) -> dict[str, Any]:
    """Time of every pass, and its share of the bandwidth of a copy; without what Python takes."""
    x = torch.randn(scale.volume, device=device).to(DTYPE)
    if kernels_for(None, x) is None:
        return {}
    gigabytes = x.nbytes / 1e9
    y = torch.empty_like(x)
    milliseconds = partial(_milliseconds, device)
    copy = 2 * gigabytes / milliseconds(lambda: y.copy_(x))
    found: dict[str, Any] = {"copy_tb_per_s": copy}
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
