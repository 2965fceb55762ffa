"""Does the memory that is saved, spent on larger patches, buy Dice in equal memory and time?"""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import numpy as np
import torch
from torch import nn

from seg3d.benchmarks.allocators import SETTINGS
from seg3d.benchmarks.baselines import PlainUNet3d, checkpointed, stages
from seg3d.benchmarks.numbered import numbered
from seg3d.benchmarks.tables import print_table
from seg3d.benchmarks.training import after, backward_passes, pooled_dice, train
from seg3d.common.errors import UserError
from seg3d.common.printing import make_console
from seg3d.common.progress import progress_bar
from seg3d.geometry import Shape3
from seg3d.memory import step_memory
from seg3d.networks import UNet3d
from seg3d.plan.by_memory import largest
from seg3d.probing.work_sizes import MIB

EXACT, CHECKPOINTING, SEG3D = "exact", "checkpointing", "seg3d"
# Trains exactly on whole volumes, whatever that takes, for as many steps as seg3d has made.
NO_LIMIT = "exact, no limit"
ARMS = (EXACT, CHECKPOINTING, SEG3D, NO_LIMIT)
# Per level. The deep levels halve the length alone: volumes are narrow.
STRIDES = ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 1, 1), (2, 1, 1))
# In float32 PyTorch leaves small convolutions of single volumes on a CPU to a method that takes ten
# times as long. With two no arm meets it.
BATCH = 2
ADAM = 2  # numbers that it keeps for each parameter
# glibc gives every tensor of 64 KiB pages of its own, which go back with it.
GIVEN_BACK = {"MALLOC_MMAP_THRESHOLD_": str(2**16)}
TRAINED_ON, HELD_OUT = range(48), range(1000, 1012)

T = TypeVar("T")


@dataclass(frozen=True)
class Setting:
    """What is equal for all arms.

    Attributes:
        task: one of `seg3d.benchmarks.numbered.MAKERS`.
        shape: of the volumes, in voxels.
        channels: of the U-Net, per level.
        seconds: of CPU time, for which every arm trains.
        precision: float32 or bfloat16, which is by autocast.
    """

    task: str
    shape: Shape3
    channels: tuple[int, ...]
    seconds: float
    precision: str

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = getattr(torch, self.precision)
        return dtype


@dataclass(frozen=True)
class Patch:
    """What an arm trains on: a size in voxels, and bytes that training is predicted to take."""

    size: Shape3
    predicted: int


def build(arm: str, setting: Setting) -> nn.Module:
    """An arm's network; with the same seed of PyTorch the weights are those of the other arms."""
    classes = numbered(setting.task, setting.shape).classes
    strides = STRIDES[: len(setting.channels)]
    if arm == SEG3D:
        return UNet3d(1, classes, setting.channels, strides=strides)
    network = PlainUNet3d(1, classes, setting.channels, strides=strides)
    return checkpointed(network, stages) if arm == CHECKPOINTING else network


@cache
def predicted_peak(arm: str, setting: Setting, size: Shape3) -> int:
    """Bytes of training on patches of a size, what Adam keeps included."""
    with torch.device("meta"):
        network = build(arm, setting)
    amp = setting.dtype != torch.float32
    step = step_memory(network, (BATCH, 1, *size), setting.dtype, amp=amp, workspaces=True)
    return step.peak + ADAM * step.parameters


def patches(setting: Setting) -> dict[str, Patch]:
    """Of every arm the longest patch in the memory that seg3d takes for whole volumes.

    Raises:
        UserError: if an arm has none.
    """
    whole = setting.shape
    found = {arm: Patch(whole, predicted_peak(arm, setting, whole)) for arm in (SEG3D, NO_LIMIT)}
    budget = found[SEG3D].predicted
    # Lengths that can be halved as often as the network does.
    step = math.prod(stride[0] for stride in STRIDES[: len(setting.channels)])
    sizes: list[Shape3] = [(n, whole[1], whole[2]) for n in range(step, whole[0] + 1, step)]
    for arm in (EXACT, CHECKPOINTING):

        def cost(index: int, arm: str = arm) -> float:
            return predicted_peak(arm, setting, sizes[index])

        best = largest([size[0] for size in sizes], cost, budget, whole[0] / 2)
        if best < 0:
            raise UserError(
                f"no patch fits: {arm}",
                given=f"{budget / MIB:.1f} MiB, which seg3d takes for volumes of {list(whole)}",
                fix="longer volumes, or fewer channels in the deep levels",
            )
        found[arm] = Patch(sizes[best], predicted_peak(arm, setting, sizes[best]))
    return {arm: found[arm] for arm in ARMS}


def run(arm: str, setting: Setting, size: Shape3, seed: int, steps: int | None) -> dict[str, Any]:
    """Train an arm for the seconds of the setting, or for so many steps, and score it.

    To be called in a fresh process, for its memory to be that of the training.
    """
    torch.set_num_threads(1)
    task = numbered(setting.task, setting.shape)
    cohort, held_out = task.subjects(TRAINED_ON), task.subjects(HELD_OUT)
    torch.manual_seed(seed)
    network = build(arm, setting)
    start = time.process_time()
    done = after(steps) if steps else _until(setting.seconds)
    losses = train(network, task, cohort, done, seed, size, dtype=setting.dtype)
    seconds = time.process_time() - start
    dice = pooled_dice(network, held_out, task, size, setting.dtype)
    return {
        "mean": float(np.mean(list(dice.values()))),
        "dice": dice,
        "steps": len(losses),
        "cpu_seconds": seconds,
        "last_loss": float(np.mean(losses[-10:])),
    }


