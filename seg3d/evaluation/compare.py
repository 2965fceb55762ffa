"""Compare predictions with references, case by case."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from seg3d.common.errors import UserError
from seg3d.evaluation.classes import Classes
from seg3d.evaluation.counting import foreground_scores, overlaps_of
from seg3d.evaluation.forms import SurfaceTolerance
from seg3d.evaluation.pairs import Pair, probabilities_of
from seg3d.evaluation.precision_recall import ScoreCounts
from seg3d.evaluation.results import Evaluation, Near, Overlap

NO_CLASSES = Classes()
USUAL = SurfaceTolerance()


def evaluate(
    pairs: Sequence[Pair],
    classes: Classes = NO_CLASSES,
    advance: Callable[[], object] = lambda: None,
    tolerance: int | None = None,
    surface_tolerance: SurfaceTolerance = USUAL,
) -> Evaluation:
    """Compare every complete pair, one case in memory at a time.

    Classes are those of ``classes``, even if they are found nowhere, and the values above 0 found
    in any file that belong to none of them; or regions, and no other values. Voxels whose reference
    is to be ignored count nowhere, and neither do traces that are missing in either file. A pair
    that cannot be compared does not stop the others: it ends in ``failed``.

    Args:
        pairs: from `find_pairs`; incomplete ones end in ``missing`` and ``unreferenced``.
        classes: from `find_classes`; a value without a name is called ``label 3``.
        advance: called after each pair, for a progress bar.
        tolerance: also count voxels that have one of the same class in the other volume within
            this distance, voxels.
        surface_tolerance: of the surface Dice.

    Raises:
        UserError: if no pair can be compared: their voxels do not coincide, or a file is not a
            label volume with values from 0 to 65535.
    """
    names = classes.names
    found: dict[Pair, dict[int, Overlap]] = {}
    scores: dict[Pair, ScoreCounts] = {}
    failed: dict[str, UserError] = {}
    for pair in pairs:
        if pair.prediction is None or pair.reference is None:
            continue
        try:
            overlaps = overlaps_of(pair, classes, tolerance, surface_tolerance)
            if probabilities := probabilities_of(pair):
                scores[pair] = foreground_scores(pair, probabilities, classes)
            found[pair] = overlaps
        except UserError as error:
            failed[pair.case] = error
        advance()
    if failed and not found:
        raise next(iter(failed.values()))

    values = set(names)
    if not classes.regions:
        values = values.union(*found.values()) - {0, classes.ignored}
    absent = Overlap(near=None if tolerance is None else Near())
    return Evaluation(
        names={value: names.get(value, f"label {value}") for value in sorted(values)},
        cases={
            pair: {value: overlaps.get(value, absent) for value in sorted(values)}
            for pair, overlaps in found.items()
        },
        missing=tuple(pair.case for pair in pairs if pair.prediction is None),
        unreferenced=tuple(pair.case for pair in pairs if pair.reference is None),
        failed={case: str(error) for case, error in failed.items()},
        tolerance=tolerance,
        surface_tolerance=surface_tolerance,
        scores=scores,
    )
