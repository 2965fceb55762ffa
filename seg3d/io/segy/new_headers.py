"""SEG-Y headers for volumes that came from another format."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from seg3d.common.errors import UserError
from seg3d.geometry import Grid
from seg3d.io.segy.file_header import FORMAT
from seg3d.io.segy.headers import Headers, ReadHeaders
from seg3d.io.segy.layout import (
    BIG_ENDIAN,
    BINARY_BYTES,
    TEXT_BYTES,
    TRACE_HEADER_BYTES,
    Layout,
)
from seg3d.io.segy.samples import FORMATS
from seg3d.io.segy.scalars import finest_scalar
from seg3d.io.segy.survey import INTERVALS_PER_UNIT

INT16, INT32, UINT16 = 2**15 - 1, 2**31 - 1, 2**16 - 1
# What the sample interval and the axes may lose, as a share of the spacing.
LARGEST_ROUNDING = 1e-3

# Names, positions and sizes of the words that are written.
WORDS = {
    "trace in line": (1, "i4"),
    "trace in file": (5, "i4"),
    "ensemble": (21, "i4"),
    "identification": (29, "i2"),
    "scalar": (71, "i2"),
    "units": (89, "i2"),
    "delay": (109, "i2"),
    "samples": (115, "u2"),
    "interval": (117, "u2"),
    "x": (181, "i4"),
    "y": (185, "i4"),
    "inline": (189, "i4"),
    "crossline": (193, "i4"),
    "time scalar": (215, "i2"),
}
HEADER = np.dtype({
    "names": list(WORDS),
    "formats": [BIG_ENDIAN + kind for _, kind in WORDS.values()],
    "offsets": [position - 1 for position, _ in WORDS.values()],
    "itemsize": TRACE_HEADER_BYTES,
})  # fmt: skip


class NewHeaders(Headers):
    """Headers of revision 1: lines numbered from 1, sorted by inline, coordinates of the grid.

    The standard knows metres and milliseconds. The numbers of the grid's affine are written as
    they are, whatever its units.

    Args:
        grid: of the volume.
        path: of the file to be written.
        code: its sample format.

    Raises:
        UserError: if the third axis is not straight down, numbers do not fit the headers, or there
            is a single line, which nobody could tell from 2D.
    """

    def __init__(self, grid: Grid, path: Path, code: int) -> None:
        inlines, crosslines, samples = grid.shape
        if min(inlines, crosslines) < 2:
            raise UserError(
                f"{path}: a survey in SEG-Y has at least two inlines and two crosslines",
                given=f"{inlines} and {crosslines}",
                fix="write another format",
            )
        self._grid = grid
        self._interval = _interval(path, grid)
        self._delay_scalar = finest_scalar(abs(grid.affine[2, 3]), INT16)
        self.index = np.arange(inlines * crosslines).reshape(inlines, crosslines)
        corners = self._world(self.index[:: max(1, inlines - 1), :: max(1, crosslines - 1)])
        self._scalar = finest_scalar(float(np.abs(corners).max()), INT32)
        self.layout = Layout(
            path=path,
            order=BIG_ENDIAN,
            revision=(1, 0),
            code=code,
            samples=samples,
            interval=self._interval,
            feet=False,
            fixed_length=True,
            start=TEXT_BYTES + BINARY_BYTES,
            header_bytes=TRACE_HEADER_BYTES,
            traces=self.index.size,
            state=(0, 0),
            notes=(),
        )
        self.before = self._text() + self._binary()
        self.after = b""

    def _world(self, numbers: np.ndarray) -> np.ndarray:
        """Easting and northing of traces, `(2, n)`."""
        places = np.stack(np.divmod(numbers.ravel(), self._grid.shape[1]))
        return self._grid.affine[:2, :2] @ places + self._grid.affine[:2, 3:]

    def _text(self) -> bytes:
        inlines, crosslines, _ = self._grid.shape
        first, second, third = (
            f"{spacing:g} {unit.upper()}"
            for spacing, unit in zip(self._grid.spacing, self._grid.units, strict=True)
        )
        lines = {
            1: "WRITTEN BY SEG3D",
            3: f"INLINE     BYTES 189-192  1 TO {inlines}, {first} APART",
            4: f"CROSSLINE  BYTES 193-196  1 TO {crosslines}, {second} APART",
            5: "CDP X      BYTES 181-184  SCALAR IN BYTES 71-72",
            6: "CDP Y      BYTES 185-188  SCALAR IN BYTES 71-72",
            7: f"SAMPLES    {third} APART, {FORMATS[self.layout.code].name.upper()}",
            39: "SEG Y REV1",
            40: "END TEXTUAL HEADER",
        }
        return "".join(
            f"{f'C{number:2} {lines.get(number, str())}':80.80}" for number in range(1, 41)
        ).encode("cp037")

    def _binary(self) -> bytes:
        binary = bytearray(BINARY_BYTES)
        for position, word in {
            3213: 1,  # traces in an ensemble
            3217: self._interval,
            3221: self.layout.samples,
            FORMAT: self.layout.code,
            3227: 1,  # fold
            3229: 4,  # stacked
            3255: 1,  # metres
            3501: 0x0100,  # revision 1.0
            3503: 1,  # traces of one length
        }.items():
            struct.pack_into(BIG_ENDIAN + "H", binary, position - TEXT_BYTES - 1, word)
        return bytes(binary)

    @contextmanager
    def reading(self) -> Iterator[ReadHeaders]:
        yield self._headers

    def _headers(self, first: int, stop: int) -> np.ndarray:
        numbers = np.arange(first, stop)
        inlines, crosslines = np.divmod(numbers, self._grid.shape[1])
        headers = np.zeros(stop - first, HEADER)
        headers["trace in line"] = headers["crossline"] = crosslines + 1
        headers["inline"] = inlines + 1
        headers["trace in file"] = headers["ensemble"] = numbers + 1
        headers["identification"] = headers["units"] = 1
        headers["scalar"] = self._scalar
        headers["x"], headers["y"] = np.rint(self._world(numbers) * abs(self._scalar))
        headers["time scalar"] = self._delay_scalar
        headers["delay"] = round(self._grid.affine[2, 3] * abs(self._delay_scalar))
        headers["samples"] = self.layout.samples
        headers["interval"] = self._interval
        return headers.view(f"V{TRACE_HEADER_BYTES}")


def _interval(path: Path, grid: Grid) -> int:
    """Sample interval in µs of a grid whose third axis leads straight down."""
    affine, step = grid.affine, float(grid.affine[2, 2])
    across = np.abs([*affine[2, :2], *affine[:2, 2]]).max()
    if step <= 0 or across > LARGEST_ROUNDING * min(grid.spacing):
        raise UserError(
            f"{path}: SEG-Y cannot hold this geometry",
            given=f"affine {affine.tolist()}",
            legal="a third axis straight along the world's third, the others level",
            fix="write another format, or turn the volume",
        )
    exact = step * INTERVALS_PER_UNIT
    interval = round(exact)
    if not 1 <= interval <= UINT16 or abs(interval - exact) > LARGEST_ROUNDING * exact:
        raise UserError(
            f"{path}: SEG-Y cannot hold this sample interval",
            given=f"{step:g} {grid.units[2]}",
            legal=f"0.001 to {UINT16 / INTERVALS_PER_UNIT:g}, in steps of 0.001",
        )
    if grid.shape[2] > UINT16:
        raise UserError(
            f"{path}: SEG-Y cannot hold so many samples in a trace",
            given=grid.shape[2],
            legal=f"up to {UINT16}",
        )
    return interval
