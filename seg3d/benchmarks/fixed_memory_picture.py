"""Dice of every arm by class and by seed, a column per task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from seg3d.benchmarks.fixed_memory import CHECKPOINTING, EXACT, NO_LIMIT, SEG3D
from seg3d.common.files import atomic_write
from seg3d.probing.work_sizes import MIB

COLOURS = {
    EXACT: "tab:red",
    CHECKPOINTING: "tab:orange",
    SEG3D: "tab:blue",
    NO_LIMIT: "black",
}


def draw(tasks: dict[str, Any], path: Path) -> None:
    """Draw what `scripts/bench_fixed_memory` stores, the results of its tasks by name, as PNG."""
    figure = Figure(figsize=(6.5 * len(tasks), 7), layout="constrained")
    rows = figure.subplots(2, len(tasks), squeeze=False, height_ratios=(2, 1))
    for (name, results), by_class, by_seed in zip(tasks.items(), *rows, strict=True):
        _draw_classes(by_class, name, results)
        _draw_seeds(by_seed, results)
    with atomic_write(path, suffix=".png") as temporary:
        figure.savefig(temporary, dpi=110)


def _draw_classes(axes: Axes, name: str, results: dict[str, Any]) -> None:
    for arm, runs in results["runs"].items():
        if runs:
            classes = list(next(iter(runs.values()))["dice"])
            dice = [list(one["dice"].values()) for one in runs.values()]
            style = "--" if arm == NO_LIMIT else "-"
            axes.plot(
                classes,
                np.mean(dice, axis=0),
                style,
                color=COLOURS[arm],
                label=_label(arm, results),
            )
    axes.set(title=name, xlabel="class: number from the top", ylabel="held-out Dice, mean of seeds")
    axes.set_ylim(0, 1)
    axes.grid(alpha=0.3)
    if any(results["runs"].values()):
        axes.legend()


def _draw_seeds(axes: Axes, results: dict[str, Any]) -> None:
    arms = list(results["runs"])
    for seed in results["runs"][EXACT]:
        runs = {arm: results["runs"][arm].get(seed) for arm in arms}
        known = [(place, runs[arm]["mean"]) for place, arm in enumerate(arms) if runs[arm]]
        places, dice = zip(*known, strict=True)
        axes.plot(dice, places, "-", color="grey", alpha=0.4)
        axes.scatter(dice, places, c=[COLOURS[arms[place]] for place in places], zorder=3)
    axes.set_yticks(range(len(arms)), arms)
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel("held-out Dice, mean of the classes (a line: one seed)")


def _label(arm: str, results: dict[str, Any]) -> str:
    patch = results["patches"][arm]
    return f"{arm}: {patch['size'][0]} long, {patch['predicted'] / MIB:.0f} MiB"
