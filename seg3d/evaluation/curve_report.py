"""The precision-recall curve of an evaluation, as numbers and as a picture."""

from __future__ import annotations

import csv
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from seg3d.common.files import atomic_write
from seg3d.evaluation.precision_recall import ScoreCounts
from seg3d.evaluation.results import Evaluation


def write_curve(evaluation: Evaluation, folder: Path) -> tuple[Path, ...]:
    """Write ``precision_recall.csv`` and ``.png``, over the voxels of all cases with probabilities.

    Returns:
        The files; none if no case has probabilities, or no voxel is foreground.
    """
    counts = sum(evaluation.scores.values(), ScoreCounts())
    if not counts.positive.any():
        return ()
    curve = counts.curve()
    numbers, picture = folder / "precision_recall.csv", folder / "precision_recall.png"
    with (
        atomic_write(numbers) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(curve._fields)
        writer.writerows(zip(*(column.tolist() for column in curve), strict=True))

    figure = Figure(figsize=(5, 5), dpi=100, layout="constrained")
    axes = figure.subplots()
    axes.step(curve.recall, curve.precision, where="pre")
    axes.set(
        xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02), aspect="equal",
        title=f"average precision {counts.average_precision:.3f}, {len(evaluation.scores)} case(s)",
    )  # fmt: skip
    axes.grid(alpha=0.3)
    with atomic_write(picture, suffix=".png") as temporary:
        FigureCanvasAgg(figure).print_png(temporary)
    return numbers, picture
