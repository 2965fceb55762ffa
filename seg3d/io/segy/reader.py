"""Reading a survey by regions."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from seg3d.io.regions import Region, VolumeReader
from seg3d.io.segy.layout import in_file_order, runs
from seg3d.io.segy.lines import Positions
from seg3d.io.segy.samples import FORMATS, decode
from seg3d.io.segy.survey import Domain, Survey, read_survey
from seg3d.io.volume import Header


def read_header(
    path: str | Path, positions: Positions | None = None, domain: Domain = "time"
) -> Header:
    """Geometry of a survey; see `read_survey`, which the header carries as ``native``."""
    survey = read_survey(path, positions, domain)
    return Header(survey.grid, 1, survey)


def open_reader(
    path: str | Path, positions: Positions | None = None, domain: Domain = "time"
) -> SegyReader:
    """Open a survey for reading by regions; see `read_survey`."""
    return SegyReader(read_header(path, positions, domain))


class SegyReader(VolumeReader):
    """A survey of which samples are read when asked for; missing traces read as zeros.

    It keeps no file open, so that threads and processes may share it.
    """

    def __init__(self, header: Header) -> None:
        self.header = header
        self.survey: Survey = header.native
        self.dtype = FORMATS[self.survey.layout.code].dtype
        self.slow_axis = self.survey.slow_axis

    def mask(self) -> np.ndarray:
        """Where there is a trace, `(X, Y)` bool."""
        return self.survey.mask

    def read(self, region: Region) -> np.ndarray:
        """The samples of a region, `(1, x, y, z)`; memory beyond that: a block of 8 MiB."""
        layout = self.survey.layout
        wanted = self.survey.index[region[:2]]
        depth = region[2].stop - region[2].start
        voxels = np.zeros((wanted.size, depth), self.dtype)
        numbers, places = in_file_order(wanted)
        with layout.open() as stream:
            for run in runs(numbers, layout.block):
                first = int(numbers[run.start])
                traces = layout.read(stream, first, first + run.stop - run.start)
                samples = traces["samples"][:, region[2]]
                voxels[places[run]] = decode(samples, layout.code)
        return voxels.reshape(1, *wanted.shape, depth)

    def close(self) -> None:
        """Nothing is open between two reads."""
