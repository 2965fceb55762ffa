"""Learning curves and final Dice of all methods, a column per task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from seg3d.benchmarks.accuracy import METHODS, STEPS_PER_POINT
from seg3d.common.files import atomic_write

COLOURS = {
    "exact": "black",
    "auto": "tab:blue",
    "1 bit everywhere": "tab:orange",
    "independent": "tab:green",
    "multichannel": "tab:purple",
    "orthogonal": "tab:red",
}


def draw(tasks: dict[str, Any], path: Path) -> None:
    """Draw what `scripts/bench_accuracy` stores, the results of its tasks by name, as PNG."""
    figure = Figure(figsize=(6.5 * len(tasks), 9), layout="constrained")
    columns = figure.subplots(2, len(tasks), squeeze=False).T
    for (name, results), (curves, dots) in zip(tasks.items(), columns, strict=True):
        _draw_curves(curves, name, results)
        _draw_dots(dots, results)
    with atomic_write(path, suffix=".png") as temporary:
        figure.savefig(temporary, dpi=120)


def _draw_curves(axes: Axes, name: str, results: dict[str, Any]) -> None:
    for method, runs in results["runs"].items():
        if runs:
            mean = np.mean([run["losses"] for run in runs], axis=0)
            steps = STEPS_PER_POINT * (np.arange(len(mean)) + 0.5)
            axes.plot(steps, mean, label=method, **_style(method))
    axes.set_title(f"{name}, {results['seeds']} seeds")
    axes.set(xlabel="step", ylabel=f"training loss, mean over {STEPS_PER_POINT} steps and seeds")
    axes.legend()


def _draw_dots(axes: Axes, results: dict[str, Any]) -> None:
    names = list(results["runs"])
    for place, (method, runs) in enumerate(results["runs"].items()):
        dice = [run["mean"] for run in runs]
        colour = _style(method)["color"]
        axes.plot(dice, [place] * len(dice), "o", color=colour, alpha=0.7)
        if dice:
            axes.plot(np.mean(dice), place, "|", color=colour, markersize=22, markeredgewidth=2)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    axes.set(xlabel="held-out Dice, mean of the classes (dots: seeds; line: their mean)")


def _style(method: str) -> dict[str, Any]:
    """Thick for what seg3d offers; thin for published probes, dashed where they are few."""
    family = method.partition(",")[0]
    published = method != family
    few = published and METHODS[method][1] < 64
    return {
        "color": COLOURS[family],
        "linewidth": 1.0 if published else 2.5,
        "linestyle": "--" if few else "-",
        "zorder": 2 if published else 3,
    }
