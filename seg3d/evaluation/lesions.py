"""Lesions of one class, counted: connected components of the reference, found or not."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

# Voxels that touch by a face, an edge or a corner belong to one lesion.
TOUCHING = np.ones((3, 3, 3), dtype=bool)


@dataclass(frozen=True)
class Lesions:
    """Connected components, voxels touching by faces, edges or corners.

    Nothing is dilated, and none is too small to count.

    Attributes:
        reference: in the reference.
        predicted: in the prediction.
        found: of those in the reference, how many have a voxel in common with the prediction.
        false: of those predicted, how many have none in common with the reference.
    """

    reference: int
    predicted: int
    found: int
    false: int

    @property
    def f1(self) -> float:
        """2 TP / (2 TP + FP + FN) of lesions; NaN if there are none in either."""
        missed = self.reference - self.found
        total = 2 * self.found + self.false + missed
        return 2 * self.found / total if total else math.nan


def lesions(predicted: np.ndarray, reference: np.ndarray) -> Lesions:
    """Count the lesions of two masks, `(X, Y, Z)`, bool."""
    in_reference, found = _touched(reference, predicted)
    in_prediction, right = _touched(predicted, reference)
    return Lesions(in_reference, in_prediction, found, in_prediction - right)


def _touched(mask: np.ndarray, other: np.ndarray) -> tuple[int, int]:
    """The number of components, and of those that have a voxel of the other mask."""
    numbers, count = ndimage.label(mask, TOUCHING)
    return count, int(np.unique(numbers[mask & other]).size)
