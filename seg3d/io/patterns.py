"""Volumes in folders within a folder, by a pattern of their paths.

``sub-CASE/anat/sub-CASE_T1w.nii.gz`` is such a pattern: CASE stands for the name of the case, and
is the same wherever it is written; ``*`` stands for anything within a name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from seg3d.common.errors import UserError
from seg3d.io.formats import is_volume

CASE = "CASE"


def volumes_by_case(folder: Path, pattern: str) -> dict[str, Path]:
    """The volumes whose paths fit a pattern, by the names of their cases, sorted.

    Args:
        folder: that the pattern starts from.
        pattern: see above, with ``/`` between folders.

    Raises:
        UserError: if two volumes have one case, or the pattern has no CASE or leads elsewhere.
    """
    parts = PurePosixPath(pattern).parts
    if CASE not in pattern or not parts or parts[0] == "/" or ".." in parts:
        raise UserError(
            f"the pattern {pattern!r} does not say where cases are found",
            legal=f"a path below the folder with {CASE} for the name of the case, "
            f"such as {CASE}/image.nii.gz",
        )
    found: dict[str, Path] = {}
    for case, path in _matches(folder, parts, None):
        if first := found.get(case):
            raise UserError(
                f"the pattern {pattern!r} fits two volumes of {case}",
                given=f"{first} and {path}",
                fix="give a pattern that fits one of them, or list the cases in a dataset.csv",
            )
        found[case] = path
    return dict(sorted(found.items()))


def _matches(folder: Path, parts: tuple[str, ...], case: str | None) -> Iterator[tuple[str, Path]]:
    """Cases and volumes below a folder.

    Args:
        folder: where to look.
        parts: of the pattern, that are left.
        case: its name, if an earlier part has told it.
    """
    wanted = _expression(parts[0], case)
    for path in sorted(folder.iterdir()):
        match = wanted.fullmatch(path.name)
        if match is None or (path.name.startswith(".") and not parts[0].startswith(".")):
            continue
        name = case or match.groupdict().get("case")
        if len(parts) > 1 and path.is_dir():
            yield from _matches(path, parts[1:], name)
        elif len(parts) == 1 and name and is_volume(path) and path.exists():
            yield name, path


def _expression(part: str, case: str | None) -> re.Pattern[str]:
    """The names that a part of a pattern fits."""
    first, *others = (re.escape(text).replace(r"\*", ".*") for text in part.split(CASE))
    if not others:
        return re.compile(first)
    if case is not None:
        return re.compile(re.escape(case).join([first, *others]))
    return re.compile(f"{first}(?P<case>.+){'(?P=case)'.join(others)}")
