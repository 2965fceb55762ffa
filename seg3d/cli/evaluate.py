"""The command ``seg3d evaluate``."""

from __future__ import annotations

from pathlib import Path

import click

from seg3d.cli.options import debug_option, path
from seg3d.cli.segy_options import segy_options


@click.command()
@click.argument("predictions", type=path)
@click.argument("references", type=path)
@click.option("--output", type=path, help="Folder for the metrics.  [default: PREDICTIONS]")
@click.option("--tolerance", type=click.IntRange(min=1), metavar="VOXELS",
              help="Also a Dice that forgives this distance, for thin structures.")  # fmt: skip
@segy_options
@debug_option
def evaluate(
    predictions: Path, references: Path, output: Path | None, tolerance: int | None
) -> None:
    """Compare PREDICTIONS with REFERENCES (two folders, or two files).

    Dice, volumes and voxel counts per case and class; mean, deviation and median over cases. Where
    NAME_probabilities lies beside a prediction (seg3d predict --probabilities), also the
    precision-recall curve of foreground against background, and average precision.

    \b
    Example:
      seg3d evaluate predictions/ Task09_Spleen/labelsTs/
      seg3d evaluate predictions/ faults/labelsTs/ --tolerance 2
    """
    from seg3d.common.printing import make_console, print_as_is
    from seg3d.common.progress import progress_bar
    from seg3d.evaluation import evaluate as evaluate_pairs
    from seg3d.evaluation import find_pairs, label_names_near, report
    from seg3d.evaluation.curve_report import write_curve

    pairs = find_pairs(predictions, references)
    console = make_console()
    with progress_bar(console, "cases", len(pairs)) as bar:
        evaluation = evaluate_pairs(pairs, label_names_near(references), bar.advance, tolerance)
    console.print(report.table(evaluation))
    folder = output or report.output_folder(predictions)
    for file in report.write_metrics(evaluation, folder) + write_curve(evaluation, folder):
        print_as_is(console, file)
