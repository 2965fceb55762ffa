"""Final Dice of equal training with and without sketches, several seeds each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from seg3d.benchmarks.tables import print_table
from seg3d.benchmarks.training import (
    Subject,
    Task,
    after,
    backward_passes,
    cube,
    draw_batch,
    held_out_dice,
    train,
)
from seg3d.common.printing import make_console
from seg3d.common.progress import progress_bar
from seg3d.networks import UNet3d
from seg3d.probing import choose_bits, first_bits, set_bits
from seg3d.probing.bits import summary

# Sketch, number of probes, and bits of every method.
METHODS: dict[str, tuple[str, int, Any]] = {
    "exact": ("exact", 64, 1),
    "auto": ("rotated", 64, "auto"),
    "1 bit everywhere": ("rotated", 64, 1),
    "independent, r = 8": ("independent", 8, 1),
    "independent, r = 64": ("independent", 64, 1),
    "multichannel, r = 8": ("multichannel", 8, 1),
    "multichannel, r = 64": ("multichannel", 64, 1),
    "orthogonal, r = 8": ("orthogonal", 8, 1),
    "orthogonal, r = 64": ("orthogonal", 64, 1),
}
TRAINED_ON, HELD_OUT = range(8), range(100, 103)
STEPS_PER_POINT = 10  # of the learning curves

Runs = dict[str, list[dict[str, Any]]]


def compare(
    task: Task,
    channels: list[int],
    steps: int,
    seeds: int,
    methods: list[str],
    edge: int,
    known: dict[str, Any],
    store: Callable[[dict[str, Any]], None],
) -> None:
    """Train every method from the same weights on the same patches, for every seed.

    Args:
        task: what is learnt.
        channels: of the U-Net, per level.
        steps: of training.
        seeds: how many; a seed decides about weights and patches.
        methods: names out of `METHODS`.
        edge: of the patches, in voxels.
        known: results of before; of the same settings, methods that are not asked for stay.
        store: is given all results so far after every run.
    """
    cohort, held_out = task.subjects(TRAINED_ON), task.subjects(HELD_OUT)
    runs: Runs = {name: [] for name in methods}
    results = {"channels": channels, "steps": steps, "seeds": seeds, "edge": edge}
    same = all(known.get(key) == value for key, value in results.items())
    others = {name: one for name, one in known["runs"].items() if name not in runs} if same else {}
    console = make_console()
    with progress_bar(console, "training", total=seeds * len(methods)) as bar:
        for seed in range(seeds):
            for name in methods:
                network = make_network(name, task, channels, seed)
                chooser = None
                if METHODS[name][2] == "auto":
                    chooser = BitChooser(network, task, cohort, edge, seed)
                losses = train(
                    network, task, cohort, after(steps), seed, cube(edge), before_step=chooser
                )
                dice = held_out_dice(network, held_out, task, cube(edge))
                mean = float(np.mean(list(dice.values())))
                bits = chooser.bits if chooser else ""
                runs[name].append({"mean": mean, "dice": dice, "bits": bits} | _curve(losses))
                every = others | runs
                in_order = {name: every[name] for name in METHODS if name in every}
                store(results | {"runs": in_order})
                console.print(f"seed {seed}, {name}: Dice {mean:.4f}")
                bar.advance()
    _print(f"held-out Dice, mean of the classes, after {steps} steps, UNet3d {channels}", runs)


def make_network(name: str, task: Task, channels: list[int], seed: int) -> UNet3d:
    """A method's network, with weights that depend on the seed alone."""
    sketch, rank, bits = METHODS[name]
    torch.manual_seed(seed)
    network = UNet3d(1, task.classes, channels, sketch, rank=rank)
    if bits != "auto":
        set_bits(network, bits)
    return network


class BitChooser:
    """Chooses the bits of a network as `seg3d train` does, an epoch being `STEPS_PER_POINT` steps.

    Attributes:
        bits: chosen last, in words.
    """

    def __init__(
        self, network: UNet3d, task: Task, cohort: list[Subject], edge: int, seed: int
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        patches = [patch for _ in range(3) for patch in draw_batch(cohort, cube(edge), generator)]
        self.network = network
        self.runs = backward_passes(network, patches)
        self.bits = ""

    def __call__(self, step: int) -> None:
        if step == 0:
            self.bits = summary(first_bits(self.network, self.runs[0]))
        elif step in (STEPS_PER_POINT, 4 * STEPS_PER_POINT, 16 * STEPS_PER_POINT):
            self.bits = summary(choose_bits(self.network, self.runs).bits)


def _curve(losses: list[float]) -> dict[str, list[float]]:
    starts = range(0, len(losses), STEPS_PER_POINT)
    return {"losses": [float(np.mean(losses[i : i + STEPS_PER_POINT])) for i in starts]}


def _print(title: str, runs: Runs) -> None:
    """Mean and standard deviation over seeds, mean distance from exact, last loss, every seed."""
    rows = []
    exact = [run["mean"] for run in runs.get("exact", [])]
    for name, results in runs.items():
        dice = [run["mean"] for run in results]
        spread = f"{np.std(dice, ddof=1):.4f}" if len(dice) > 1 else ""
        against = f"{np.mean(np.subtract(dice, exact)):+.4f}" if exact else ""
        loss = f"{np.mean([run['losses'][-1] for run in results]):.3f}"
        every = (f"{one:.4f}" for one in dice)
        rows.append((name, f"{np.mean(dice):.4f}", spread, against, loss, *every))
    seeds = (f"seed {seed}" for seed in range(len(dice)))
    print_table(title, ("method", "mean", "std", "− exact", "last loss", *seeds), rows)
