"""Time of the engine's passes over a tensor, beside that of a copy."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from seg3d.benchmarks.gpu.scale import Scale, Volume
from seg3d.benchmarks.gpu.ways import DTYPE
from seg3d.benchmarks.tables import print_table
from seg3d.probing import ProbeKey
from seg3d.probing.kernels import kernels_for
from seg3d.probing.norms import Normalisation, normalise, normalise_backward, pooled_moments
from seg3d.probing.rotated import RotatedSketch

BITS = (1, 0.125, 4)
# Of a pass, how often it goes through a tensor.
VOLUMES = {"statistics": 1, "normalise and sketch": 2, "gradient of the norm": 3, "surrogate": 1}


def passes(device: torch.device, scale: Scale) -> dict[str, Any]:
    """Every pass' share of the bandwidth of a copy; without what Python takes."""
    x = torch.empty(scale.volume, device=device, dtype=DTYPE)
    if kernels_for(None, x) is None:
        return {}
    gigabytes = x.nbytes / 1e9
    y = torch.empty_like(x)
    copy = 2 * gigabytes / _milliseconds(device, lambda: y.copy_(x))
    found: dict[str, Any] = {"copy_tb_per_s": copy}
    for bits in BITS:
        for name, milliseconds in pass_times(device, scale.volume, bits, DTYPE).items():
            found[f"{name}, {bits:g} bits"] = VOLUMES[name] * gigabytes / milliseconds / copy
    rows = [[name, f"{value:.2f}"] for name, value in found.items()]
    print_table("passes: share of the bandwidth of a copy (that in TB/s)", ["pass", ""], rows)
    return found


def pass_times(
    device: torch.device, volume: Volume, bits: float, dtype: torch.dtype
) -> dict[str, float]:
    """Milliseconds of every pass over a tensor, ``(B, C, D, H, W)``, with so many bits a voxel."""
    x = torch.randn(volume, device=device).to(dtype)
    y = torch.empty_like(x)
    one = torch.ones(volume[:2], device=device)
    how = Normalisation(one, one * 0, lambda values: values, 0.01)
    make = partial(normalise, x, y, one[0], one[0] * 0, how, RotatedSketch(bits), ProbeKey())
    record = make()
    fill, _ = record.filler(dtype)
    grid = record.open(dtype).grid
    everything = slice(0, grid.batch), slice(0, grid.layers)
    runs: dict[str, Callable[[], Any]] = {
        "statistics": partial(pooled_moments, x, how.pool),
        "normalise and sketch": make,
        "gradient of the norm": partial(normalise_backward, x, y, record, one, how.pool),
        "surrogate": partial(fill, y, *everything),
    }
    return {name: _milliseconds(device, run) for name, run in runs.items()}


def _milliseconds(device: torch.device, run: Callable[[], Any], count: int = 8) -> float:
    """Time of one of so many calls; a GPU's, which has all in its queue before it begins."""
    run()
    if device.type != "cuda":
        times = []
        for _ in range(count):
            begun = time.perf_counter()
            run()
            times.append(time.perf_counter() - begun)
        # Other work on the machine can only make it longer.
        return min(times) * 1e3
    torch.cuda.synchronize()
    start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda._sleep(100_000_000)  # cycles, in which the calls are queued
    start.record()
    for _ in range(count):
        run()
    stop.record()
    torch.cuda.synchronize()
    return start.elapsed_time(stop) / count
