"""What an evaluation finds: counts of each class in each case, and means over the cases."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from seg3d.evaluation.forms import SurfaceTolerance
from seg3d.evaluation.lesions import Lesions
from seg3d.evaluation.pairs import Pair
from seg3d.evaluation.precision_recall import ScoreCounts
from seg3d.evaluation.surfaces import SurfaceDistances
from seg3d.evaluation.tolerance import harmonic_mean

RESAMPLES = 2000
OUTSIDE = (2.5, 97.5)  # per cent, of a 95 % interval


@dataclass(frozen=True)
class Near:
    """Voxels of a class with a voxel of the same class nearby in the other volume.

    Attributes:
        reference_voxels, predicted_voxels: how many, of those in the reference and predicted.
    """

    reference_voxels: int = 0
    predicted_voxels: int = 0


@dataclass(frozen=True)
class Overlap:
    """How much of one class there is in one case; all zero where it is in neither file.

    Attributes:
        reference_ml, predicted_ml: volume in the reference and in the prediction, in ml;
            NaN for voxels that are not measured in mm.
        reference_voxels, predicted_voxels: the same in voxels.
        intersection_voxels: voxels that have the class in both.
        near: of the voxels of either, how many have one of the other nearby; None if nobody asked.
        surface: how far the surfaces are apart; None if the class is in neither file, or voxels
            are not measured in mm.
        lesions: connected components; None as there.
    """

    reference_ml: float = 0.0
    predicted_ml: float = 0.0
    reference_voxels: int = 0
    predicted_voxels: int = 0
    intersection_voxels: int = 0
    near: Near | None = None
    surface: SurfaceDistances | None = None
    lesions: Lesions | None = None

    @property
    def iou(self) -> float:
        """|P ∩ R| / |P ∪ R|; NaN and 0 as Dice."""
        total = self.reference_voxels + self.predicted_voxels - self.intersection_voxels
        return _share(self.intersection_voxels, total)

    @property
    def precision(self) -> float:
        """|P ∩ R| / |P|; NaN if nothing is predicted."""
        return _share(self.intersection_voxels, self.predicted_voxels)

    @property
    def recall(self) -> float:
        """|P ∩ R| / |R|, the sensitivity; NaN if there is nothing to be found."""
        return _share(self.intersection_voxels, self.reference_voxels)

    @property
    def volume_difference_ml(self) -> float:
        """Predicted minus reference, ml."""
        return self.predicted_ml - self.reference_ml

    @property
    def hd_mm(self) -> float:
        """See `SurfaceDistances`."""
        return self.surface.hd_mm if self.surface else math.nan

    @property
    def hd95_mm(self) -> float:
        """See `SurfaceDistances`."""
        return self.surface.hd95_mm if self.surface else math.nan

    @property
    def assd_mm(self) -> float:
        """See `SurfaceDistances`."""
        return self.surface.assd_mm if self.surface else math.nan

    @property
    def surface_dice(self) -> float:
        """See `SurfaceDistances`."""
        return self.surface.surface_dice if self.surface else math.nan

    @property
    def lesion_f1(self) -> float:
        """See `Lesions`."""
        return self.lesions.f1 if self.lesions else math.nan

    @property
    def lesions_reference(self) -> float:
        """See `Lesions`; NaN if none were counted."""
        return self.lesions.reference if self.lesions else math.nan

    @property
    def lesions_predicted(self) -> float:
        """See `Lesions`; NaN if none were counted."""
        return self.lesions.predicted if self.lesions else math.nan

    @property
    def lesions_found(self) -> float:
        """See `Lesions`; NaN if none were counted."""
        return self.lesions.found if self.lesions else math.nan

    @property
    def lesions_false(self) -> float:
        """See `Lesions`; NaN if none were counted."""
        return self.lesions.false if self.lesions else math.nan

    @property
    def dice(self) -> float:
        """2 |P ∩ R| / (|P| + |R|); NaN if both are empty, 0 if one of them is."""
        total = self.reference_voxels + self.predicted_voxels
        return 2 * self.intersection_voxels / total if total else math.nan

    @property
    def tolerance_precision(self) -> float:
        """Share of the predicted voxels that lie near the reference; NaN if there are none."""
        assert self.near
        return _share(self.near.predicted_voxels, self.predicted_voxels)

    @property
    def tolerance_recall(self) -> float:
        """Share of the reference voxels that lie near predicted ones; NaN if there are none."""
        assert self.near
        return _share(self.near.reference_voxels, self.reference_voxels)

    @property
    def tolerance_dice(self) -> float:
        """Harmonic mean of the two; NaN if the class is in neither file, 0 if in one of them."""
        return harmonic_mean(self.tolerance_precision, self.tolerance_recall)


@dataclass(frozen=True)
class Summary:
    """A measure of one class over the cases in which it is defined; NaN for what is undefined.

    Attributes:
        std: sample standard deviation (n - 1).
        low, high: bounds of the mean's 95 % confidence interval, by drawing as many cases with
            replacement (percentile bootstrap; Efron and Tibshirani 1993, chapter 13).
    """

    mean: float
    std: float
    median: float
    cases: int
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found.

    Attributes:
        names: label value to class name, in the order of the values; without background.
        cases: for every complete pair the overlap of every class in ``names``.
        missing: cases with a reference but no prediction, which no number here contains.
        unreferenced: cases with a prediction but no reference.
        failed: cases whose files cannot be compared, and why.
        tolerance: distance up to which voxels count as near, voxels; None if nobody asked.
        surface_tolerance: of the surface Dice, mm.
        scores: of the cases with class probabilities, how probable any foreground class is.
    """

    names: dict[int, str]
    cases: dict[Pair, dict[int, Overlap]]
    missing: tuple[str, ...]
    unreferenced: tuple[str, ...]
    failed: dict[str, str] = field(default_factory=dict)
    tolerance: int | None = None
    surface_tolerance: SurfaceTolerance = SurfaceTolerance()
    scores: dict[Pair, ScoreCounts] = field(default_factory=dict)

    def summary(self, measure: str = "dice") -> dict[int, Summary]:
        """A measure of each class over the cases.

        Args:
            measure: name of a property of `Overlap`, such as ``dice``, ``hd95_mm`` or, if there
                is a tolerance, ``tolerance_dice``.
        """
        return {
            value: _summarise(
                [getattr(overlaps[value], measure) for overlaps in self.cases.values()]
            )
            for value in self.names
        }

    def average_precision(self) -> Summary:
        """Of foreground against background, over the cases with probabilities."""
        return _summarise([counts.average_precision for counts in self.scores.values()])

    def foreground_mean_dice(self, measure: str = "dice") -> float:
        """Mean over the classes of their mean Dice, as nnU-Net reports it; NaN if there is none.

        Args:
            measure: ``dice``, or, if there is a tolerance, ``tolerance_dice``.

        Source: Isensee et al., nnU-Net, Nature Methods 18, 2021.
        """
        return _summarise([summary.mean for summary in self.summary(measure).values()]).mean


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def _summarise(values: Iterable[float]) -> Summary:
    defined = [value for value in values if not math.isnan(value)]
    low, high = _interval(defined) if len(defined) > 1 else (math.nan, math.nan)
    return Summary(
        mean=statistics.fmean(defined) if defined else math.nan,
        std=statistics.stdev(defined) if len(defined) > 1 else math.nan,
        median=statistics.median(defined) if defined else math.nan,
        cases=len(defined),
        low=low,
        high=high,
    )


def _interval(values: list[float]) -> tuple[float, float]:
    """The same for the same values, whatever else was drawn."""
    draws = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.percentile(np.asarray(values)[draws].mean(1), OUTSIDE)
    return float(low), float(high)
