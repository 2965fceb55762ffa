"""What every layout yields."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from seg3d.data.cases import Case

LeftOut = tuple[str, str]


class Found(NamedTuple):
    """What a layout yields.

    Attributes:
        layout: its name, for people.
        source: folder or list that the cases come from.
        cases: with names that may repeat.
        left_out: what was seen and not used, with the reason.
        channels: names, if the source gives them.
        labels: class names and values, if the source gives them.
        regions_class_order: value that is written for each region, if the source gives them.
    """

    layout: str
    source: Path
    cases: list[Case]
    left_out: list[LeftOut]
    channels: tuple[str, ...] | None = None
    labels: dict[str, int | list[int]] | None = None
    regions_class_order: tuple[int, ...] | None = None
