"""Writing a survey by regions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from seg3d.common.errors import UserError
from seg3d.common.files import UnfinishedFile, reserve
from seg3d.io.header import Header
from seg3d.io.regions import Region, VolumeWriter
from seg3d.io.segy.headers import CopiedHeaders, Headers
from seg3d.io.segy.layout import in_file_order, runs
from seg3d.io.segy.new_headers import NewHeaders
from seg3d.io.segy.samples import FLOAT, INT8
from seg3d.io.segy.survey import Survey

# Whole numbers that the stored types hold, and what to do about others.
WHOLE = {INT8: (-(2**7), 2**7 - 1), FLOAT: (-(2**24), 2**24)}
TOO_LARGE = {
    INT8: "renumber labels, or store the volume in a wider type, which becomes format 5 (float32)",
    FLOAT: "renumber labels, or scale amplitudes and store them as float32, which may round them; "
    ".nii and .npy hold them as they are",
}


def create_volume(path: Path, header: Header, dtype: np.dtype, channels: int) -> SegyWriter:
    """Begin a SEG-Y file in the geometry of ``header``.

    If the header came from SEG-Y, the output is that file with other samples: text and binary
    headers, every trace header, order of traces and byte order are its own, and traces that are
    missing there are left out here. It reads the input again, which must still be there. Otherwise
    the headers are made anew; see `NewHeaders`.

    Args:
        path: where to.
        header: of the volume whose geometry the output has.
        dtype: of the voxels: integers of 8 bits are stored as format 8 (int8), all others as
            format 5 (float32).
        channels: 1, as SEG-Y holds one number per sample.

    Raises:
        UserError: if SEG-Y cannot hold the volume, or the disk cannot.
    """
    if channels != 1:
        raise UserError(
            f"{path}: SEG-Y holds one number for each sample",
            given=f"{channels} channels",
            fix="write another format, or each channel to a file of its own",
        )
    code = INT8 if dtype.itemsize == 1 else FLOAT
    headers: Headers
    if isinstance(header.native, Survey):
        headers = CopiedHeaders(header.native, path, code)
    else:
        headers = NewHeaders(header.grid, path, code)
    if (*headers.index.shape, headers.layout.samples) != header.grid.shape:
        raise ValueError(f"a grid of {header.grid.shape} does not go with the headers of a survey")
    return SegyWriter(headers)


class SegyWriter(VolumeWriter):
    """A survey that is written by regions, under a temporary name until it is whole.

    Args:
        headers: of the file.

    Raises:
        UserError: if there is not enough room on the disk.
    """

    def __init__(self, headers: Headers) -> None:
        self._headers = headers
        self._layout = headers.layout
        self._begun = np.zeros(self._layout.traces, dtype=bool)
        size = self._layout.stop + len(headers.after)
        self._file = UnfinishedFile(self._layout.path)
        try:
            with self._writing(), self._file.temporary.open("r+b") as stream:
                reserve(stream, size, self._layout.path)
                stream.write(headers.before)
                stream.seek(self._layout.stop)
                stream.write(headers.after)
        except BaseException:
            self.discard()
            raise

    def write(self, region: Region, array: np.ndarray) -> None:
        """Store the voxels of a region, `(1, x, y, z)`; regions may come in any order.

        Raises:
            UserError: if whole numbers do not fit, or the disk fails.
        """
        self._require_range(array)
        layout = self._layout
        numbers, places = in_file_order(self._headers.index[region[:2]])
        voxels = array.reshape(-1, array.shape[-1])
        with (
            self._writing(),
            self._file.temporary.open("r+b") as stream,
            self._headers.reading() as read_headers,
        ):
            for run in runs(numbers, layout.block):
                first = int(numbers[run.start])
                stop = first + run.stop - run.start
                headers = read_headers(first, stop)
                with self._writing():
                    traces = layout.read(stream, first, stop)
                    traces["header"] = headers
                    traces["samples"][:, region[2]] = voxels[places[run]]
                    layout.write(stream, first, traces)
        self._begun[numbers] = True

    def finish(self) -> None:
        """Put the file under its name.

        Raises:
            UserError: if the disk fails.
        """
        if not self._begun.all():
            raise ValueError(f"{np.count_nonzero(~self._begun)} traces were never written")
        with self._writing():
            self._file.finish()

    def discard(self) -> None:
        """Remove what has been written."""
        self._file.discard()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{self._layout.path} cannot be written", given=error.strerror or error
            ) from error

    def _require_range(self, array: np.ndarray) -> None:
        if array.dtype.kind == "f":
            return
        least, most = WHOLE[self._layout.code]
        lowest, highest = int(array.min()), int(array.max())
        if lowest < least or highest > most:
            raise UserError(
                f"{self._layout.path}: whole numbers are too large for SEG-Y",
                given=f"values from {lowest} to {highest}",
                legal=f"{least} to {most} in voxels of this type",
                fix=TOO_LARGE[self._layout.code],
            )
