"""The blocks in which a GPU is measured, the most important first.

After each block all results so far are written, so that a run that is cut off leaves what it has.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from seg3d.benchmarks.gpu.agreement import agreement
from seg3d.benchmarks.gpu.inference import whole_cube, windows
from seg3d.benchmarks.gpu.largest import largest_cubes
from seg3d.benchmarks.gpu.passes import passes
from seg3d.benchmarks.gpu.predictions import predicted_peaks
from seg3d.benchmarks.gpu.profiled import profiled
from seg3d.benchmarks.gpu.scale import Scale, Steps
from seg3d.benchmarks.gpu.steps import timed_steps
from seg3d.benchmarks.gpu.work import first_line, forget

Result = dict[str, Any]


def blocks(device: torch.device, scale: Scale) -> Iterator[tuple[str, Result]]:
    """The results of each block, by its name; also printed."""
    steps: Result = {}

    def timed(wanted: Steps) -> Result:
        rows = timed_steps(device, wanted)["rows"]
        # The same steps may come again, by other methods beside the plain one.
        known = steps.setdefault(wanted.title, {"rows": []})["rows"]
        known += [row for row in rows if row["method"] not in {old["method"] for old in known}]
        return dict(steps)

    first, second, *others = scale.steps
    order: list[tuple[str, Callable[[], Result]]] = [
        ("agreement", partial(agreement, device, scale, short=True)),
        ("steps", partial(timed, scale.first)),
        ("profile", partial(profiled, device, scale.first)),
        ("passes", partial(passes, device, scale)),
        ("steps", partial(timed, first)),
        ("steps", partial(timed, second)),
        ("inference", partial(whole_cube, device, scale)),
        *(("steps", partial(timed, other)) for other in others),
        ("scan", partial(windows, device, scale)),
        ("demo", partial(demo, device, scale)),
        # Not while something is timed: a step may have to wait for the CPU.
        ("peaks", lambda: predicted_peaks(scale, steps)),
        ("largest cubes", partial(largest_cubes, device, scale)),
        ("agreement of all", partial(agreement, device, scale)),
    ]
    for name, block in order:
        print(f"== {name}", flush=True)
        forget(device)
        start = time.perf_counter()
        try:
            found = block()
            found["block_seconds"] = time.perf_counter() - start
        # A block that fails is not to take the others with it.
        except Exception as error:
            found = {"failed": first_line(error)}
            print(found["failed"], flush=True)
        yield name, found


def demo(device: torch.device, scale: Scale) -> Result:
    """Time of the brain demo, and its mean foreground Dice."""
    if not scale.demo:
        return {}
    with tempfile.TemporaryDirectory(prefix="seg3d_") as folder:
        command = [sys.executable, "-m", "seg3d", "demo", "brain", "--device", str(device)]
        start = time.perf_counter()
        done = subprocess.run(
            [*command, "--run", str(Path(folder) / "run")], capture_output=True, text=True
        )
        seconds = time.perf_counter() - start
    dice = re.search(r"foreground mean\D*([0-9.]+)", done.stdout)
    print(done.stdout[-1500:], done.stderr[-500:], flush=True)
    return {
        "seconds": seconds,
        "dice": float(dice[1]) if dice else None,
        "exit_status": done.returncode,
    }
