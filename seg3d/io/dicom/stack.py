"""Slices in order, as one volume."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from seg3d.common.errors import UserError
from seg3d.io.header import no_geometry, places_voxels

# Scanners round positions: to 0.1 mm where slices are 0.625 mm apart, for instance, and a slice is
# compared with the first and the last one.
STEP_TOLERANCE = 0.2
PIXEL_TOLERANCE_MM = 1e-3
SHOWN = 5


class MissingSlices(UserError):
    """Slices of a volume are not there."""


@dataclass(frozen=True, eq=False)
class Slice:
    """What a header says of a slice.

    Attributes:
        name: in messages.
        number: of the slice in the order in which it was found.
        shape: columns and rows.
        affine: `(4, 4)`, index of column, row and slice to RAS+ mm.
    """

    name: str
    number: int
    shape: tuple[int, ...]
    affine: np.ndarray

    @property
    def position(self) -> np.ndarray:
        return self.affine[:3, 3]

    @property
    def normal(self) -> np.ndarray:
        return np.cross(self.affine[:3, 0], self.affine[:3, 1])


def stacked(path: Path, slices: list[Slice], separate: str) -> tuple[list[int], np.ndarray]:
    """The order of slices, and where their voxels lie.

    Args:
        path: of the volume, for messages.
        slices: at least one; a lone one tells its thickness by the third column of its affine.
        separate: what to do if there is more than one slice at a position.

    Returns:
        Their numbers along the normal, and the affine, `(4, 4)`, voxel index to RAS+ mm.

    Raises:
        UserError: if sizes or directions differ, a slice is missing or there twice, or they are
            not evenly spaced.
    """
    for one in slices:
        if not places_voxels(one.affine):
            raise no_geometry(path, f"{one.name}: affine {one.affine.tolist()}")
    _require_one_stack(path, slices)
    first = slices[0]
    towards = first.normal / np.linalg.norm(first.normal)
    slices = sorted(slices, key=lambda one: float(one.position @ towards))
    affine = slices[0].affine.copy()
    if len(slices) > 1:
        affine[:3, 2] = _even_step(path, slices, towards, separate)
    return [one.number for one in slices], affine


def _require_one_stack(path: Path, slices: list[Slice]) -> None:
    """Require that all slices have the same size, spacing and orientation."""
    first = slices[0]
    for one in slices:
        turned = np.abs(one.affine[:3, :2] - first.affine[:3, :2]).max()
        if one.shape != first.shape or turned > PIXEL_TOLERANCE_MM:
            raise UserError(
                f"{path}: {one.name} and {first.name} are not slices of one volume",
                given=" and ".join(
                    f"{slice_.shape} pixels, steps {slice_.affine[:3, :2].T.round(4).tolist()} mm"
                    for slice_ in (one, first)
                ),
                legal="equal size, pixel spacing and orientation",
                fix="move localizers and slices of other stacks elsewhere",
            )


def _even_step(path: Path, slices: list[Slice], towards: np.ndarray, separate: str) -> np.ndarray:
    """From one slice to the next, in RAS+ mm.

    Args:
        path: of the volume, for messages.
        slices: in order, at least two.
        towards: their normal, of length 1.
        separate: as for `stacked`.

    Raises:
        UserError: if a slice is missing, there twice, or not where the others want it.
    """
    positions = np.array([one.position for one in slices])
    heights = positions @ towards
    steps = np.diff(heights)
    usual = float(np.median(steps))
    pairs = list(zip(pairwise(slices), steps, pairwise(heights), strict=True))
    doubled = [pair for pair, step, _ in pairs if step <= STEP_TOLERANCE * usual or step <= 0]
    if doubled:
        raise UserError(
            f"{path}: slices lie at the same position",
            given=_some([f"{one.name} and {other.name}" for one, other in doubled]),
            legal="one slice per position",
            fix=separate,
        )
    gaps = [
        f"{round(step / usual) - 1} between {low:g} and {high:g} mm ({one.name} and {other.name})"
        for (one, other), step, (low, high) in pairs
        if step > 1.5 * usual
    ]
    if gaps:
        raise MissingSlices(
            f"{path}: slices are missing",
            given=_some(gaps),
            legal=f"a slice every {usual:g} mm",
            fix="complete the series",
        )
    step: np.ndarray = (positions[-1] - positions[0]) / (len(slices) - 1)
    even = positions[0] + np.arange(len(slices))[:, None] * step
    if np.linalg.norm(positions - even, axis=1).max() > STEP_TOLERANCE * np.linalg.norm(step):
        raise UserError(
            f"{path}: slices are not evenly spaced along a line",
            given=f"steps from {steps.min():g} to {steps.max():g} mm",
            legal=f"positions within {STEP_TOLERANCE:.0%} of a step",
            fix="resample the series, for example with dcm2niix",
        )
    return step


def _some(found: list[str]) -> str:
    return "; ".join([*found[:SHOWN], *([f"and {len(found) - SHOWN} more"] * (len(found) > SHOWN))])
