"""What a GPU does in a step, how often it has to be asked, and what Python does meanwhile."""

from __future__ import annotations

import cProfile
import pstats
import time
import warnings
from pathlib import Path
from typing import Any

import torch

from seg3d.benchmarks.gpu.scale import Steps
from seg3d.benchmarks.gpu.ways import OURS, PLAIN, random_batch, way
from seg3d.benchmarks.gpu.work import first_line, forget, wait
from seg3d.benchmarks.speed import Step, network_step
from seg3d.benchmarks.tables import print_table

LONGEST = 5
FUNCTIONS = 15
WARM = 3


def profiled(device: torch.device, steps: Steps) -> dict[str, Any]:
    """Of a plain step and one of ours: kernels, Python's functions, and a step as a CUDA graph.

    A step that is replayed as a graph does not wait for Python. It draws the same probes every
    time, so it serves to be timed and not to train.
    """
    image, target = random_batch(device, steps.size, steps.batch)
    found: dict[str, Any] = {}
    for name in (PLAIN, OURS):
        forget(device)
        step = network_step(way(name, steps.net, []), image, target)
        for number in range(WARM):
            step(number)
        wait(device)
        one: dict[str, Any] = {"functions": _functions(name, step)}
        if device.type == "cuda":
            one |= _kernels(device, name, step)
            one["waits"] = _waits(step)
            one |= _replayed(device, step)
            print(
                f"{name}: waits {one['waits']}, as a graph {one.get('graph_seconds')} s", flush=True
            )
        found[name] = one
    return found


def _kernels(device: torch.device, name: str, step: Step) -> dict[str, Any]:
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        step(WARM)
        wait(device)
    kernels: dict[str, list[float]] = {}
    for event in profiler.events() or []:
        if event.device_type == DeviceType.CUDA:
            kernels.setdefault(event.name[:90], []).append(event.device_time / 1e3)
    count, total = sum(map(len, kernels.values())), sum(map(sum, kernels.values()))
    longest = sorted(kernels.items(), key=lambda item: -sum(item[1]))[:LONGEST]
    rows = [[kernel, str(len(times)), f"{sum(times):.2f}"] for kernel, times in longest]
    print_table(f"{name}: {count} kernels, {total:.1f} ms", ["kernel", "launches", "ms"], rows)
    return {
        "kernels": count,
        "milliseconds": total,
        "longest": {kernel: [len(times), sum(times)] for kernel, times in longest},
    }


def _functions(name: str, step: Step) -> dict[str, list[float]]:
    """Python's functions that take longest themselves: calls, and milliseconds."""
    profile = cProfile.Profile()
    profile.runcall(step, WARM)
    taken = pstats.Stats(profile).stats.items()  # type: ignore[attr-defined]
    longest = sorted(taken, key=lambda item: -item[1][2])[:FUNCTIONS]
    found = {
        f"{Path(file).name}:{line} {function}"[:90]: [calls, seconds * 1e3]
        for (file, line, function), (calls, _, seconds, *_) in longest
    }
    rows = [[place, str(calls), f"{ms:.2f}"] for place, (calls, ms) in found.items()]
    print_table(f"{name}: functions of Python's", ["function", "calls", "ms"], rows)
    return found


def _waits(step: Step) -> int:
    """How often a step waits for the GPU."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            step(WARM + 1)
    finally:
        torch.cuda.set_sync_debug_mode(before)
    return sum("synchroniz" in str(warning.message) for warning in caught)


def _replayed(device: torch.device, step: Step, count: int = 5) -> dict[str, Any]:
    try:
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            step(WARM)
        torch.cuda.current_stream(device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step(WARM)
        graph.replay()
        wait(device)
        start = time.perf_counter()
        for _ in range(count):
            graph.replay()
        wait(device)
        return {"graph_seconds": (time.perf_counter() - start) / count}
    # A step may hold what cannot be captured; that is an answer too.
    except Exception as error:
        return {"graph_failed": first_line(error)}