def _until(seconds: float) -> Callable[[int], float]:
    """For `train`: so many seconds of this process's CPU time, from now on."""
    start = time.process_time()
    return lambda step: (time.process_time() - start) / seconds


def measured_ram(arm: str, setting: Setting, size: Shape3) -> int | None:
    """Bytes of the third training step on patches of a size, with weights and what Adam keeps.

    To be called in a fresh process, with `GIVEN_BACK`. None where the system does not count it.
    """
    clear = Path("/proc/self/clear_refs")
    if not clear.exists():
        return None
    torch.set_num_threads(1)
    network = build(arm, setting)
    image, target = torch.zeros(BATCH, 1, *size), torch.zeros(BATCH, 1, *size, dtype=torch.int16)
    step = backward_passes(network, [(image, target)], setting.dtype)[0]
    for number in range(3):
        if number == 2:
            clear.write_text("5", encoding="utf-8")  # forgets the peak so far
            before = _resident("VmRSS")
        network.zero_grad(set_to_none=True)
        step()
    weights = sum(one.numel() * one.element_size() for one in network.parameters())
    return _resident("VmHWM") - before + (1 + ADAM) * weights


def _resident(key: str) -> int:
    """Bytes: ``VmRSS``, or its peak ``VmHWM``. A child inherits ``ru_maxrss`` from its parent."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    found = re.search(rf"{key}:\s*(\d+)", status)
    assert found
    return 1024 * int(found[1])


def in_fresh_process(environment: dict[str, str], function: Callable[..., T], *arguments: Any) -> T:
    """Call a function of a module in a process that has nothing from this one but its environment.

    Args:
        environment: that is changed for it.
        function: to call.
        arguments: of the function.
    """
    with (
        mock.patch.dict(os.environ, environment),
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process,
    ):
        return process.submit(function, *arguments).result()


def compare(
    setting: Setting,
    seeds: range,
    known: dict[str, Any],
    store: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Train every arm with every seed, each in a fresh process, in turn.

    Args:
        setting: of all arms.
        seeds: a seed decides about weights and patches.
        known: results of before; runs of the same setting are not done again.
        store: is given all results so far, at first and after every run.

    Returns:
        All results.

    Raises:
        UserError: if no patch of an arm fits into the memory.
    """
    chosen = patches(setting)
    results: dict[str, Any] = asdict(setting) | {
        "shape": list(setting.shape),
        "channels": list(setting.channels),
        "patches": {arm: _plain(patch) for arm, patch in chosen.items()},
    }
    same = all(known.get(key) == value for key, value in results.items())
    runs: dict[str, dict[str, Any]] = known["runs"] if same else {arm: {} for arm in ARMS}
    ram = known.get("ram") if same else None
    results["ram"] = ram or {
        arm: in_fresh_process(GIVEN_BACK, measured_ram, arm, setting, patch.size)
        for arm, patch in chosen.items()
    }
    results["runs"] = runs
    store(results)
    # What has no limit comes last: it says how far the others could get.
    jobs = [(arm, seed) for seed in seeds for arm in ARMS if arm != NO_LIMIT]
    jobs += [(NO_LIMIT, seed) for seed in seeds]
    console = make_console()
    with progress_bar(console, setting.task, total=len(jobs)) as bar:
        for arm, seed in jobs:
            if str(seed) not in runs[arm]:
                steps = runs[SEG3D][str(seed)]["steps"] if arm == NO_LIMIT else None
                job = (arm, setting, chosen[arm].size, seed, steps)
                runs[arm][str(seed)] = in_fresh_process(SETTINGS, run, *job)
                store(results)
            one = runs[arm][str(seed)]
            console.print(
                f"{setting.task}, seed {seed}, {arm}: Dice {one['mean']:.4f}, {one['steps']} steps",
                highlight=False,
            )
            bar.advance()
    return results


def _plain(patch: Patch) -> dict[str, Any]:
    return {"size": list(patch.size), "predicted": patch.predicted}


def show(results: dict[str, Any]) -> None:
    """Print patches, memory, steps, and Dice: mean, spread, differences seed by seed."""
    rows = []
    of_seg3d = results["runs"][SEG3D]
    for arm, runs in results["runs"].items():
        patch = results["patches"][arm]
        dice = [one["mean"] for one in runs.values()]
        pairs = [(of_seg3d[seed], one) for seed, one in runs.items() if seed in of_seg3d]
        gains = [ours["mean"] - one["mean"] for ours, one in pairs]
        ram = results["ram"][arm]
        rows.append(
            (
                arm,
                " × ".join(map(str, patch["size"])),
                f"{patch['predicted'] / MIB:.1f}",
                f"{ram / MIB:.1f}" if ram else "",
                f"{np.mean([one['steps'] for one in runs.values()]):.0f}",
                f"{np.mean(dice):.3f}",
                f"{np.std(dice, ddof=1):.3f}" if len(dice) > 1 else "",
                ", ".join(f"{gain:+.3f}" for gain in gains) if arm != SEG3D else "",
            )
        )
    header = ("arm", "patch", "MiB", "measured", "steps", "Dice", "std", "seg3d − it, by seed")
    shape = " × ".join(map(str, results["shape"]))
    print_table(f"{results['task']} of {shape}, {results['seconds']:g} s of CPU time", header, rows)
