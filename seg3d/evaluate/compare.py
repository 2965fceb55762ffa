"""How well predictions agree with references, per case and class."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from seg3d.data.dataset_json import label_values, read_json
from seg3d.errors import UserError
from seg3d.io import (
    LARGEST_LABEL,
    SUFFIXES,
    UNLABELLED,
    is_plain_folder,
    is_volume,
    read_header,
    read_labels,
    read_volume,
    stem,
    suffix,
)
from seg3d.metrics.precision_recall import ScoreCounts
from seg3d.metrics.tolerance import harmonic_mean, voxels_near

# Written by ``predict --probabilities`` beside the labels.
PROBABILITIES = "_probabilities"
# nnU-Net's name for reference voxels that nobody annotated.
IGNORE = "ignore"
# In messages; the rest are counted.
PRINTED_NAMES = 10


@dataclass(frozen=True)
class Pair:
    """A prediction and the reference it is measured against; None where there is no file."""

    case: str
    prediction: Path | None
    reference: Path | None


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
    """

    reference_ml: float = 0.0
    predicted_ml: float = 0.0
    reference_voxels: int = 0
    predicted_voxels: int = 0
    intersection_voxels: int = 0
    near: Near | None = None

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
    """A measure of one class over the cases in which it is defined; NaN for what is undefined."""

    mean: float
    std: float
    median: float
    cases: int


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found.

    Attributes:
        names: label value to class name, in the order of the values; without background.
        cases: for every complete pair the overlap of every class in ``names``.
        missing: cases with a reference but no prediction, which no number here contains.
        unreferenced: cases with a prediction but no reference.
        tolerance: distance up to which voxels count as near, voxels; None if nobody asked.
        scores: of the cases with class probabilities, how probable any foreground class is.
    """

    names: dict[int, str]
    cases: dict[Pair, dict[int, Overlap]]
    missing: tuple[str, ...]
    unreferenced: tuple[str, ...]
    tolerance: int | None = None
    scores: dict[Pair, ScoreCounts] = field(default_factory=dict)

    def summary(self, measure: str = "dice") -> dict[int, Summary]:
        """Mean, sample standard deviation (n - 1) and median of a measure for each class.

        Args:
            measure: ``dice``, or, if there is a tolerance, ``tolerance_dice``.
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


def find_pairs(predictions: Path, references: Path) -> list[Pair]:
    """Match predictions with references by file name without ending; two files match as given.

    Args:
        predictions: a folder (files named ``*_probabilities`` are not looked at) or a file.
        references: a folder or a file, as ``predictions``.

    Returns:
        One pair per case, sorted by name, incomplete ones too (see `Pair`).

    Raises:
        UserError: if a path does not exist, one is a file and the other a folder, both are the
            same, two files of a folder have the same name but for the ending, or nothing matches.
    """
    for path in (predictions, references):
        if not path.exists():
            raise UserError(f"{path} does not exist")
    if is_plain_folder(predictions) != is_plain_folder(references):
        raise UserError(
            "a folder cannot be compared with a file",
            given=f"predictions {predictions} and references {references}",
            legal="two folders or two files",
        )
    if predictions.samefile(references):
        raise UserError(f"predictions and references are the same: {predictions}")
    if not is_plain_folder(predictions):
        return [Pair(stem(references), predictions, references)]

    predicted = {
        name: path
        for name, path in _volumes(predictions).items()
        if not name.endswith(PROBABILITIES)
    }
    referenced = _volumes(references)
    if not predicted.keys() & referenced.keys():
        raise UserError(
            "no prediction has the name of a reference",
            given=f"in {predictions}: {some_names(sorted(predicted))}; "
            f"in {references}: {some_names(sorted(referenced))}",
            legal=f"the same name, with any of the endings {', '.join(SUFFIXES)}",
        )
    return [
        Pair(name, predicted.get(name), referenced.get(name))
        for name in sorted(predicted.keys() | referenced.keys())
    ]


def label_names_near(references: Path) -> dict[int, str] | None:
    """Class names from a ``dataset.json`` (MSD or nnU-Net) beside the references or one up.

    Regions of nnU-Net (a name for several values) are left out: evaluation is per value.

    Raises:
        UserError: if the file is not JSON.
    """
    folder = (references if is_plain_folder(references) else references.parent).resolve()
    for path in (folder / "dataset.json", folder.parent / "dataset.json"):
        if path.is_file():
            return _label_names(path)
    return None


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
        _require_same_grid(pair.prediction, pair.reference)
    found, scores = {}, {}
    for pair in complete:
        found[pair] = _overlaps(pair, ignored, tolerance)
        if probabilities := _probabilities_of(pair):
            scores[pair] = _foreground_scores(pair, probabilities, ignored)
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


