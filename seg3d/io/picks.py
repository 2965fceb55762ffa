"""Tables of picks, as interpretation packages export horizons: a row for each pick."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import numpy as np

from seg3d.common.errors import UserError

COMMENTS = ("#", "!", "//")
NAMES = {
    "inline": {"inline", "iline", "il", "inl", "inlineno", "inlinenumber"},
    "crossline": {"crossline", "xline", "xl", "crl", "crosslineno", "crosslinenumber"},
    "x": {"x", "xcoord", "xcoordinate", "cdpx", "utmx", "easting"},
    "y": {"y", "ycoord", "ycoordinate", "cdpy", "utmy", "northing"},
    "time": {"time", "twt", "twtms", "timems", "t", "z", "depth"},
}
# What says where a pick lies. Line numbers are exact, so they come first.
PLACES = (("inline", "crossline"), ("x", "y"))
# A column of no use, where columns are given.
SKIPPED = "_"
CHOOSE = (
    "correct it; or say what the columns are in data.labels.columns, such as "
    "[_, inline, crossline, time], with _ for those of no use"
)
# As in "# 3: Z" (OpendTect) and "# Field: 3 z meters" (EarthVision).
NUMBERED = re.compile(r"\W*(?:field\W*)?(\d+)\s*:?\s+(\S+)", re.IGNORECASE)
# Interpretation packages write these where nothing is picked.
NULLS = (-999.0, -999.25, -9999.0)
LARGEST_TIME = 1e20
MARK = codecs.BOM_UTF8.decode("latin-1")


@dataclass
class _Head:
    """What stands above the first row of numbers.

    Attributes:
        row: that row; empty if there is none.
        skipped: lines in front of it.
        above: the last line with letters.
        numbered: names by the number of their column, counted from 0, a line each.
    """

    row: str = ""
    skipped: int = 0
    above: str = ""
    numbered: dict[int, str] = field(default_factory=dict)


def read_picks(path: Path, columns: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Read picks from a text file of one row for each.

    Cells are separated by blanks, tabs, commas or semicolons. Lines that begin with ``#``, ``!`` or
    ``//`` are comments. Picks without a time (nan, -999, -999.25, -9999, 1e30) are left out.

    Args:
        path: of the file.
        columns: what the cells of a row are, ``_`` for those of no use. Without it, one line above
            the numbers names them all, or each has a line with its number and name; if none does,
            there must be three: inline, crossline and time.

    Returns:
        Of each pick ``time`` and either ``inline`` and ``crossline`` or ``x`` and ``y``, `(n,)`.

    Raises:
        UserError: if the file cannot be read, or its columns cannot be told apart.
    """
    wanted = {name: at for at, name in enumerate(columns or ()) if name != SKIPPED}
    try:
        with _open(path) as lines:
            head = _head(lines, lambda cells: _holds_numbers(cells, wanted))
    except OSError as error:
        raise UserError(f"{path} cannot be read", given=error.strerror) from error
    if columns and not head.row:
        raise UserError(
            f"{path} has no row of the columns that were given",
            given="; ".join(filter(None, [" ".join(columns), _word(path, wanted.values())])),
            legal="a number wherever a column has a name",
            fix="correct data.labels.columns",
        )
    if not head.row and (word := _word(path)):
        raise UserError(
            f"{path}: a column does not hold numbers", given=word, legal="numbers", fix=CHOOSE
        )
    places = wanted or _columns(path, head)
    try:
        with _open(path) as lines:
            table = np.loadtxt(
                lines, delimiter=_separator(head.row), skiprows=head.skipped,
                usecols=list(places.values()), comments=COMMENTS, ndmin=2,
            )  # fmt: skip
    except ValueError as error:
        word = _word(path, places.values(), head.skipped)
        raise UserError(
            f"{path} is damaged or no table of picks",
            given=word or error,
            legal="rows of numbers",
            fix=CHOOSE if word else None,
        ) from error
    picks = dict(zip(places, table.T, strict=True))
    picked = np.isfinite(table).all(axis=1) & (np.abs(picks["time"]) < LARGEST_TIME)
    picked &= ~np.isin(picks["time"], NULLS)
    if not picked.any():
        raise UserError(f"{path} holds no picks")
    return {name: values[picked] for name, values in picks.items()}


