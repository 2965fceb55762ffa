"""Labels in memory, compared as files are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from seg3d.common.errors import UserError
from seg3d.evaluation.counting import count_overlaps, largest_label, with_forms
from seg3d.evaluation.forms import USUAL_TOLERANCE, SurfaceTolerance
from seg3d.evaluation.results import Overlap
from seg3d.io.in_ram import volume_of


def compare_labels(
    prediction: np.ndarray,
    reference: np.ndarray,
    *,
    spacing: Sequence[float],
    ignore: int | None = None,
    tolerance: int | None = None,
    surface_tolerance: float = USUAL_TOLERANCE,
) -> dict[int, Overlap]:
    """Compare two label arrays class by class, as ``seg3d evaluate`` compares two files.

    Args:
        prediction, reference: `(X, Y, Z)`, whole numbers from 0 (background) to 65535, or bool.
        spacing: mm along the three axes.
        ignore: voxels whose reference has this value count nowhere.
        tolerance: also count voxels that have one of the same class in the other array within
            this distance, voxels.
        surface_tolerance: up to which surfaces count as the same, mm.

    Returns:
        For every value above 0 that is in either, but ``ignore``, its Dice, its volumes in ml,
        its voxels, and distances of its surfaces; with a tolerance, the Dice that forgives it too.

    Raises:
        UserError: if an array is no such labels, if their shapes differ, or if the spacing or the
            tolerance is none.
    """
    ours, theirs = _labels("prediction", prediction), _labels("reference", reference)
    if ours.shape != theirs.shape:
        raise UserError(
            "prediction and reference have different shapes",
            given=f"{ours.shape} and {theirs.shape}",
            legal="a label for each voxel in both",
        )
    if tolerance is not None and tolerance < 1:
        raise UserError("tolerance is no distance", given=tolerance, legal="1 voxel or more")
    grid = volume_of(theirs, spacing).grid
    overlaps = count_overlaps(ours, theirs, grid.voxel_volume_ml, ignore, tolerance)
    surface = SurfaceTolerance(surface_tolerance)
    overlaps = with_forms(overlaps, (ours, theirs), grid, ignore, {}, {}, surface)
    return {value: one for value, one in overlaps.items() if value not in (0, ignore)}


def _labels(name: str, given: np.ndarray) -> np.ndarray:
    array = np.asarray(given)
    if array.dtype == bool:
        array = array.view(np.uint8)
    if array.ndim != 3 or not array.size or array.dtype.kind not in "iu":
        raise UserError(
            f"{name} is not a 3D array of labels",
            given=f"shape {array.shape}, {array.dtype}",
            legal="three axes, and whole numbers or bool",
        )
    largest_label(name, array)
    return array
