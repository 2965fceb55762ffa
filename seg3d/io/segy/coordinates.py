"""From the coordinates in the trace headers to where inlines and crosslines lie in the world."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from seg3d.io.segy.lines import COORDINATES, Lines, Positions, word_name
from seg3d.io.segy.scalars import scaled

# So many traces, spread over the file, place a survey to far less than its coordinates' rounding.
MOST_TRACES = 100_000
# Coordinates fit if all but a few traces lie within this share of the smaller bin size.
LARGEST_MISFIT = 0.5
NEARLY_ALL = 0.95
# Wrong coordinates of single traces are left out of the fit: those this many medians away.
OUTLIER = 3.0
ROUNDS = 4
LENGTH_UNITS = (0, 1)  # of bytes 89 and 90; the others are angles


@dataclass(frozen=True, eq=False)
class Fit:
    """The plane affine map from grid to world that fits the coordinates best.

    Attributes:
        x: byte position of the easting.
        y: byte position of the northing.
        origin: of the first inline and crossline, `(2,)`, in the unit of the coordinates.
        steps: from one inline to the next, and from one crossline to the next: columns of `(2, 2)`.
        misfit: distance within which 95 % of the traces lie, as a share of the smaller bin size.
    """

    x: int
    y: int
    origin: np.ndarray
    steps: np.ndarray
    misfit: float


def fit_coordinates(
    headers: dict[str, np.ndarray], lines: Lines, wanted: Positions | None
) -> tuple[Fit | None, str]:
    """Find the coordinates that lie on the grid, and fit the grid to them by least squares.

    Args:
        headers: words of the trace headers: coordinates under `word_name`, ``scalar`` and
            ``units``.
        lines: the grid.
        wanted: positions given by the user.

    Returns:
        The fit, or None and why there is none.
    """
    picked = slice(None, None, -(-len(lines.rows) // MOST_TRACES))
    if not np.isin(headers["units"][picked], LENGTH_UNITS).all():
        return None, "coordinates are angles, not lengths"
    places = np.stack([lines.rows[picked], lines.columns[picked]], axis=1).astype(np.float64)
    problems = []
    taken = {lines.positions.inline, lines.positions.crossline}
    for x, y in _places(wanted):
        if taken & {x, y} or _are_line_numbers(headers, {x, y}, taken):
            continue
        scalars = headers["scalar"][picked]
        world = np.stack([scaled(headers[word_name(at)][picked], scalars) for at in (x, y)], axis=1)
        # Headers of padding traces are empty.
        filled = world.any(axis=1)
        if len(np.unique(world[filled], axis=0)) < 3:
            continue
        fit = _fit(places[filled], world[filled], x, y)
        if fit is not None and fit.misfit <= LARGEST_MISFIT:
            return fit, ""
        off = "no plane" if fit is None else f"off by {fit.misfit:.3g} bins"
        problems.append(f"coordinates at bytes {x} and {y} do not fit the lines ({off})")
    return None, "; ".join(problems) or "no coordinates"


def coordinate_words(wanted: Positions | None) -> set[int]:
    """Every byte position that `fit_coordinates` may look at."""
    return {place for pair in _places(wanted) for place in pair}


def _places(wanted: Positions | None) -> tuple[tuple[int, int], ...]:
    return ((wanted.x, wanted.y),) if wanted and wanted.x and wanted.y else COORDINATES


def _are_line_numbers(headers: dict[str, np.ndarray], words: set[int], lines: set[int]) -> bool:
    """Whether words are copies of line numbers, which some write for want of coordinates."""
    return all(
        any(np.array_equal(headers[word_name(word)], headers[word_name(line)]) for line in lines)
        for word in words
    )


def _fit(places: np.ndarray, world: np.ndarray, x: int, y: int) -> Fit | None:
    """Least squares over the traces that are not outliers, or None if the lines are no plane."""
    middle = world.mean(axis=0)
    design = np.column_stack([np.ones(len(places)), places])
    keep = np.ones(len(places), dtype=bool)
    for _ in range(ROUNDS):
        found, _, rank, _ = np.linalg.lstsq(design[keep], world[keep] - middle, rcond=None)
        if rank < 3:
            return None
        distance = np.linalg.norm(design @ found - (world - middle), axis=1)
        keep = distance <= max(OUTLIER * float(np.median(distance)), 1e-3)
    steps = found[1:].T
    bins = np.linalg.norm(steps, axis=0)
    if abs(np.linalg.det(steps)) < 1e-3 * bins.prod() or not bins.all():
        return None
    misfit = float(np.quantile(distance, NEARLY_ALL) / bins.min())
    return Fit(x, y, found[0] + middle, steps, misfit)
