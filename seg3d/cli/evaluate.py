"""The command ``seg3d evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from seg3d.cli.options import debug_option, path
from seg3d.cli.segy_options import segy_options
from seg3d.common.errors import DONE, FAILED, UserError

if TYPE_CHECKING:
    from seg3d.evaluation.forms import SurfaceTolerance


@click.command()
@click.argument("predictions", type=path)
@click.argument("references", type=path)
@click.option("--output", type=path, help="Folder for the metrics.  [default: PREDICTIONS]")
@click.option("--recursive", is_flag=True, help="Take volumes in folders of the folders too.")
@click.option("--pattern", metavar="PATH",
              help="Where the label lies in REFERENCES, such as CASE/seg.nii.gz.")  # fmt: skip
@click.option("--tolerance", type=click.IntRange(min=1), metavar="VOXELS",
              help="Also a Dice that forgives this distance, for thin structures.")  # fmt: skip
@click.option("--surface-tolerance", "surface", multiple=True, metavar="[CLASS=]MM",
              help="Of the surface Dice, for all classes or one.  [default: 1]")  # fmt: skip
@click.option("--run", type=path, help="Run or checkpoint whose classes they are.")
@click.option("--labels", type=path, help="JSON file with their classes, as in dataset.json.")
@segy_options
@debug_option
@click.pass_context
def evaluate(
    ctx: click.Context,
    predictions: Path,
    references: Path,
    output: Path | None,
    recursive: bool,
    pattern: str | None,
    tolerance: int | None,
    surface: tuple[str, ...],
    run: Path | None,
    labels: Path | None,
) -> None:
    """Compare PREDICTIONS with REFERENCES (two folders, or two files).

    Per case and class: Dice, IoU, precision, recall, Hausdorff distances, surface Dice, average
    surface distance, volumes, lesions; mean, deviation, confidence interval and median over cases
    (metrics.json defines them). Where
    NAME_probabilities lies beside a prediction (seg3d predict --probabilities), also the
    precision-recall curve of foreground against background, and average precision.

    Which values make a class, and its name, is taken from --labels or --run, from labels.json
    beside the predictions (seg3d predict writes it), or from dataset.json beside the references or
    one folder up. Pairs that cannot be compared are listed, and the exit status is 1.

    With --recursive, volumes match that lie in folders of the same names, as predictions do that
    were made with --recursive. In a --pattern, CASE stands for the name of the prediction, and *
    for anything.

    \b
    Example:
      seg3d evaluate predictions/ Task09_Spleen/labelsTs/
      seg3d evaluate predictions/ faults/labelsTs/ --tolerance 2
      seg3d evaluate predictions/ labelsTs/ --surface-tolerance 1.5 --surface-tolerance liver=3
      seg3d evaluate predictions/ bids/ --pattern sub-CASE/anat/*_seg.nii.gz
    """
    from seg3d.common.printing import make_console, print_as_is
    from seg3d.common.progress import progress_bar
    from seg3d.evaluation import evaluate as evaluate_pairs
    from seg3d.evaluation import find_classes, find_pairs, report
    from seg3d.evaluation.curve_report import write_curve

    if run is not None and labels is not None:
        raise UserError("--run and --labels both say what the classes are", fix="give one of them")
    tolerances = _surface_tolerance(surface)
    pairs = find_pairs(predictions, references, recursive=recursive, pattern=pattern)
    classes = find_classes(predictions, references, run=run, labels=labels, recursive=recursive)
    console = make_console()
    if classes.source:
        print_as_is(console, f"classes: {classes.source}")
    folder = output or report.output_folder(predictions)
    with report.sole_writer_of_metrics(folder):
        with progress_bar(console, "cases", len(pairs)) as bar:
            evaluation = evaluate_pairs(pairs, classes, bar.advance, tolerance, tolerances)
        files = report.write_metrics(evaluation, folder) + write_curve(evaluation, folder)
    console.print(report.table(evaluation))
    for file in files:
        print_as_is(console, file)
    ctx.exit(FAILED if evaluation.failed else DONE)


def _surface_tolerance(given: tuple[str, ...]) -> SurfaceTolerance:
    from seg3d.evaluation.forms import USUAL_TOLERANCE, SurfaceTolerance

    usual, of_class = USUAL_TOLERANCE, {}
    for one in given:
        name, equals, number = one.rpartition("=")
        try:
            tolerance = float(number)
        except ValueError as error:
            raise UserError(
                "--surface-tolerance is not understood", given=one, legal="MM, or CLASS=MM"
            ) from error
        if equals:
            of_class[name] = tolerance
        else:
            usual = tolerance
    return SurfaceTolerance(usual, of_class)
