"""Horizons: surfaces that an interpreter has picked, as text files of line numbers and times."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.interpolate import LinearNDInterpolator
from scipy.ndimage import binary_erosion, distance_transform_edt
from scipy.spatial import QhullError

from seg3d.errors import UserError
from seg3d.io.segy import Survey

COMMENTS = ("#", "!", "//")
NAMES = {
    "inline": {"inline", "iline", "il", "inl", "inlineno", "inlinenumber"},
    "crossline": {"crossline", "xline", "xl", "crl", "crosslineno", "crosslinenumber"},
    "time": {"time", "twt", "twtms", "timems", "t", "z", "depth"},
}
# Interpretation packages write these where nothing is picked.
NULLS = (-999.0, -999.25, -9999.0)
LARGEST_TIME = 1e20

# Line numbers lie on a line if they are so close, in steps of the survey's numbering.
ON_LINE = 1e-3
# Picks of one horizon in one place may differ by so much.
LARGEST_SPREAD_SAMPLES = 1.0


@dataclass(frozen=True, eq=False)
class Horizon:
    """Picks of one horizon.

    Attributes:
        name: of the file.
        inlines: inline number of each pick, `(n,)`.
        crosslines: crossline number.
        times: in ms, or depths in m: as the third axis of the survey.
    """

    name: str
    inlines: np.ndarray
    crosslines: np.ndarray
    times: np.ndarray


def read_horizon(path: str | Path) -> Horizon:
    """Read picks from a text file of one row for each.

    Columns are separated by blanks, tabs, commas or semicolons. A line with names above the numbers
    says which columns hold inline, crossline and time; without one there must be three, in this
    order. Lines that begin with ``#``, ``!`` or ``//`` are comments, which may hold the names.
    Picks without a time (nan, -999, -999.25, -9999, 1e30) are left out.

    Raises:
        UserError: if the file cannot be read, or its columns cannot be told apart.
    """
    path = Path(path)
    try:
        # Any byte is a character here: names of horizons may be in any encoding.
        with path.open(encoding="latin-1") as lines:
            names, row, skipped = _first_row(lines)
    except OSError as error:
        raise UserError(f"{path} cannot be read", given=error.strerror) from error
    separator = next((mark for mark in "\t;," if mark in row), None)
    columns = _columns(path, _cells(names, separator), _cells(row, separator))
    try:
        picks = np.loadtxt(
            path, delimiter=separator, skiprows=skipped, usecols=columns, comments=COMMENTS,
            encoding="latin-1", ndmin=2,
        )  # fmt: skip
    except ValueError as error:
        raise UserError(
            f"{path} is damaged or no table of picks", given=error, legal="rows of numbers"
        ) from error
    times = picks[:, 2]
    picked = np.isfinite(picks).all(axis=1) & (np.abs(times) < LARGEST_TIME)
    picks = picks[picked & ~np.isin(times, NULLS)]
    if not len(picks):
        raise UserError(f"{path} holds no picks")
    return Horizon(path.stem, *picks.T)


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


def _first_row(lines: Iterable[str]) -> tuple[str, str, int]:
    """The line above the first row of numbers, that row, and how many lines stand in front."""
    above = ""
    for number, line in enumerate(lines):
        cells = [cell for cell in re.split(r"[,;\s]+", line.strip()) if cell]
        if cells and not line.lstrip().startswith(COMMENTS) and all(map(_is_number, cells)):
            return above, line, number
        if cells:
            above = line
    return above, "", 0


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _cells(line: str, separator: str | None) -> list[str]:
    """The cells of a line, without comment marks, quotes and units in brackets."""
    bare = re.sub(r'\([^)]*\)|\[[^]]*\]|["#!/]', "", line).strip()
    return [cell.strip() for cell in bare.split(separator)] if bare else []


def _columns(path: Path, names: list[str], row: list[str]) -> tuple[int, int, int]:
    """Which columns hold inline, crossline and time."""
    plain = [re.sub(r"[^a-z]", "", name.lower()) for name in names]
    found = [
        next((column for column, name in enumerate(plain) if name in known), None)
        for known in NAMES.values()
    ]
    inline, crossline, time = found
    if len(plain) == len(row) and inline is not None and crossline is not None and time is not None:
        return inline, crossline, time
    if len(row) == 3:
        return 0, 1, 2
    raise UserError(
        f"{path}: which columns hold inline, crossline and time?",
        given=f"columns {', '.join(names)}" if names else f"{len(row)} columns of numbers",
        legal="three columns in this order, or a line above the numbers that names them",
        fix="write a first line such as: inline crossline time",
    )


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
            fix=f"check that the picks are in {unit}, positive downwards",
        )