def _volumes(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.exists() or not is_volume(path):
            continue
        if stem(path) in found:
            raise UserError(
                f"two files in {folder} are for the same case",
                given=f"{found[stem(path)].name} and {path.name}",
                fix="leave one of them there",
            )
        found[stem(path)] = path
    return found


def _label_names(path: Path) -> dict[int, str] | None:
    content = read_json(path)
    labels = label_values(path, content) if isinstance(content, dict) else None
    if labels is None:
        return None
    return {value: name for name, value in labels.items() if isinstance(value, int)}


def _require_same_grid(prediction: Path, reference: Path) -> None:
    if differences := read_header(prediction).grid.differences(read_header(reference).grid):
        raise UserError(
            f"{prediction} and {reference} do not lie on the same voxels",
            given=f"(prediction and reference) {'; '.join(differences)}",
            legal="the same shape and affine",
            fix="predict on the image that the reference was drawn on, or resample one of them",
        )


def _overlaps(pair: Pair, ignored: int | None, tolerance: int | None) -> dict[int, Overlap]:
    """Count all classes of a case in one pass over its voxels."""
    assert pair.prediction and pair.reference
    prediction, reference = read_labels(pair.prediction), read_labels(pair.reference)
    size = 1 + max(
        _largest(path, volume.array)
        for path, volume in ((pair.prediction, prediction), (pair.reference, reference))
    )
    in_reference, in_prediction, in_both = counts = np.zeros((3, size), dtype=np.int64)
    # bincount makes 64-bit copies: slice by slice, they stay small.
    for theirs, ours in zip(reference.array[0].T, prediction.array[0].T, strict=True):
        theirs, ours = theirs.ravel(), ours.ravel()
        counted = _counted(theirs, ours, ignored)
        theirs, ours = theirs[counted], ours[counted]
        for count, labels in (
            (in_reference, theirs),
            (in_prediction, ours),
            (in_both, ours[ours == theirs]),
        ):
            count += np.bincount(labels.astype(np.intp), minlength=size)
    voxel_ml = reference.grid.voxel_volume_ml
    return {
        int(value): Overlap(
            reference_ml=float(in_reference[value] * voxel_ml),
            predicted_ml=float(in_prediction[value] * voxel_ml),
            reference_voxels=int(in_reference[value]),
            predicted_voxels=int(in_prediction[value]),
            intersection_voxels=int(in_both[value]),
            near=None
            if tolerance is None or value == 0
            else _near(reference.array[0], prediction.array[0], int(value), ignored, tolerance),
        )
        for value in np.flatnonzero(counts.any(axis=0))
    }


def _near(
    theirs: np.ndarray, ours: np.ndarray, value: int, ignored: int | None, tolerance: int
) -> Near:
    counted = _counted(theirs, ours, ignored)
    in_reference, in_prediction = counted & (theirs == value), counted & (ours == value)
    return Near(
        reference_voxels=voxels_near(in_reference, in_prediction, tolerance),
        predicted_voxels=voxels_near(in_prediction, in_reference, tolerance),
    )


def _probabilities_of(pair: Pair) -> Path | None:
    """The class probabilities that were written beside a prediction, if they were."""
    assert pair.prediction
    name = f"{stem(pair.prediction)}{PROBABILITIES}{suffix(pair.prediction)}"
    path = pair.prediction.with_name(name)
    return path if path.is_file() else None


def _foreground_scores(pair: Pair, probabilities: Path, ignored: int | None) -> ScoreCounts:
    """Count how probable the classes other than the first are, all together."""
    assert pair.reference
    _require_same_grid(probabilities, pair.reference)
    first, *others = read_volume(probabilities).array
    # The only one of a format that holds no more is that of the foreground.
    foreground = 1 - first if others else first
    if foreground.dtype.kind != "f" or not (foreground.min() >= 0 and foreground.max() <= 1):
        raise UserError(
            f"{probabilities} does not hold class probabilities",
            given=f"{first.dtype} from {first.min():g} to {first.max():g}",
            legal="one channel per class, background first, from 0 to 1; or foreground alone",
            fix="write it with seg3d predict --probabilities, or take it away",
        )
    counts = ScoreCounts()
    for theirs, scores in zip(read_labels(pair.reference).array[0].T, foreground.T, strict=True):
        known = _counted(theirs, theirs, ignored)
        counts.add(scores[known], theirs[known] > 0)
    return counts


def _largest(path: Path, labels: np.ndarray) -> int:
    largest = int(labels.max())
    smallest = int(labels.min(where=labels != UNLABELLED, initial=largest))
    if smallest < 0 or largest > LARGEST_LABEL:
        raise UserError(
            f"{path} is used as a label but has values that are no class",
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


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def _summarise(values: Iterable[float]) -> Summary:
    defined = [value for value in values if not math.isnan(value)]
    return Summary(
        mean=statistics.fmean(defined) if defined else math.nan,
        std=statistics.stdev(defined) if len(defined) > 1 else math.nan,
        median=statistics.median(defined) if defined else math.nan,
        cases=len(defined),
    )


def some_names(names: Sequence[str]) -> str:
    """The first few names and how many more there are, for a message."""
    more = len(names) - PRINTED_NAMES
    shown = ", ".join(names[:PRINTED_NAMES]) or "nothing"
    return f"{shown} and {more} more" if more > 0 else shown
