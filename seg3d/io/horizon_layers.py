"""Layers between horizons as a label volume."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from seg3d.common.errors import UserError
from seg3d.io.header import Header
from seg3d.io.horizons import Horizon, horizon_surface
from seg3d.io.regions import Region, VolumeReader, VolumeWriter, slabs, whole
from seg3d.io.segy import Survey

# Label values. The last is the largest that 8 bits hold with and without a sign.
NO_TRACE, NOT_KNOWN = 0, 127
MOST_HORIZONS = NOT_KNOWN - 2
# Names of layers that have values of their own.
BACKGROUND, IGNORE = "background", "ignore"

# Horizons that touch are picked with some noise.
LARGEST_CROSSING_SAMPLES = 1.0
SHOWN = 5
# Voxels that are written at a time.
SLAB_VOXELS = 2**24


def label_values(layers: Sequence[str]) -> dict[str, int]:
    """Label values of named layers: 1, 2, ... in order; layers of one name share a value.

    Layers called ``background`` have `NO_TRACE`, those called ``ignore`` `NOT_KNOWN`, which is
    among the names in any case.
    """
    others = [name for name in dict.fromkeys(layers) if name not in (BACKGROUND, IGNORE)]
    values = {name: number for number, name in enumerate(others, 1)}
    if BACKGROUND in layers:
        values[BACKGROUND] = NO_TRACE
    return values | {IGNORE: NOT_KNOWN}


def layer_labels(
    horizons: Sequence[Horizon],
    survey: Survey,
    reach: float = 10.0,
    values: Sequence[int] | None = None,
) -> Layers:
    """A label volume of the layers between horizons.

    Args:
        horizons: from top to bottom.
        survey: whose grid the labels have.
        reach: bins within which gaps between picks are closed; see `horizon_surface`.
        values: of the layers, one more than there are horizons; 1, 2, ... by default.

    Raises:
        UserError: if a horizon is not in the survey, or horizons cross by more than a sample.
    """
    if not 1 <= len(horizons) <= MOST_HORIZONS:
        raise UserError(
            "layers cannot be labelled",
            given=f"{len(horizons)} horizons",
            legal=f"1 to {MOST_HORIZONS}",
        )
    surfaces = np.stack([horizon_surface(horizon, survey, reach) for horizon in horizons])
    _require_no_crossing(horizons, surfaces, survey)
    return Layers(surfaces, survey, values or range(1, len(horizons) + 2))


class Layers(VolumeReader):
    """Numbers of layers, computed where they are read.

    The first value lies above the first horizon, the second between the first and the second, and
    so on; a sample at a horizon lies below it. `NO_TRACE` where the survey has no trace.
    `NOT_KNOWN` where a horizon that is not known there could decide: to be ignored in training.

    Args:
        surfaces: sample number of each horizon, `(N, X, Y)` from top to bottom; NaN where it is not
            known.
        survey: whose grid the labels have.
        values: of the layers, `(N + 1,)`.
    """

    def __init__(self, surfaces: np.ndarray, survey: Survey, values: Sequence[int]) -> None:
        self.header = Header(survey.grid, 1, survey)
        self.dtype = np.dtype(np.uint8)
        self.slow_axis = survey.slow_axis
        self._surfaces = surfaces
        self._mask = survey.mask
        self._values = np.array([*values, NOT_KNOWN], self.dtype)

    def read(self, region: Region) -> np.ndarray:
        """Labels of a region, `(1, x, y, z)`."""
        x, y, z = region
        samples = np.arange(z.start, z.stop)
        shape = (x.stop - x.start, y.stop - y.start, len(samples))
        # Of the known horizons: how many layers end above a sample, and which horizon is next.
        passed = np.zeros(shape, np.uint8)
        following = np.full(shape, len(self._surfaces), np.uint8)
        for number, surface in reversed(list(enumerate(self._surfaces[:, x, y, None]))):
            passed[(surface <= samples) & (passed == 0)] = number + 1
            following[surface > samples] = number
        labels = self._values[np.where(following <= passed, passed, len(self._values) - 1)]
        labels[~self._mask[x, y]] = NO_TRACE
        return labels[None]

    def write(self, writer: VolumeWriter) -> None:
        """Write all labels, in slabs across the slow axis, to a volume of their shape and type."""
        shape = self.header.grid.shape
        axis = self.slow_axis
        thickness = max(1, SLAB_VOXELS * shape[axis] // int(np.prod(shape)))
        for slab in slabs(whole(shape), axis, thickness):
            writer.write(slab, self.read(slab))

    def close(self) -> None:
        """Nothing is open."""


def _require_no_crossing(horizons: Sequence[Horizon], surfaces: np.ndarray, survey: Survey) -> None:
    for below in range(1, len(horizons)):
        for above in range(below):
            depth = surfaces[above] - surfaces[below]
            crossing = np.argwhere(depth > LARGEST_CROSSING_SAMPLES)
            if not len(crossing):
                continue
            both = int(np.isfinite(depth).sum())
            places = [survey.place_name(row, column) for row, column in crossing[:SHOWN].tolist()]
            more = ["..."] if len(crossing) > SHOWN else []
            raise UserError(
                f"horizons {horizons[above].name} and {horizons[below].name} cross",
                given=f"{horizons[above].name} lies deeper by up to "
                f"{np.nanmax(depth) * survey.grid.spacing[2]:g} {survey.grid.units[2]} in "
                f"{len(crossing)} of {both} places: {'; '.join(places + more)}",
                legal="horizons from top to bottom, crossing by no more than a sample",
                fix="name them from top to bottom, or mend the picks in these places",
            )
