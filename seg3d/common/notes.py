"""What a person should know about their data, and is no mistake."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

# Places that a line names before it counts the rest.
SHOWN = 5


class Note(NamedTuple):
    """One remark about one file or case.

    Attributes:
        what: was seen, in the same words wherever it is seen.
        where: the file or case, with a figure if it has one of its own.
        advice: a sentence on what to do about it, if anything.
    """

    what: str
    where: str
    advice: str = ""


def in_lines(notes: Iterable[Note]) -> list[str]:
    """A line for everything that was seen, with the first `SHOWN` places; more are counted."""
    places: dict[tuple[str, str], list[str]] = {}
    for note in notes:
        places.setdefault((note.what, note.advice), []).append(note.where)
    return [
        f"{what}: {_some(where)}. {advice}".rstrip() for (what, advice), where in places.items()
    ]


def _some(places: list[str]) -> str:
    more = f" and {len(places) - SHOWN} more" if len(places) > SHOWN else ""
    return ", ".join(places[:SHOWN]) + more
