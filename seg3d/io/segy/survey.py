"""A post-stack 3D survey in a SEG-Y file: which trace lies where, and where that is on earth."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np

from seg3d.common.errors import UserError
from seg3d.geometry import Grid
from seg3d.io.segy.coordinates import Fit, coordinate_words, fit_coordinates
from seg3d.io.segy.file_header import read_layout
from seg3d.io.segy.layout import Layout, Word, state_of, unreadable
from seg3d.io.segy.lines import Axis, Lines, Positions, find_lines, line_words, word_name
from seg3d.io.segy.scalars import scaled

Domain = Literal["time", "depth"]

METRES_PER_FOOT = 0.3048
# Of RAM, for each trace, while a survey is opened.
HEADER_WORDS_BYTES = 120
# Sample intervals are in µs; depth is written as if a metre were a millisecond.
INTERVALS_PER_UNIT = 1000.0
HEADER_WORDS: dict[str, Word] = {
    "offset": (37, "i4"),
    "scalar": (71, "i2"),
    "units": (89, "i2"),
    "delay": (109, "i2"),
    "samples": (115, "u2"),
    "interval": (117, "u2"),
    "time scalar": (215, "i2"),
}


@dataclass(frozen=True, eq=False)
class Survey:
    """What is known of a file before its samples are read; carried as `Header.native`.

    Attributes:
        layout: of the file.
        positions: of the line numbers, and of the coordinates if there are any that fit.
        inline: numbers along the first axis of the volume.
        crossline: numbers along the second.
        index: number of the trace at each inline and crossline, `(X, Y)` int64; -1 where there is
            none.
        grid: `(X, Y, Z)` = (inlines, crosslines, samples).
        slow_axis: 0 if inlines stay together in the file, 1 if crosslines do.
        in_order: whether each line of that axis is in one piece.
        fit: of the grid to the coordinates; None if spacing and position are not known.
        notes: what is odd about the file, in words.
    """

    layout: Layout
    positions: Positions
    inline: Axis
    crossline: Axis
    index: np.ndarray
    grid: Grid
    slow_axis: int
    in_order: bool
    fit: Fit | None
    notes: tuple[str, ...]

    @property
    def mask(self) -> np.ndarray:
        """Where there is a trace, `(X, Y)` bool."""
        return self.index >= 0

    def place_name(self, row: int, column: int) -> str:
        """Inline and crossline number of a place, in words."""
        return f"inline {self.inline.number(row)}, crossline {self.crossline.number(column)}"


@dataclass
class _Assumed:
    positions: Positions | None = None
    domain: Domain = "time"


_assumed = _Assumed()


def assume(*, positions: Positions | None = None, domain: Domain | None = None) -> None:
    """Say for the whole process what holds for SEG-Y files where a caller does not say it.

    Without it, positions are found, and the domain is time.

    Args:
        positions: of the line numbers (and coordinates); None to leave them as they are.
        domain: what the third axis is; None likewise.
    """
    _assumed.positions = positions or _assumed.positions
    _assumed.domain = domain or _assumed.domain


def read_survey(
    path: str | Path, positions: Positions | None = None, domain: Domain | None = None
) -> Survey:
    """Find out what a file holds, in one pass over its trace headers.

    The last few are remembered as long as the files do not change, as the pass reads the whole
    file. Memory: about 120 bytes for each trace.

    Args:
        path: of the file.
        positions: of the line numbers (and coordinates); None for what `assume` was told.
        domain: what the third axis is, which SEG-Y cannot say; None likewise.

    Raises:
        UserError: if it is no post-stack 3D survey in SEG-Y, or is cut short or inconsistent.
    """
    path = Path(path).resolve()
    try:
        state = state_of(path)
    except OSError as error:
        raise unreadable(path, error) from error
    return _read(path, state, positions or _assumed.positions, domain or _assumed.domain)


@lru_cache(maxsize=8)
def _read(
    path: Path, state: tuple[int, int], positions: Positions | None, domain: Domain
) -> Survey:
    layout = read_layout(path)
    places = line_words(positions) | coordinate_words(positions)
    headers = layout.words(
        HEADER_WORDS | {word_name(place): (place, "i4") for place in sorted(places)}
    )
    _require_equal_lengths(layout, headers["samples"])
    lines = find_lines(layout, headers, positions)
    fit, no_fit = fit_coordinates(headers, lines, positions)
    interval, interval_notes = _interval(layout, headers["interval"])
    delay, delay_notes = _delay(layout, headers)
    changes = [np.count_nonzero(np.diff(line)) for line in (lines.rows, lines.columns)]
    slow_axis = int(changes[1] < changes[0])
    pieces = changes[slow_axis] + 1
    whole = len(np.unique((lines.rows, lines.columns)[slow_axis]))
    index = lines.index()
    index.setflags(write=False)
    notes = [*layout.notes, *lines.notes, *interval_notes, *delay_notes]
    if fit is None:
        notes.append(f"{no_fit}: bins count as 1 by 1, at the origin")
    if missing := _missing_at_the_end(index):
        notes.append(
            f"the last {missing} of {index.size} traces are missing: the file may have been cut "
            "short"
        )
    if pieces > whole:
        notes.append(f"traces are out of order: {whole} lines in {pieces} pieces, read one by one")
    return Survey(
        layout=layout,
        positions=Positions(
            lines.positions.inline, lines.positions.crossline, *((fit.x, fit.y) if fit else ())
        ),
        inline=lines.inline,
        crossline=lines.crossline,
        index=index,
        grid=_grid(layout, lines, fit, interval, delay, domain),
        slow_axis=slow_axis,
        in_order=pieces == whole,
        fit=fit,
        notes=tuple(notes),
    )


def _grid(
    layout: Layout, lines: Lines, fit: Fit | None, interval: float, delay: float, domain: Domain
) -> Grid:
    metres = METRES_PER_FOOT if layout.feet else 1.0
    vertical = metres if domain == "depth" else 1.0
    affine = np.diag([1.0, 1.0, interval / INTERVALS_PER_UNIT * vertical, 1.0])
    affine[2, 3] = delay * vertical
    if fit is not None:
        affine[:2, :2] = fit.steps * metres
        affine[:2, 3] = fit.origin * metres
    flat = "m" if fit is not None else "bin"
    return Grid(
        (lines.inline.count, lines.crossline.count, layout.samples),
        affine,
        axes=("inline", "crossline", domain),
        units=(flat, flat, "m" if domain == "depth" else "ms"),
    )


def _missing_at_the_end(index: np.ndarray) -> int:
    """How many traces a file lacks at its end, if till there it fills the grid line by line.

    0 if others are missing or the order is another, as then nothing can be said.
    """
    # A file may begin at any corner of the grid.
    row, column = np.argwhere(index == 0)[0]
    index = index[:: -1 if row else 1, :: -1 if column else 1]
    traces = np.arange(index.max() + 1)
    filled = any(np.array_equal(order.ravel()[: len(traces)], traces) for order in (index, index.T))
    return index.size - len(traces) if filled else 0


def _require_equal_lengths(layout: Layout, samples: np.ndarray) -> None:
    """Traces of several lengths cannot be found by counting bytes; empty headers do not matter."""
    filled = np.flatnonzero(samples)
    odd = filled[samples[filled] != samples[filled[:1]]]
    if len(odd) and not layout.fixed_length:
        raise UserError(
            f"{layout.path} is damaged, or its traces have several lengths",
            given=f"trace {filled[0] + 1} says {samples[filled[0]]} samples, trace {odd[0] + 1} "
            f"{samples[odd[0]]}; {len(odd)} of {len(samples)} traces differ",
            legal="traces of one length",
            fix="copy the file again, or bring all traces to one length with a seismic package",
        )


def _interval(layout: Layout, intervals: np.ndarray) -> tuple[float, list[str]]:
    """Sample interval in µs: the binary header's, or else that of most traces."""
    said = intervals[intervals > 0]
    usual = float(np.bincount(said).argmax()) if len(said) else 0.0
    if not layout.interval and not usual:
        return INTERVALS_PER_UNIT, ["no sample interval: samples count as 1 apart"]
    notes = []
    if layout.interval and usual and usual != layout.interval:
        notes = [
            f"the binary header says {layout.interval:g} µs between samples, trace headers "
            f"{usual:g}: {layout.interval:g} is taken"
        ]
    return layout.interval or usual, notes


def _delay(layout: Layout, headers: dict[str, np.ndarray]) -> tuple[float, list[str]]:
    """Time of the first sample in ms: that of most traces."""
    delays = headers["delay"].astype(np.float64)
    if layout.revision >= (1, 0):
        delays = scaled(delays, headers["time scalar"])
    values, counts = np.unique(delays, return_counts=True)
    usual = float(values[counts.argmax()])
    if len(values) == 1:
        return usual, []
    return usual, [
        f"traces begin at {values[0]:g} to {values[-1]:g} ms: {usual:g}, that of most, is taken"
    ]
