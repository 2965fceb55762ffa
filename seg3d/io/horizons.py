"""Horizons: surfaces that an interpreter has picked."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.interpolate import LinearNDInterpolator
from scipy.ndimage import binary_erosion, distance_transform_edt
from scipy.spatial import QhullError

from seg3d.common.errors import UserError
from seg3d.io.picks import read_picks
from seg3d.io.segy import Survey

# Line numbers lie on a line if they are so close, in steps of the survey's numbering.
ON_LINE = 1e-3
# Picks of one horizon in one place may differ by so much.
LARGEST_SPREAD_SAMPLES = 1.0


@dataclass(frozen=True, eq=False)
class Horizon:
    """Picks of one horizon.

    Attributes:
        name: for messages: the path of the file.
        inlines: inline number of each pick, `(n,)`.
        crosslines: crossline number.
        times: in ms, or depths in m: as the third axis of the survey.
    """

    name: str
    inlines: np.ndarray
    crosslines: np.ndarray
    times: np.ndarray


def read_horizon(
    path: str | Path, survey: Survey, columns: Sequence[str] | None = None, scale: float = 1.0
) -> Horizon:
    """Read the picks of a text file.

    Picks with coordinates go to the nearest bin; of several in one bin, the one that is nearest to
    its middle counts.

    Args:
        path: of the file, see `read_picks`.
        survey: that was interpreted.
        columns: what the cells of a row are, see `read_picks`.
        scale: what makes the numbers in the file ms or m downwards, such as 1000 for seconds and
            -1 for heights.

    Raises:
        UserError: if the file cannot be read, its columns cannot be told apart, or it has
            coordinates and the survey none, or others.
    """
    picks = read_picks(Path(path), columns)
    times = picks["time"] * scale
    if "inline" in picks:
        return Horizon(str(path), picks["inline"], picks["crossline"], times)
    rows, places, nearest = _bins(path, np.stack([picks["x"], picks["y"]]), survey)
    return Horizon(
        str(path),
        survey.inline.first + survey.inline.step * rows,
        survey.crossline.first + survey.crossline.step * places,
        times[nearest],
    )


def horizon_surface(horizon: Horizon, survey: Survey, reach: float) -> np.ndarray:
    """A horizon at every place of a survey that its picks reach.

    Places without a pick lie on the plane through the corners of their triangle in the Delaunay
    triangulation of the picks, so never outside the convex hull.

    Args:
        horizon: the picks.
        survey: whose line numbers they use.
        reach: how far from a pick a place may be, in bins.

    Returns:
        Sample number, with its fraction, counted from the first sample, `(X, Y)` float64; NaN
        where the horizon is not known.

    Raises:
        UserError: if no pick lies in the survey, or two picks of one place differ.
    """
    surface = _place(horizon, survey)
    picked = np.isfinite(surface)
    gaps = ~picked & (distance_transform_edt(~picked) <= reach)
    # Picks within an area of picks are no corners of triangles across gaps.
    rim = picked & ~binary_erosion(picked, np.ones((3, 3)), border_value=1)
    if gaps.any():
        # Picks on a single line make no triangles.
        with suppress(QhullError):
            across = LinearNDInterpolator(np.argwhere(rim), surface[rim])
            surface[gaps] = across(np.argwhere(gaps))
    return surface


def _bins(
    path: str | Path, world: np.ndarray, survey: Survey
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bins of a survey with a pick: row and column, and the number of the pick nearest to each.

    Args:
        path: for messages.
        world: easting and northing of picks, `(2, n)`, in the unit of the trace headers.
        survey: whose coordinates these are.
    """
    if survey.fit is None:
        raise UserError(
            f"{path} says where picks lie by x and y",
            given=f"{survey.layout.path}, of which no coordinates are known",
            fix="export the horizon with inline and crossline numbers",
        )
    places = np.linalg.solve(survey.fit.steps, world - survey.fit.origin[:, None])
    nearest = np.rint(places)
    shape = np.array(survey.index.shape)[:, None]
    inside = np.flatnonzero(((nearest >= 0) & (nearest < shape)).all(axis=0))
    if not len(inside):
        x, y = (f"{one.min():.8g} to {one.max():.8g}" for one in world)
        east, north = survey.fit.origin
        raise UserError(
            f"{path} has no pick in the survey",
            given=f"x {x}, y {y}",
            legal=f"coordinates of {survey.layout.path}, which begins at {east:.8g}, {north:.8g}",
            fix="check that both have the same projection and unit",
        )
    off = np.linalg.norm(places - nearest, axis=0)[inside]
    inside = inside[np.argsort(off, kind="stable")]
    flat = np.ravel_multi_index(tuple(nearest[:, inside].astype(np.int64)), survey.index.shape)
    taken, first = np.unique(flat, return_index=True)
    rows, columns = np.unravel_index(taken, survey.index.shape)
    return rows, columns, inside[first]


def _place(horizon: Horizon, survey: Survey) -> np.ndarray:
    """Sample number at the places with picks, `(X, Y)`; NaN elsewhere."""
    shape = survey.index.shape
    axes = (survey.inline, survey.crossline)
    numbers = (horizon.inlines, horizon.crosslines)
    places = [(one - axis.first) / axis.step for one, axis in zip(numbers, axes, strict=True)]
    nearest = [np.rint(place) for place in places]
    inside = np.all(
        [
            (np.abs(place - on) < ON_LINE) & (on >= 0) & (on < axis.count)
            for place, on, axis in zip(places, nearest, axes, strict=True)
        ],
        axis=0,
    )
    if not inside.any():
        raise UserError(
            f"horizon {horizon.name} has no pick in the survey",
            given=", ".join(
                f"{name}s {one.min():g} to {one.max():g}"
                for name, one in zip(("inline", "crossline"), numbers, strict=True)
            ),
            legal=f"inlines {survey.inline}, crosslines {survey.crossline}",
            fix="if the columns hold something else, say so in data.labels.columns",
        )
    first, step = survey.grid.affine[2, 3], survey.grid.affine[2, 2]
    samples = (horizon.times[inside] - first) / step
    _require_unit(horizon, survey, samples)
    flat = np.ravel_multi_index([on[inside].astype(np.int64) for on in nearest], shape)
    counts = np.bincount(flat, minlength=survey.index.size)
    with np.errstate(invalid="ignore"):
        surface = np.bincount(flat, samples, minlength=survey.index.size) / counts
    apart = np.abs(samples - surface[flat]) > LARGEST_SPREAD_SAMPLES / 2
    if apart.any():
        row, column = np.unravel_index(flat[apart][0], shape)
        raise UserError(
            f"horizon {horizon.name} has several times in one place",
            given=f"{int(apart.sum())} picks, first at {survey.place_name(row, column)}",
            legal="one time at each inline and crossline",
        )
    return surface.reshape(shape)


def _require_unit(horizon: Horizon, survey: Survey, samples: np.ndarray) -> None:
    """Picks in seconds lie in the first sample of a survey in ms, or above it."""
    count, unit = survey.grid.shape[2], survey.grid.units[2]
    if samples.max() < 0 or samples.min() > count - 1 or (np.abs(samples) < 1).all():
        first = survey.grid.affine[2, 3]
        last = first + (count - 1) * survey.grid.affine[2, 2]
        raise UserError(
            f"horizon {horizon.name} lies outside the survey",
            given=f"{horizon.times.min():g} to {horizon.times.max():g}",
            legal=f"{first:g} to {last:g} {unit}",
            fix=f"bring the picks to {unit}, positive downwards, by data.labels.scale: 1000 for "
            "seconds, -1 for times or depths below zero",
        )
