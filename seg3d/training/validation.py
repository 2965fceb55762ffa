"""Validation during training: whole volumes, per-class Dice, a picture.

A volume is never held whole: it is read, scored and compared slab by slab, and in columns where
the scores of its many classes would not fit.
"""

from __future__ import annotations

import math
from collections import ChainMap
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import nn

from seg3d.common.free_ram import free_ram
from seg3d.common.ranks import ALONE, Ranks
from seg3d.common.stopping import StopRequest
from seg3d.data.case_reader import CaseReader
from seg3d.data.cases import Case
from seg3d.data.grid_map import GridMap, network_view
from seg3d.data.open_case import open_case
from seg3d.data.reference import ReferenceReader
from seg3d.io.regions import Region, columns, portions
from seg3d.pictures.planes import three_planes
from seg3d.plan import Plan
from seg3d.prediction.decisions import Decision
from seg3d.prediction.scores import WindowScores, reordered
from seg3d.prediction.windows import Windows, stream_scores

# Voxels along each axis that are kept for a picture; its panels have fewer pixels.
MOST_IN_PICTURE = 300
# Of the RAM that is free, for the scores of all classes.
SHARE_OF_RAM = 0.5


@dataclass(frozen=True)
class Validation:
    """Result of a validation, on the grid that the network works on.

    Attributes:
        dice: mean over cases for each foreground class or region, NaN where no case has it.
        picture: `(H, W, 3)` uint8, overlays of the first case; None in processes that have not
            segmented that.
    """

    dice: dict[str, float]
    picture: np.ndarray | None

    @property
    def mean_dice(self) -> float:
        """Mean over the foreground classes that occur; 0 if none does."""
        known = [value for value in self.dice.values() if np.isfinite(value)]
        return float(np.mean(known)) if known else 0.0


def validate(
    network: nn.Module,
    plan: Plan,
    cases: Sequence[Case],
    *,
    overlap: float,
    dtype: torch.dtype,
    stop: StopRequest,
    describe: Callable[[str], object] = lambda text: None,
    ranks: Ranks = ALONE,
) -> Validation | None:
    """Segment every validation case and compare.

    Several processes share out the cases, and all get the same result.

    A class that neither reference nor prediction of a case contains leaves that case out of its
    mean.

    Args:
        network: left in training mode.
        plan: of its run.
        cases: with labels.
        overlap: of neighbouring windows, as a share of their side.
        dtype: of the forward pass (autocast).
        stop: asked between slabs; a request ends the validation.
        describe: told, in a few words, which case is looked at.
        ranks: the processes that share the cases.

    Returns:
        The result, or None if it was stopped.

    Raises:
        UserError: if a file has become unusable.
    """
    network.eval()
    rows: dict[int, np.ndarray] = {}
    stopped = False
    picture: np.ndarray | None = None
    for number in range(ranks.rank, len(cases), ranks.count):
        describe(f"validating, case {number + 1} of {len(cases)}")
        segment = partial(_segment, network, plan, overlap, dtype, ranks.local_count)
        found = _compared(plan, cases[number], segment, stop, pictured=number == 0)
        if found is None:
            stopped = True
            break
        rows[number] = dice_of(found[0], plan.membership)
        if number == 0:
            picture = found[1]
    network.train()
    if any(ranks.gathered(stopped)):
        return None
    found_by_case = ChainMap(*ranks.gathered(rows))
    table = np.array([found_by_case[number] for number in range(len(cases))])
    counted = np.isfinite(table)
    totals = np.where(counted, table, 0).sum(0)
    names = [one.name for one in plan.sought]
    with np.errstate(invalid="ignore"):
        means = totals / counted.sum(0)
    return Validation(dict(zip(names, means.tolist(), strict=True)), picture)


def _compared(
    plan: Plan,
    case: Case,
    segment: Callable[[CaseReader], Iterator[tuple[Region, np.ndarray]]],
    stop: StopRequest,
    *,
    pictured: bool,
) -> tuple[np.ndarray, np.ndarray | None] | None:
    """The confusion matrix of a case, and a picture if it is wanted; None if it was stopped."""
    assert case.label is not None
    parts = len(plan.parts)
    confusion = np.zeros((parts, parts), dtype=np.int64)
    with (
        open_case(case.images, plan) as image,
        closing(ReferenceReader(case.label, image)) as reference,
    ):
        sketch = _Sketch(image.grid_map) if pictured else None
        for region, predicted in segment(image):
            if stop.reason:
                return None
            truth = reference.read(region)[0].astype(np.int16) - 1
            confusion += confusion_matrix(truth, predicted, parts)
            if sketch is not None:
                sketch.add(region, image.read(region)[0].numpy(), truth, predicted)
    return confusion, None if sketch is None else sketch.picture(plan, case.name)


