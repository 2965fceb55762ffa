"""Counts over the voxels of one case."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from seg3d.common.errors import UserError
from seg3d.evaluation.classes import Classes
from seg3d.evaluation.forms import SurfaceTolerance, forms_of
from seg3d.evaluation.pairs import Pair, require_same_grid
from seg3d.evaluation.precision_recall import ScoreCounts
from seg3d.evaluation.results import Near, Overlap
from seg3d.evaluation.tolerance import voxels_near
from seg3d.geometry import Grid
from seg3d.io import LARGEST_LABEL, UNLABELLED, Volume, read_labels, read_volume


def overlaps_of(
    pair: Pair, classes: Classes, tolerance: int | None, surface: SurfaceTolerance
) -> dict[int, Overlap]:
    """Compare all classes of a case."""
    assert pair.prediction and pair.reference
    turn = require_same_grid(pair.prediction, pair.reference)
    reference = _read(pair.reference, classes)
    predicted = turn.array(_read(pair.prediction, classes).array)
    volumes = predicted[0], reference.array[0]
    grid, ignored = reference.grid, classes.ignored
    count = partial(count_regions, regions=classes.regions) if classes.regions else count_overlaps
    found = count(*volumes, grid.voxel_volume_ml, ignored, tolerance)
    return with_forms(found, volumes, grid, ignored, classes.regions, classes.names, surface)


def with_forms(
    overlaps: Mapping[int, Overlap],
    volumes: tuple[np.ndarray, np.ndarray],
    grid: Grid,
    ignored: int | None,
    regions: Mapping[int, frozenset[int]],
    names: Mapping[int, str],
    tolerance: SurfaceTolerance,
) -> dict[int, Overlap]:
    """The same with surfaces and lesions, but of background, and if voxels are measured in mm.

    Args:
        overlaps: by the number of the class.
        volumes: prediction and reference, `(X, Y, Z)` each.
        grid: of both.
        ignored: voxels whose reference has this value count nowhere.
        regions: values of each class by its number; empty if the number is the value.
        names: of the classes.
        tolerance: of the surface Dice.
    """
    wanted = [number for number in overlaps if number not in (0, ignored)]
    if set(grid.units) != {"mm"}:
        wanted = []
    values = {number: regions.get(number, frozenset([number])) for number in wanted}
    tolerances = {number: tolerance.of(names.get(number)) for number in wanted}
    forms = forms_of(*volumes, grid, ignored, values, tolerances) if wanted else {}
    return {
        number: replace(one, surface=forms[number][0], lesions=forms[number][1])
        if number in forms
        else one
        for number, one in overlaps.items()
    }


def count_overlaps(
    predicted: np.ndarray,
    reference: np.ndarray,
    voxel_ml: float,
    ignored: int | None,
    tolerance: int | None,
) -> dict[int, Overlap]:
    """Count all values, background too, in one pass over the voxels.

    Args:
        predicted, reference: `(X, Y, Z)`, integers, `UNLABELLED` where nothing is said.
        voxel_ml: volume of a voxel, ml.
        ignored: voxels whose reference has this value count nowhere.
        tolerance: see `seg3d.evaluation.evaluate`.
    """
    size = 1 + max(int(predicted.max()), int(reference.max()), 0)
    in_reference, in_prediction, in_both = counts = np.zeros((3, size), dtype=np.int64)
    # bincount makes 64-bit copies: slice by slice, they stay small.
    for theirs, ours in zip(reference.T, predicted.T, strict=True):
        theirs, ours = theirs.ravel(), ours.ravel()
        counted = _counted(theirs, ours, ignored)
        theirs, ours = theirs[counted], ours[counted]
        for count, labels in (
            (in_reference, theirs),
            (in_prediction, ours),
            (in_both, ours[ours == theirs]),
        ):
            count += np.bincount(labels.astype(np.intp), minlength=size)
    return {
        int(value): _overlap(
            counts[:, value],
            voxel_ml,
            None
            if tolerance is None or value == 0
            else _near(reference, predicted, frozenset([int(value)]), ignored, tolerance),
        )
        for value in np.flatnonzero(counts.any(axis=0))
    }


def count_regions(
    predicted: np.ndarray,
    reference: np.ndarray,
    voxel_ml: float,
    ignored: int | None,
    tolerance: int | None,
    regions: Mapping[int, frozenset[int]],
) -> dict[int, Overlap]:
    """As `count_overlaps`, of regions, which may overlap.

    Args:
        predicted, reference, voxel_ml, ignored, tolerance: as there.
        regions: their values, by number.
    """
    largest = max(int(predicted.max()), int(reference.max()), 0)
    members = np.array([np.isin(np.arange(largest + 1), [*one]) for one in regions.values()])
    counts = np.zeros((3, len(regions)), dtype=np.int64)
    for theirs, ours in zip(reference.T, predicted.T, strict=True):
        counted = _counted(theirs, ours, ignored)
        in_reference, in_prediction = members[:, theirs[counted]], members[:, ours[counted]]
        for count, inside in zip(
            counts, (in_reference, in_prediction, in_reference & in_prediction), strict=True
        ):
            count += inside.sum(1)
    return {
        number: _overlap(
            of_region,
            voxel_ml,
            None if tolerance is None else _near(reference, predicted, values, ignored, tolerance),
        )
        for (number, values), of_region in zip(regions.items(), counts.T, strict=True)
    }


def _overlap(counts: np.ndarray, voxel_ml: float, near: Near | None) -> Overlap:
    """From the voxels in the reference, in the prediction, and in both."""
    in_reference, in_prediction, in_both = map(int, counts)
    return Overlap(
        reference_ml=in_reference * voxel_ml,
        predicted_ml=in_prediction * voxel_ml,
        reference_voxels=in_reference,
        predicted_voxels=in_prediction,
        intersection_voxels=in_both,
        near=near,
    )


def foreground_scores(pair: Pair, probabilities: Path, classes: Classes) -> ScoreCounts:
    """Count how probable the classes other than the first are, all together.

    Of regions it is the most probable one that counts.
    """
    assert pair.reference
    turn = require_same_grid(probabilities, pair.reference)
    channels = turn.array(read_volume(probabilities).array)
    first, *others = channels
    # The only one of a format that holds no more is that of the foreground.
    foreground = 1 - first if others else first
    if classes.regions:
        foreground = channels.max(0)
    if foreground.dtype.kind != "f" or not (foreground.min() >= 0 and foreground.max() <= 1):
        raise UserError(
            f"{probabilities} does not hold class probabilities",
            given=f"{first.dtype} from {first.min():g} to {first.max():g}",
            legal="one channel per class, background first, from 0 to 1; or foreground alone; or "
            "one per region",
            fix="write it with seg3d predict --probabilities, or take it away",
        )
    counts = ScoreCounts()
    regions = [*frozenset().union(*classes.regions.values())]
    for theirs, scores in zip(_read(pair.reference, classes).array[0].T, foreground.T, strict=True):
        known = _counted(theirs, theirs, classes.ignored)
        inside = np.isin(theirs[known], regions) if regions else theirs[known] > 0
        counts.add(scores[known], inside)
    return counts


def _near(
    theirs: np.ndarray,
    ours: np.ndarray,
    values: frozenset[int],
    ignored: int | None,
    tolerance: int,
) -> Near:
    counted = _counted(theirs, ours, ignored)
    in_reference, in_prediction = (counted & np.isin(one, [*values]) for one in (theirs, ours))
    return Near(
        reference_voxels=voxels_near(in_reference, in_prediction, tolerance),
        predicted_voxels=voxels_near(in_prediction, in_reference, tolerance),
    )


def _read(path: Path, classes: Classes) -> Volume:
    """Labels, each class by the value that stands for it."""
    volume = read_labels(path, classes.label_rest)
    largest = largest_label(path, volume.array)
    merged = {value: first for value, first in classes.merged.items() if value <= largest}
    if not merged:
        return volume
    standing = np.arange(largest + 1)
    standing[list(merged)] = list(merged.values())
    fits = standing.max() <= np.iinfo(volume.array.dtype).max
    array = volume.array.astype(volume.array.dtype if fits else np.int32)
    # Slice by slice, since 64-bit numbers of a whole volume would be large.
    for rows in array[0]:
        known = rows != UNLABELLED
        rows[known] = standing[rows[known]]
    return Volume(array, volume.header)


def largest_label(name: Path | str, labels: np.ndarray) -> int:
    """The largest value.

    Args:
        name: of the labels, for messages.
        labels: integers of any shape, `UNLABELLED` where nothing is said.

    Raises:
        UserError: if a value can be no class.
    """
    largest = int(labels.max())
    smallest = int(labels.min(where=labels != UNLABELLED, initial=largest))
    if smallest < 0 or largest > LARGEST_LABEL:
        raise UserError(
            f"{name} is used as a label but has values that are no class",
            given=f"values from {smallest} to {largest}",
            legal=f"0 (background) to {LARGEST_LABEL}",
        )
    return largest


def _counted(theirs: np.ndarray, ours: np.ndarray, ignored: int | None) -> np.ndarray:
    """Of which voxels both the reference and the prediction say something."""
    counted: np.ndarray = (theirs != UNLABELLED) & (ours != UNLABELLED)
    if ignored is not None:
        counted &= theirs != ignored
    return counted
