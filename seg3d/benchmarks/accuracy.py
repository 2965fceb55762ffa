"""Final Dice of equal training with and without sketches, several seeds each."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seg3d.benchmarks.brain import CLASSES, Subject, mean_dice, subjects, train
from seg3d.benchmarks.tables import print_table
from seg3d.losses import DiceCrossEntropy
from seg3d.networks import UNet3d, heads
from seg3d.probing import choose_bits, set_bits

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


def compare(
    channels: list[int], steps: int, seeds: int, methods: list[str], picture: Path
) -> dict[str, Any]:
    """Train every method from the same weights on the same patches, for every seed."""
    cohort, held_out = subjects(range(8)), subjects(range(100, 103))
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in methods}
    for seed in range(seeds):
        for name in methods:
            network = _network(name, channels, seed, cohort)
            losses = train(network, cohort, steps, seed)
            runs[name].append({"dice": mean_dice(network, held_out), "losses": losses})
            print(f"seed {seed}, {name}: Dice {runs[name][-1]['dice']:.4f}", flush=True)
    rows = []
    for name, results in runs.items():
        dice = [run["dice"] for run in results]
        spread = np.std(dice, ddof=1) if len(dice) > 1 else float("nan")
        rows.append(
            (name, f"{np.mean(dice):.4f}", f"{spread:.4f}", *(f"{one:.4f}" for one in dice))
        )
    title = f"held-out mean foreground Dice after {steps} steps, UNet3d {channels}"
    print_table(title, ("method", "mean", "std", *map(str, range(seeds))), rows)
    _draw(runs, picture)
    return {"channels": channels, "steps": steps, "seeds": seeds, "runs": runs}


def _network(name: str, channels: list[int], seed: int, cohort: list[Subject]) -> UNet3d:
    sketch, rank, bits = METHODS[name]
    torch.manual_seed(seed)
    network = UNet3d(1, CLASSES, channels, sketch, rank=rank)
    if bits != "auto":
        set_bits(network, bits)
        return network
    generator = torch.Generator().manual_seed(seed)
    patches = [subject.patch(48, generator) for subject in cohort[:6]]
    choose_bits(network, [partial(_backward, network, *patch) for patch in patches], seed=seed)
    return network


def _backward(network: UNet3d, image: Tensor, target: Tensor) -> None:
    DiceCrossEntropy()(heads(network(image)), target)["loss"].backward()


def _draw(runs: dict[str, list[dict[str, Any]]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for name, results in runs.items():
        mean = np.mean([run["losses"] for run in results], axis=0)
        width = max(1, len(mean) // 20)
        smooth = np.convolve(mean, np.ones(width) / width, mode="valid")
        axes.plot(np.arange(len(smooth)) + width, smooth, label=name)
    axes.set(xlabel="step", ylabel="Dice loss + cross-entropy, moving mean over seeds")
    axes.legend()
    figure.savefig(path, dpi=120)