def _segment(
    network: nn.Module,
    plan: Plan,
    overlap: float,
    dtype: torch.dtype,
    sharing: int,
    image: CaseReader,
) -> Iterator[tuple[Region, np.ndarray]]:
    """Numbers of the plan's parts `(d, h, w)` of a case, slab by slab, in streaming order."""
    decision = Decision(plan)
    grid_map = image.grid_map
    size = grid_map.streamed(plan.least_shape(grid_map.working))
    windows = Windows.covering(grid_map.shape, size, overlap, nnunet=plan.nnunet is not None)
    windows = windows.mirrored(grid_map.streamed_flips)
    scores = WindowScores(network, dtype=dtype)
    image.cut()
    image.measure()
    for column in columns(grid_map.shape, _parts(windows, len(plan.classes), sharing)):
        found = stream_scores(
            lambda some: reordered(scores(grid_map.to_network(some)), grid_map.from_network),
            image.read,
            windows,
            column,
            device=next(network.parameters()).device,
        )
        for start, slab in found:
            depth, height, width = slab.shape[1:]
            for x, _, _ in portions((depth, height, width), 0):
                region = slice(start + x.start, start + x.stop), *column[1:]
                yield region, decision.of_scores(slab[:, x]).numpy()
            # Not to be held while the next is made.
            del slab


def _parts(windows: Windows, classes: int, sharing: int) -> tuple[int, int]:
    """In how many the second and third axis are cut, lest scores take most of the free RAM.

    Windows at the cuts are scored for both sides. What comes out does not depend on the cuts. So
    many processes share the RAM.
    """
    depth, *cross = map(min, windows.size, windows.shape)
    most = SHARE_OF_RAM * free_ram() / sharing / (4 * classes * depth)
    parts = [1, 1]
    sides = list(windows.shape[1:])
    while math.prod(sides) > most and sides != cross:
        longer = int(sides[1] / cross[1] > sides[0] / cross[0])
        parts[longer] += 1
        sides[longer] = max(cross[longer], math.ceil(windows.shape[1 + longer] / parts[longer]))
    return parts[0], parts[1]


class _Sketch:
    """Every n-th voxel of a case that comes region by region: enough for a picture.

    Args:
        grid_map: of the case.
    """

    def __init__(self, grid_map: GridMap) -> None:
        self._turn = grid_map.permutation, grid_map.flips
        self._steps = [math.ceil(length / MOST_IN_PICTURE) for length in grid_map.shape]
        shape = map(math.ceil, np.divide(grid_map.shape, self._steps))
        self._voxels = np.zeros((3, *shape), np.float32)

    def add(self, region: Region, *parts: np.ndarray) -> None:
        """Remember of a region, in streaming order, image, reference and prediction."""
        ours, theirs = zip(*map(_every, region, self._steps), strict=True)
        for kept, part in zip(self._voxels, parts, strict=True):
            kept[ours] = part[theirs]

    def picture(self, plan: Plan, name: str) -> np.ndarray:
        """The picture, `(H, W, 3)` uint8."""
        image, reference, predicted = network_view(self._voxels, *self._turn)
        spacing = plan.spacing or plan.typical_spacing
        x, y, z = (
            length * self._steps[place]
            for length, place in zip(spacing, self._turn[0], strict=True)
        )
        overlays = {"reference": reference.astype(int), "prediction": predicted.astype(int)}
        names = [one.name for one in plan.parts]
        return three_planes(
            image, overlays, names, (x, y, z), title=name, orientation=plan.orientation
        )


def _every(part: slice, step: int) -> tuple[slice, slice]:
    """Where every ``step``-th voxel of an axis goes, and where it is, counted within a part."""
    first, last = math.ceil(part.start / step), math.ceil(part.stop / step)
    return slice(first, last), slice(first * step - part.start, None, step)


def dice_per_class(reference: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Dice of classes 1, 2, ... over the labelled voxels; NaN where both are empty.

    Args:
        reference: class numbers, negative where there is no label.
        predicted: class numbers, of the same shape.
        classes: number of classes, background included.
    """
    return dice_of(confusion_matrix(reference, predicted, classes))


def confusion_matrix(reference: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Labelled voxels for each pair of classes, `(classes, classes)`; see `dice_per_class`."""
    labelled = reference >= 0
    pairs = reference[labelled].astype(np.int64) * classes + predicted[labelled]
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def dice_of(confusion: np.ndarray, regions: Sequence[Sequence[bool]] | None = None) -> np.ndarray:
    """Dice of classes 1, 2, ..., or of regions, from a confusion matrix.

    Args:
        confusion: see `confusion_matrix`.
        regions: of each, which classes are in it.

    Returns:
        A number for each, NaN where both sides are empty.
    """
    sought = np.eye(len(confusion))[1:] if regions is None else np.array(regions, float)
    # What is in a region on both sides, and on either one.
    both = ((sought @ confusion) * sought).sum(1)
    size = sought @ (confusion.sum(0) + confusion.sum(1))
    with np.errstate(invalid="ignore"):
        dice: np.ndarray = 2 * both / size
    return dice
