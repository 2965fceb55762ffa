"""A survey's horizons in place of a label volume."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from seg3d.common.files import stamp
from seg3d.io.horizon_layers import Layers, layer_labels
from seg3d.io.horizons import read_horizon
from seg3d.io.segy import Survey, read_survey


@dataclass(frozen=True)
class Interpretation:
    """Files of picks from which the labels of a survey are computed where they are read.

    Attributes:
        survey: a SEG-Y file.
        horizons: files of picks, from top to bottom.
        values: label value of each layer, one more than there are horizons.
        columns: of the files; see `read_picks`.
        scale: of the times; see `read_horizon`.
        reach: of the picks, in bins; see `horizon_surface`.
    """

    survey: Path
    horizons: tuple[Path, ...]
    values: tuple[int, ...]
    columns: tuple[str, ...] | None = None
    scale: float = 1.0
    reach: float = 10.0

    def __str__(self) -> str:
        return f"the horizons in {self.horizons[0].parent}"

    def open(self) -> Layers:
        """The labels, on the grid of the survey.

        The last few are remembered as long as the files do not change. Memory: eight bytes for
        each horizon and trace.

        Raises:
            UserError: if a file cannot be read, or horizons do not fit the survey or each other.
        """
        return _layers(self, read_survey(self.survey), repr(list(map(stamp, self.horizons))))


@lru_cache(maxsize=4)
def _layers(picks: Interpretation, survey: Survey, state: str) -> Layers:
    horizons = [read_horizon(path, survey, picks.columns, picks.scale) for path in picks.horizons]
    return layer_labels(horizons, survey, picks.reach, picks.values)
