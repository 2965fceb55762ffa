"""Spacings in the text headers of NRRD: ITK takes 1 where a header says that there is none."""

from __future__ import annotations

import math
import re
from pathlib import Path

from seg3d.io.detached import END_OF_NRRD, LONGEST_HEADER
from seg3d.io.header import no_geometry

DIRECTIONS = re.compile(rb"^\s*space directions\s*:(?!=)([^\r\n]*)", re.MULTILINE | re.IGNORECASE)
SPACINGS = re.compile(rb"^\s*spacings\s*:(?!=)([^\r\n]*)", re.MULTILINE | re.IGNORECASE)


def require_spacings(path: Path) -> None:
    """Require a length for each of three axes, if a header has a line for them.

    Raises:
        UserError: if it says so of fewer axes; an axis of channels has none.
    """
    with path.open("rb") as file:
        start = file.read(LONGEST_HEADER)
    end = END_OF_NRRD.search(start)
    header = start[: end.start()] if end else start
    for pattern, axis in ((DIRECTIONS, r"\(([^()]*)\)"), (SPACINGS, r"(\S+)")):
        if line := pattern.search(header):
            said = line[1].decode("latin-1")
            if sum(map(_is_length, re.findall(axis, said))) < 3:
                raise no_geometry(path, said.strip())


def _is_length(text: str) -> bool:
    """Whether a number, or a vector with commas between its numbers, is finite and not 0."""
    try:
        numbers = [float(number) for number in text.split(",")]
    except ValueError:
        return False
    return all(map(math.isfinite, numbers)) and any(numbers)