def _open(path: Path) -> TextIO:
    """The file's text, without the mark that programs of Windows put in front of UTF-8."""
    # Any byte is a character here: names of horizons may be in any encoding.
    lines = path.open(encoding="latin-1")
    if lines.read(len(MARK)) != MARK:
        lines.seek(0)
    return lines


def _head(lines: Iterable[str], is_row: Callable[[list[str]], bool]) -> _Head:
    head = _Head()
    for number, line in enumerate(lines):
        comment = line.lstrip().startswith(COMMENTS)
        if not comment and is_row(_cells(line, _separator(line))):
            head.row, head.skipped = line, number
            break
        if comment and (match := NUMBERED.match(line)):
            head.numbered[int(match[1]) - 1] = match[2]
        # OpendTect draws a line of dashes below the names.
        if re.search("[A-Za-z]", line):
            head.above = line
    return head


def _word(path: Path, columns: Collection[int] = (), skipped: int | None = None) -> str:
    """Where a row has a word in one of these columns, or in any; empty if nowhere.

    Args:
        path: of the file.
        columns: counted from 0; empty for all.
        skipped: lines in front of the rows; without it, lines with three numbers are rows.
    """
    with _open(path) as lines:
        for number, line in enumerate(lines):
            cells = [] if line.lstrip().startswith(COMMENTS) else _cells(line, _separator(line))
            row = sum(map(_is_number, cells)) >= 3 if skipped is None else number >= skipped
            for column, cell in enumerate(cells if row else []):
                if not _is_number(cell) and (not columns or column in columns):
                    return f"line {number + 1}, column {column + 1}: {cell!r} is not a number"
    return ""


def _holds_numbers(cells: list[str], wanted: dict[str, int]) -> bool:
    """Whether the cells that are wanted are numbers; all of them if none is."""
    if wanted:
        cells = [cells[at] if at < len(cells) else "" for at in wanted.values()]
    return bool(cells) and all(map(_is_number, cells))


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _separator(row: str) -> str | None:
    return next((mark for mark in "\t;," if mark in row.strip()), None)


def _cells(line: str, separator: str | None) -> list[str]:
    """The cells of a line, without comment marks, quotes and units in brackets."""
    bare = re.sub(r'\([^)]*\)|\[[^]]*\]|["#!/]', "", line).strip()
    return [cell.strip() for cell in bare.split(separator)] if bare else []


def _columns(path: Path, head: _Head) -> dict[str, int]:
    """Which columns hold what is needed, by the names above them."""
    separator = _separator(head.row)
    row, above = _cells(head.row, separator), _cells(head.above, separator)
    named = dict(enumerate(above)) if len(above) == len(row) else head.numbered
    found: dict[str, int] = {}
    for name, known in NAMES.items():
        for column, written in named.items():
            if re.sub(r"[^a-z]", "", written.lower()) in known and column < len(row):
                found.setdefault(name, column)
    for place in PLACES:
        names = (*place, "time")
        if all(name in found for name in names):
            return {name: found[name] for name in names}
    if len(row) == 3:
        return {name: column for column, name in enumerate((*PLACES[0], "time"))}
    raise UserError(
        f"{path}: which columns hold inline, crossline and time?",
        given=f"columns {', '.join(named.values())}"
        if named
        else f"{len(row) or 'no'} columns of numbers",
        legal="three columns in this order, or a line above the numbers that names them",
        fix="write a first line such as: inline crossline time; or say it in data.labels.columns",
    )
