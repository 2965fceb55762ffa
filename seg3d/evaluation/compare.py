"""Compare predictions with references, case by case."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from seg3d.evaluation.counting import foreground_scores, overlaps_of
from seg3d.evaluation.pairs import Pair, probabilities_of, require_same_grid
from seg3d.evaluation.results import Evaluation, Near, Overlap

# nnU-Net's name for reference voxels that nobody annotated.
IGNORE = "ignore"


def evaluate(
    pairs: Sequence[Pair],
    label_names: dict[int, str] | None = None,
    advance: Callable[[], object] = lambda: None,
    tolerance: int | None = None,
) -> Evaluation:
    """Compare every complete pair, one case in memory at a time.

    Classes are the values above 0 found in any file, and those of ``label_names`` even if they
    are found nowhere. Voxels whose reference has the class named ``ignore`` count nowhere, and
    neither do traces that are missing in either file.

    Args:
        pairs: from `find_pairs`; incomplete ones end in ``missing`` and ``unreferenced``.
        label_names: label value to class name; a class without one is called ``label 3``.
        advance: called after each pair, for a progress bar.
        tolerance: also count voxels that have one of the same class in the other volume within
            this distance, voxels.

    Raises:
        UserError: if the voxels of a pair do not coincide (seen before any voxel is read), or a
            file is not a label volume with values from 0 to 65535.
    """
    names = label_names or {}
    ignored = next((value for value, name in names.items() if name == IGNORE), None)
    complete = [pair for pair in pairs if pair.prediction and pair.reference]
    for pair in complete:
        assert pair.prediction and pair.reference
        require_same_grid(pair.prediction, pair.reference)
    found, scores = {}, {}
    for pair in complete:
        found[pair] = overlaps_of(pair, ignored, tolerance)
        if probabilities := probabilities_of(pair):
            scores[pair] = foreground_scores(pair, probabilities, ignored)
        advance()

    values = set(names).union(*found.values()) - {0, ignored}
    absent = Overlap(near=None if tolerance is None else Near())
    return Evaluation(
        names={value: names.get(value, f"label {value}") for value in sorted(values)},
        cases={
            pair: {value: overlaps.get(value, absent) for value in sorted(values)}
            for pair, overlaps in found.items()
        },
        missing=tuple(pair.case for pair in pairs if pair.prediction is None),
        unreferenced=tuple(pair.case for pair in pairs if pair.reference is None),
        tolerance=tolerance,
        scores=scores,
    )
