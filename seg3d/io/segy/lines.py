"""Where a file keeps its inline and crossline numbers, and the grid that they make."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np

from seg3d.common.errors import UserError
from seg3d.io.segy.layout import TRACE_HEADER_BYTES, Layout

# Of a word of four bytes in a header of 240.
LAST_POSITION = TRACE_HEADER_BYTES - 3


@dataclass(frozen=True)
class Positions:
    """Bytes of the trace header, counted from 1, at which words of four bytes begin.

    Attributes:
        inline: of the inline number.
        crossline: of the crossline number.
        x: of the easting; None to look for it.
        y: of the northing; None to look for it.

    Raises:
        UserError: if a word would not lie within the header, or only one of x and y is given.
    """

    inline: int
    crossline: int
    x: int | None = None
    y: int | None = None

    def __post_init__(self) -> None:
        places = (self.inline, self.crossline, self.x, self.y)
        given = [place for place in places if place is not None]
        if not all(1 <= place <= LAST_POSITION for place in given) or len(given) == 3:
            raise UserError(
                "byte positions of a SEG-Y trace header cannot be these",
                given=f"inline {self.inline}, crossline {self.crossline}, x {self.x}, y {self.y}",
                legal=f"1 to {LAST_POSITION}, and x and y both or neither",
            )


STANDARD = Positions(189, 193)
# Where else the numbers are found, above all in files older than revision 1 of the standard: field
# record, trace in file, source point, trace in record and ensemble were put to this use, later the
# coordinates of ensemble and source.
OTHERS = (
    Positions(9, 21),
    Positions(5, 21),
    Positions(5, 17),
    Positions(17, 21),
    Positions(9, 13),
    Positions(17, 13),
    Positions(181, 185),
    Positions(73, 77),
)
# Easting and northing: of the ensemble, source and receiver, and where some files keep those of
# the ensemble when they have the line numbers at 181 and 185.
COORDINATES = ((181, 185), (73, 77), (81, 85), (189, 193))

# A survey fills its rectangle of lines at least so far; at places other than the standard's, where
# shots and channels may be counted, at least the second.
SMALLEST_SHARE = 0.05
SMALLEST_SHARE_ELSEWHERE = 0.5
# What lines of a text header say about positions.
HINT = re.compile(r"\b(BYTES?|I\w*-?LINE|X\w*-?LINE|CROSS-?LINE)\b.*\d", re.IGNORECASE)
# Line numbers are smaller, projected coordinates larger.
LARGEST_LINE_NUMBER = 99_999


@dataclass(frozen=True)
class Axis:
    """Evenly spaced line numbers.

    Attributes:
        first: the lowest number.
        step: from one to the next.
        count: how many.
    """

    first: int
    step: int
    count: int

    @property
    def last(self) -> int:
        return self.number(self.count - 1)

    def number(self, place: int) -> int:
        """The line number at an index along the axis."""
        return self.first + place * self.step

    def __str__(self) -> str:
        every = f", every {self.step}" if self.step > 1 else ""
        return f"{self.first} to {self.last}{every}" if self.count > 1 else f"{self.first}"


@dataclass(frozen=True, eq=False)
class Lines:
    """The grid that the numbers at two byte positions make.

    Attributes:
        positions: where they are.
        inline: numbers along the first axis of the volume.
        crossline: numbers along the second.
        rows: index along the first axis of every trace, `(traces,)`.
        columns: index along the second.
        notes: what is odd about them, in words.
    """

    positions: Positions
    inline: Axis
    crossline: Axis
    rows: np.ndarray
    columns: np.ndarray
    notes: tuple[str, ...] = ()

    def index(self) -> np.ndarray:
        """The trace at each place, `(X, Y)` int64; -1 where there is none."""
        index = np.full((self.inline.count, self.crossline.count), -1)
        index[self.rows, self.columns] = np.arange(len(self.rows))
        return index

    def alike(self, other: Lines) -> bool:
        """Whether both lay the traces out alike, but for the order and direction of the axes."""
        straight = _alike(self.rows, other.rows) and _alike(self.columns, other.columns)
        return straight or (_alike(self.rows, other.columns) and _alike(self.columns, other.rows))


class NotAGrid(Exception):
    """Why numbers make no grid of one trace a place: a sentence about the file, and details."""

    def __init__(self, verdict: str, detail: str) -> None:
        super().__init__(detail)
        self.verdict = verdict


NO_NUMBERS = "has no inline and crossline numbers in the usual places"
ONE_LINE = "is a single line (2D), or its inline and crossline numbers are elsewhere"
SCATTERED = "is not a regular grid of inlines and crosslines"
PRE_STACK = "is pre-stack: traces of several offsets"
REPEATED = "has several traces at the same inline and crossline"
ELSEWHERE = (
    "if it is one, say at which bytes of the trace headers they begin: "
    "--segy-bytes INLINE,CROSSLINE, such as 9,21"
)
FIXES = {
    PRE_STACK: "stack it, or write a file for each offset or angle, with a seismic package",
    REPEATED: f"remove traces with a seismic package; or, {ELSEWHERE}",
}


def find_lines(layout: Layout, headers: dict[str, np.ndarray], wanted: Positions | None) -> Lines:
    """The grid at the positions that are wanted, or at those that are found to hold one.

    Numbers that are found must be small: coordinates can make a grid too. The standard's positions
    come first, and decide if they hold several traces in one place. Others count only if the
    numbers fill half of their rectangle and all traces have one offset, as shots and channels also
    make grids.

    Args:
        layout: of the file.
        headers: words of the trace headers by name; line numbers under `word_name`.
        wanted: positions given by the user.

    Raises:
        UserError: if there is no grid, or several different ones.
    """
    failed: dict[Positions, NotAGrid] = {}
    found: list[Lines] = []
    for positions in [wanted] if wanted else [STANDARD, *OTHERS]:
        try:
            if wanted:
                return _arrange(headers, positions, SMALLEST_SHARE)
            _require_small_numbers(headers, positions)
            if positions == STANDARD:
                return _arrange(headers, positions, SMALLEST_SHARE)
            _require_one_offset(headers["offset"])
            found.append(_arrange(headers, positions, SMALLEST_SHARE_ELSEWHERE))
        except NotAGrid as problem:
            failed[positions] = problem
            if problem.verdict in (PRE_STACK, REPEATED) and positions == STANDARD:
                break
    if not found:
        raise _nothing_found(layout, failed)
    if all(found[0].alike(other) for other in found[1:]):
        standard = failed[STANDARD]
        odd = standard.verdict != NO_NUMBERS
        return replace(
            found[0], notes=(f"bytes {_where(STANDARD)} are not taken: {standard}",) if odd else ()
        )
    raise UserError(
        f"{layout.path} has several sets of numbers that could be its inlines and crosslines",
        given="; ".join(
            f"bytes {_where(lines.positions)}: inlines {lines.inline}, crosslines {lines.crossline}"
            for lines in found
        ),
        fix="say which they are: --segy-bytes INLINE,CROSSLINE",
    )


def line_words(wanted: Positions | None) -> set[int]:
    """Every byte position that `find_lines` may look at."""
    return {
        position
        for pair in ([wanted] if wanted else [STANDARD, *OTHERS])
        for position in (pair.inline, pair.crossline)
    }


def word_name(position: int) -> str:
    """Name under which the four-byte word at a position goes."""
    return f"bytes {position}"


def _arrange(headers: dict[str, np.ndarray], positions: Positions, share: float) -> Lines:
    """The grid of the numbers at two positions, filled to this share, or raise `NotAGrid`."""
    inlines = headers[word_name(positions.inline)]
    crosslines = headers[word_name(positions.crossline)]
    inline, inline_numbers = _axis(inlines)
    crossline, crossline_numbers = _axis(crosslines)
    said = f"inlines {inline}, crosslines {crossline}"
    traces = len(inlines)
    if len(inline_numbers) == len(crossline_numbers) == 1 and traces > 1:
        raise NotAGrid(NO_NUMBERS, f"always {inline.first} and {crossline.first}")
    for name, axis in (("inline", inline), ("crossline", crossline)):
        if axis.count == 1:
            raise NotAGrid(ONE_LINE, f"{said}: the {name} is always {axis.first}")
    cells = inline.count * crossline.count
    if traces < share * cells:
        lonely = _lonely("inline", inlines, inline_numbers)
        lonely += _lonely("crossline", crosslines, crossline_numbers)
        raise NotAGrid(SCATTERED, f"{said}: {cells} places for {traces} traces{lonely}")
    rows = (inlines.astype(np.int64) - inline.first) // inline.step
    columns = (crosslines.astype(np.int64) - crossline.first) // crossline.step
    lines = Lines(positions, inline, crossline, rows, columns)
    _require_one_each(lines, headers["offset"], said)
    if traces in (len(inline_numbers), len(crossline_numbers)):
        raise NotAGrid(ONE_LINE, f"{said}: each trace has a number of its own")
    return lines


def _axis(numbers: np.ndarray) -> tuple[Axis, np.ndarray]:
    """The evenly spaced numbers that hold all of these, and which of them occur."""
    present = np.unique(numbers).astype(np.int64)
    step = int(np.gcd.reduce(np.diff(present))) if len(present) > 1 else 1
    first, last = int(present[0]), int(present[-1])
    return Axis(first, step, (last - first) // step + 1), present


def _require_one_each(lines: Lines, offsets: np.ndarray, said: str) -> None:
    place = lines.rows * lines.crossline.count + lines.columns
    folds = np.bincount(place)
    most = int(folds.max())
    if most == 1:
        return
    first, second = np.flatnonzero(place == folds.argmax())[:2]
    detail = (
        f"{said}: up to {most} traces in one place, such as traces {first + 1} and {second + 1} "
        f"at inline {lines.inline.number(lines.rows[first])}, crossline "
        f"{lines.crossline.number(lines.columns[first])}"
    )
    lowest, highest = offsets.min(), offsets.max()
    if lowest == highest:
        raise NotAGrid(REPEATED, detail)
    raise NotAGrid(PRE_STACK, f"{detail}; offsets {lowest} to {highest}")


def _require_small_numbers(headers: dict[str, np.ndarray], positions: Positions) -> None:
    for position in (positions.inline, positions.crossline):
        numbers = headers[word_name(position)]
        if np.median(np.abs(numbers.astype(np.int64))) > LARGEST_LINE_NUMBER:
            raise NotAGrid(NO_NUMBERS, "numbers too large for lines")


def _require_one_offset(offsets: np.ndarray) -> None:
    if offsets.min() != offsets.max():
        raise NotAGrid(PRE_STACK, f"offsets {offsets.min()} to {offsets.max()}")


def _lonely(name: str, numbers: np.ndarray, present: np.ndarray) -> str:
    """The line that is farthest from its neighbours, if a single trace makes it: a wrong number."""
    if len(present) < 3:
        return ""
    ends = (present[1] - present[0], present[-1] - present[-2])
    suspect = present[0] if ends[0] > ends[1] else present[-1]
    traces = np.flatnonzero(numbers == suspect)
    return f"; {name} {suspect} has only trace {traces[0] + 1}" if len(traces) == 1 else ""


def _alike(one: np.ndarray, other: np.ndarray) -> bool:
    return np.array_equal(one, other) or np.array_equal(one, other.max() - other)


def _nothing_found(layout: Layout, failed: dict[Positions, NotAGrid]) -> UserError:
    # The first positions that hold numbers say most about the file.
    verdicts = [problem.verdict for problem in failed.values()]
    verdict = next((one for one in verdicts if one != NO_NUMBERS), NO_NUMBERS)
    places: dict[str, list[str]] = {}
    for positions, problem in failed.items():
        places.setdefault(str(problem), []).append(_where(positions))
    found = [f"bytes {', '.join(where)}: {problem}" for problem, where in places.items()]
    hints = [line for line in layout.text().splitlines() if HINT.search(line)]
    if hints:
        found += ["the text header says", *(f"  {line}" for line in hints)]
    return UserError(
        f"{layout.path} {verdict}",
        given="\n    ".join(["what the trace headers hold", *found]),
        legal="a post-stack 3D survey: one trace at an inline and crossline, or none",
        fix=FIXES.get(verdict, ELSEWHERE),
    )


def _where(positions: Positions) -> str:
    return f"{positions.inline} and {positions.crossline}"
