"""Reading a survey by regions."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from seg3d.common.notes import Note
from seg3d.geometry import Shape3
from seg3d.io.header import Header
from seg3d.io.regions import Region, VolumeReader, lengths
from seg3d.io.segy.layout import BLOCK_BYTES, in_file_order, runs
from seg3d.io.segy.lines import Positions
from seg3d.io.segy.samples import FORMATS, decode
from seg3d.io.segy.survey import HEADER_WORDS_BYTES, Domain, Survey, read_survey


def open_volume(
    path: Path, positions: Positions | None = None, domain: Domain | None = None
) -> SegyReader:
    """Open a survey for reading by regions; see `read_survey`."""
    return SegyReader(read_survey(path, positions, domain))


def ram_of(path: Path, shape: Shape3, voxel_bytes: int) -> int:
    """Bytes of RAM that a survey takes: those of its trace headers, and of a block of traces."""
    return HEADER_WORDS_BYTES * shape[0] * shape[1] + 2 * BLOCK_BYTES


class SegyReader(VolumeReader):
    """A survey of which samples are read when asked for; missing traces read as zeros.

    It keeps no file open, so that threads and processes may share it.

    Attributes:
        survey: what is known of the file; also `Header.native`.
    """

    def __init__(self, survey: Survey) -> None:
        self.survey = survey
        notes = tuple(Note(note, str(survey.layout.path)) for note in survey.notes)
        self.header = Header(survey.grid, 1, survey, notes)
        self.dtype = FORMATS[survey.layout.code].dtype
        self.slow_axis = survey.slow_axis

    def mask(self) -> np.ndarray:
        """Where there is a trace, `(X, Y)` bool."""
        return self.survey.mask

    def read(self, region: Region) -> np.ndarray:
        """The samples of a region, `(1, x, y, z)`; memory beyond that: a block of 8 MiB."""
        layout = self.survey.layout
        wanted = self.survey.index[region[:2]]
        voxels = np.zeros((wanted.size, lengths(region)[2]), self.dtype)
        numbers, places = in_file_order(wanted)
        with layout.open() as stream:
            for run in runs(numbers, layout.block):
                first = int(numbers[run.start])
                traces = layout.read(stream, first, first + run.stop - run.start)
                samples = traces["samples"][:, region[2]]
                voxels[places[run]] = decode(layout.path, samples, layout.code)
        return voxels.reshape(1, *lengths(region))

    def close(self) -> None:
        """Nothing is open between two reads."""
