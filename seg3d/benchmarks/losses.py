"""How well faults are found after equal training with different losses, several seeds each."""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch
from torch import nn

from seg3d.benchmarks.surveys import FAULTS
from seg3d.benchmarks.tables import print_table
from seg3d.benchmarks.training import Subject, after, class_scores, cube, train
from seg3d.common.printing import make_console
from seg3d.common.progress import progress_bar
from seg3d.evaluation.precision_recall import ScoreCounts
from seg3d.evaluation.tolerance import harmonic_mean, voxels_near
from seg3d.losses import DiceCrossEntropy
from seg3d.networks import UNet3d
from seg3d.training.validation import dice_per_class

MISSES: dict[str, Any] = {"tversky": (0.3, 0.7)}
WEIGHTED: dict[str, Any] = {"class_weights": (1.0, 5.0)}
FOCAL: dict[str, Any] = {"focal": 2.0}
# Arguments of `DiceCrossEntropy`.
METHODS: dict[str, dict[str, Any]] = {
    "Dice + cross-entropy": {},
    "Dice + weighted": WEIGHTED,
    "Dice + focal": FOCAL,
    "Tversky + cross-entropy": MISSES,
    "Tversky + weighted": MISSES | WEIGHTED,
    "Tversky + focal": MISSES | FOCAL,
}
MEASURES = "dice", "tolerance_dice", "average_precision"
TOLERANCE = 2  # voxels
TRAINED_ON, HELD_OUT = range(24), range(100, 106)

Runs = dict[str, list[dict[str, float]]]


def compare(
    channels: list[int],
    steps: int,
    seeds: int,
    methods: list[str],
    edge: int,
    store: Callable[[dict[str, Any]], None],
) -> None:
    """Train with every loss from the same weights on the same patches, for every seed.

    Args:
        channels: of the U-Net, per level.
        steps: of training.
        seeds: how many; a seed decides about weights and patches.
        methods: names out of `METHODS`.
        edge: of the patches, in voxels.
        store: is given all results so far after every run.
    """
    cohort, held_out = FAULTS.subjects(TRAINED_ON), FAULTS.subjects(HELD_OUT)
    runs: Runs = {name: [] for name in methods}
    results = {"channels": channels, "steps": steps, "seeds": seeds, "edge": edge, "runs": runs}
    console = make_console()
    with progress_bar(console, "training", total=seeds * len(methods)) as bar:
        for seed in range(seeds):
            for name in methods:
                torch.manual_seed(seed)
                network = UNet3d(1, FAULTS.classes, channels, "exact")
                loss = DiceCrossEntropy(**METHODS[name])
                train(network, FAULTS, cohort, after(steps), seed, cube(edge), loss)
                runs[name].append(held_out_scores(network, held_out, edge))
                store(results)
                found = ", ".join(f"{key} {one:.4f}" for key, one in runs[name][-1].items())
                console.print(f"seed {seed}, {name}: {found}", highlight=False)
                bar.advance()
    _print(f"held-out faults after {steps} steps, UNet3d {channels}, patches of {edge}³", runs)


def held_out_scores(network: nn.Module, surveys: list[Subject], edge: int) -> dict[str, float]:
    """Means over the surveys of the `MEASURES` of whole volumes; see `class_scores`."""
    rows = []
    for survey in surveys:
        reference = survey.labels[0, 0].numpy() == 1
        probabilities = class_scores(network, survey, cube(edge)).softmax(0)[1].numpy()
        predicted = probabilities > 0.5
        counts = ScoreCounts()
        counts.add(probabilities, reference)
        precision = voxels_near(predicted, reference, TOLERANCE) / max(predicted.sum(), 1)
        recall = voxels_near(reference, predicted, TOLERANCE) / reference.sum()
        (dice,) = dice_per_class(reference, predicted, FAULTS.classes)
        rows.append((dice, harmonic_mean(precision, recall), counts.average_precision))
    return dict(zip(MEASURES, np.mean(rows, axis=0).tolist(), strict=True))


def _print(title: str, runs: Runs) -> None:
    """Mean and standard deviation over seeds of every measure."""
    rows = [(name, *(_summary(results, one) for one in MEASURES)) for name, results in runs.items()]
    print_table(title, ("loss", *(one.replace("_", " ") for one in MEASURES)), rows)


def _summary(results: list[dict[str, float]], measure: str) -> str:
    values = [one[measure] for one in results]
    spread = f" ± {stdev(values):.3f}" if len(values) > 1 else ""
    return f"{fmean(values):.3f}{spread}"
