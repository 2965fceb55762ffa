"""Precision and recall at every threshold, without sorting the scores of whole volumes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

BINS = 4096


class Curve(NamedTuple):
    """Precision and recall of "score ≥ threshold"; all `(N,)`, highest threshold first.

    Only thresholds that some score has; in between nothing changes.
    """

    threshold: np.ndarray
    precision: np.ndarray
    recall: np.ndarray


def _zeros() -> np.ndarray:
    return np.zeros(BINS, np.int64)


@dataclass(eq=False)
class ScoreCounts:
    """How many voxels have which score. Counts of several volumes may be added up.

    Attributes:
        positive: `(BINS,)` voxels of the reference whose score is in each of equal intervals of
            [0, 1].
        negative: `(BINS,)` the others.
    """

    positive: np.ndarray = field(default_factory=_zeros)
    negative: np.ndarray = field(default_factory=_zeros)

    def add(self, scores: np.ndarray, reference: np.ndarray) -> None:
        """Count more voxels.

        Args:
            scores: from 0 to 1, of any shape.
            reference: bool, of the same shape.
        """
        bins = (scores * BINS).astype(np.intp).clip(0, BINS - 1)
        self.positive += np.bincount(bins[reference], minlength=BINS)
        self.negative += np.bincount(bins[~reference], minlength=BINS)

    def __add__(self, other: ScoreCounts) -> ScoreCounts:
        return ScoreCounts(self.positive + other.positive, self.negative + other.negative)

    def curve(self) -> Curve:
        """Precision and recall; recall is NaN if the reference is empty."""
        hits, false_alarms = (np.cumsum(count[::-1]) for count in (self.positive, self.negative))
        threshold = np.arange(BINS)[::-1] / BINS
        found = hits + false_alarms
        seen = (self.positive + self.negative)[::-1] > 0
        with np.errstate(invalid="ignore"):
            recall = hits / hits[-1]
        return Curve(threshold[seen], hits[seen] / found[seen], recall[seen])

    @property
    def average_precision(self) -> float:
        """Precision averaged over the recall that each threshold adds; NaN without a reference.

        It is that of scores rounded down to multiples of 1/BINS, without interpolation (which
        flatters; Davis and Goadrich, ICML 2006).
        """
        curve = self.curve()
        return float((curve.precision * np.diff(curve.recall, prepend=0)).sum())
