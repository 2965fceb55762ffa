"""The largest cube that trains in so much memory."""

from __future__ import annotations

from typing import Any

import torch

from seg3d.benchmarks.gpu.scale import UNET, Net, Scale
from seg3d.benchmarks.gpu.ways import OURS, PLAIN, random_batch, way
from seg3d.benchmarks.gpu.work import forget, wait
from seg3d.benchmarks.speed import network_step
from seg3d.benchmarks.tables import print_table
from seg3d.common.sizes import GIB

METHODS = (PLAIN, OURS)


def largest_cubes(device: torch.device, scale: Scale) -> dict[str, Any]:
    """Edges of the largest cubes with which nnU-Net's network trains, batch of 1, by limit.

    The limit is that of the process, ``set_per_process_memory_fraction``, so that it holds
    workspaces and what fragmentation loses. Convolutions are not tried out first, whose trials
    would want more memory than the fastest takes.
    """
    if device.type != "cuda":
        return {}
    found: dict[str, Any] = {}
    total = torch.cuda.get_device_properties(device).total_memory
    tried, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, False
    try:
        for limit in (limit for limit in scale.limits if limit * GIB < total):
            torch.cuda.set_per_process_memory_fraction(limit * GIB / total, device)
            for name in METHODS:
                found[f"{limit:g} GiB, {name}"] = _largest(device, UNET, name, scale.edges)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
        torch.backends.cudnn.benchmark = tried
    rows = [[name, f"{edge}³" if edge else "none"] for name, edge in found.items()]
    print_table("largest cube that trains, batch of 1, bf16 autocast", ["limit", "cube"], rows)
    return found


def _largest(device: torch.device, net: Net, name: str, edges: tuple[int, int]) -> int:
    """By halving: what fits does so with every smaller cube."""
    unit, most = edges
    fits, too_large = 0, most // unit + 1
    while too_large - fits > 1:
        middle = (fits + too_large) // 2
        if trains(device, net, name, middle * unit):
            fits = middle
        else:
            too_large = middle
    return fits * unit


def trains(device: torch.device, net: Net, name: str, edge: int) -> bool:
    """Whether two steps on a cube find enough memory."""
    forget(device)
    try:
        step = network_step(way(name, net, []), *random_batch(device, edge, 1))
        for number in range(2):
            step(number)
        wait(device)
    except torch.OutOfMemoryError:
        return False
    return True
