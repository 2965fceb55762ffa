"""Surfaces and lesions of all classes of a case, each within the box that holds it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from seg3d.common.errors import UserError
from seg3d.common.threads import in_threads
from seg3d.evaluation.lesions import Lesions, lesions
from seg3d.evaluation.surfaces import SurfaceDistances, surface_distances
from seg3d.geometry import Grid
from seg3d.io import UNLABELLED
from seg3d.io.regions import Region, lengths

Form = tuple[SurfaceDistances, Lesions]
USUAL_TOLERANCE = 1.0  # mm
LARGE = 2**24  # voxels of a box


@dataclass(frozen=True)
class SurfaceTolerance:
    """Up to which distance surfaces count as the same, mm.

    Attributes:
        usual: of every class that has none of its own.
        of_class: by the class's name.

    Raises:
        UserError: if one is not above zero.
    """

    usual: float = USUAL_TOLERANCE
    of_class: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for given in (self.usual, *self.of_class.values()):
            if not 0 < given < float("inf"):
                raise UserError(
                    "a surface tolerance is no distance", given=given, legal="above 0 mm"
                )

    def of(self, name: str | None) -> float:
        return self.usual if name is None else self.of_class.get(name, self.usual)


def forms_of(
    predicted: np.ndarray,
    reference: np.ndarray,
    grid: Grid,
    ignored: int | None,
    values: Mapping[int, frozenset[int]],
    tolerances: Mapping[int, float],
) -> dict[int, Form]:
    """Compare the surfaces and count the lesions of every class.

    Classes are done side by side, in a few threads, but large ones one after the other, which
    bounds the memory: some ten bytes a voxel of the box, and a hundred a voxel of the surfaces.

    Args:
        predicted, reference: `(X, Y, Z)`, integers, `UNLABELLED` where nothing is said.
        grid: of both, in mm.
        ignored: voxels whose reference has this value count nowhere.
        values: of each class, by its number.
        tolerances: of the surface Dice, mm, by the class's number.
    """
    objects = [ndimage.find_objects(_not_negative(one)) for one in (predicted, reference)]
    boxes = {number: _around(objects, of_class) for number, of_class in values.items()}

    def compared(number: int) -> Form:
        box = boxes[number]
        ours, theirs = predicted[box], reference[box]
        counted = (theirs != UNLABELLED) & (ours != UNLABELLED)
        if ignored is not None:
            counted &= theirs != ignored
        ours, theirs = (counted & _is_of(one, values[number]) for one in (ours, theirs))
        distances = surface_distances(ours, theirs, grid.spacing, tolerances[number])
        return distances, lesions(ours, theirs)

    large = [number for number, box in boxes.items() if math.prod(lengths(box)) > LARGE]
    found = {number: compared(number) for number in large}
    others = [number for number in values if number not in found]
    found.update(zip(others, in_threads(compared, others), strict=True))
    return found


def _not_negative(labels: np.ndarray) -> np.ndarray:
    return labels if labels.min() >= 0 else np.maximum(labels, 0)


def _is_of(labels: np.ndarray, values: frozenset[int]) -> np.ndarray:
    """Where one of the values is; without the 64-bit numbers that NumPy's ``isin`` makes."""
    found = np.zeros(labels.shape, dtype=bool)
    for value in values:
        found |= labels == value
    return found


def _around(boxes: list[list[Region | None]], values: frozenset[int]) -> Region:
    """The smallest box that holds these values in both volumes."""
    found = [
        box
        for of_values in boxes
        for value in values
        if 0 < value <= len(of_values) and (box := of_values[value - 1]) is not None
    ]
    if not found:
        return slice(0, 0), slice(0, 0), slice(0, 0)
    x, y, z = (
        slice(min(side.start for side in sides), max(side.stop for side in sides))
        for sides in zip(*found, strict=True)
    )
    return x, y, z
