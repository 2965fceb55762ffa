"""What was found, for people: one table of the cases, then the problems, grouped by kind."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from rich import box
from rich.table import Table

from seg3d.checking.case import CaseLook
from seg3d.checking.dataset import Report
from seg3d.checking.problems import Kind, Level, Problem
from seg3d.checking.repair import Repaired
from seg3d.common.plain_text import printable

# Cases of a kind, and label values of a case, that are shown before the rest is counted.
SHOWN_CASES = 10
SHOWN_LABELS = 8
HEADINGS = ("case", "shape", "spacing", "orientation", "intensities", "labels", "problems")
# What --fix does about it.
REPAIRED = {
    Kind.GRID: "with the image's affine in the label, where only the affines differ",
    Kind.CHANNELS: "with the first channel's affine, where only the affines differ",
    Kind.NOT_FINITE: "with a number of your choice in their place (--nan VALUE)",
    Kind.APART: "with the image's affine in the label",
    Kind.FLOATS: "in which they are integers",
    Kind.MASK_255: "in which 255 is the one other value that there is",
    Kind.LEFT_OUT: "without them, if something else is repaired",
    Kind.AXES: "with the axes in the order of the image's",
}


def case_table(report: Report) -> Table:
    """A row for every case."""
    table = Table(*HEADINGS, box=box.SIMPLE)
    count = dict.fromkeys((one.case.name for one in report.looks), 0)
    for problem in report.problems:
        if problem.case and problem.kind.level > Level.HARMLESS:
            count[problem.case] += 1
    for look in report.looks:
        name = look.case.name
        cells = (name, *_geometry(look), _intensities(look), _labels(look, report.names))
        table.add_row(*(printable(cell, kept="") for cell in cells), str(count[name] or ""))
    return table


def problem_lines(problems: Iterable[Problem], *, repairs: bool = True) -> Iterator[str]:
    """Every kind of problem with its cases and what to do, the worst first.

    Args:
        problems: in any order.
        repairs: say also what ``--fix`` would do.
    """
    groups: dict[Kind, list[Problem]] = {}
    for problem in problems:
        groups.setdefault(problem.kind, []).append(problem)
    for kind in sorted(groups, key=lambda one: (-one.level, list(Kind).index(one))):
        yield from _group(kind, groups[kind])
        if repairs and kind in REPAIRED:
            yield f"  or: --fix DIR writes a copy {REPAIRED[kind]}"


def summary(report: Report) -> str:
    """How many problems there are."""
    levels = [one.kind.level for one in report.problems]
    counts = [
        f"{number} {level.word}{'s' * (number > 1)}"
        for level in (Level.ERROR, Level.WARNING)
        if (number := levels.count(level))
    ]
    cases = len(report.looks)
    return f"{cases} case{'s' * (cases > 1)}: {', '.join(counts) or 'nothing is wrong'}"


def repair_lines(repaired: Repaired) -> Iterator[str]:
    """What was done, and what is left to be done."""
    if repaired.folder is None:
        yield "nothing that --fix could repair without a doubt; no copy was written"
        return
    yield f"repaired copy: {repaired.folder}"
    yield from (f"  {line}" for line in repaired.done)
    yield f"the copy: {summary(repaired.left)}"
    yield from (f"  {line}" for line in problem_lines(repaired.left.problems, repairs=False))


def _group(kind: Kind, problems: list[Problem]) -> Iterator[str]:
    yield f"{kind.level.word}: {kind.title} ({len(problems)})"
    # What is the same for all stands below them, once.
    shared = set(_advice(problems[0])).intersection(*map(_advice, problems))
    for one in problems[:SHOWN_CASES]:
        given = "" if one.given is None else f" ({' '.join(one.given.split())})"
        yield f"  {one.case}{': ' if one.case else ''}{one.what}{given}"
        yield from (f"    {line}" for line in _advice(one) if line not in shared)
    if len(problems) > SHOWN_CASES:
        yield f"  and {len(problems) - SHOWN_CASES} more"
    yield from (f"  {line}" for line in _advice(problems[0]) if line in shared)


def _advice(problem: Problem) -> list[str]:
    said = (("legal", problem.legal), ("to do", problem.fix))
    return [f"{name}: {words}" for name, words in said if words is not None]


def _geometry(look: CaseLook) -> tuple[str, str, str]:
    if look.image is None:
        return "?", "?", "?"
    grid = look.image.grid
    units = "/".join(dict.fromkeys(grid.units))
    channels = f" × {look.channels} channels" if (look.channels or 1) > 1 else ""
    return (
        f"{' × '.join(map(str, grid.shape))}{channels}",
        f"{' × '.join(f'{length:.4g}' for length in grid.spacing)} {units}",
        grid.orientation if units == "mm" else "",
    )


def _intensities(look: CaseLook) -> str:
    ranges = (
        f"{low:.5g} to {high:.5g}" if low <= high else "none"
        for low, high in zip(look.lowest, look.highest, strict=True)
    )
    return ", ".join(ranges) or "?"


def _labels(look: CaseLook, names: dict[int, str]) -> str:
    """What is in the label besides 0, with volumes."""
    if look.case.label is None:
        return "no label"
    if look.label is None or not look.labels:
        return "?"
    voxel = look.label.grid.voxel_volume_ml
    found = [
        f"{names.get(value, '')} {value}: ".lstrip() + volume_in_words(count, voxel)
        for value, count in look.labels.items()
        if value
    ]
    more = len(found) - SHOWN_LABELS
    return ", ".join(found[:SHOWN_LABELS] + [f"and {more} more"] * (more > 0)) or "background only"


def volume_in_words(count: int, voxel_ml: float) -> str:
    """The volume of so many voxels; in voxels where these have no volume in ml."""
    return f"{count} voxels" if math.isnan(voxel_ml) else f"{count * voxel_ml:.4g} ml"
