"""From cases as a layout found them to a `Dataset` that holds together."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from operator import attrgetter
from pathlib import Path

from seg3d.common.errors import UserError
from seg3d.data.cases import Case, Dataset
from seg3d.data.layouts.found import Found

# Outputs are named after cases; these are not allowed in file names on some system or other.
FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f]')


def assemble(found: Found) -> Dataset:
    """Give cases unique names, and set those for testing apart.

    Raises:
        UserError: if no case can be trained on, or if a case is there twice.
    """
    source = found.source
    cases = _with_unique_names(found.cases, source)
    labelled = [case for case in cases if case.label is not None and case.split != "test"]
    testing = [case for case in cases if case.label is None or case.split == "test"]
    if not labelled:
        raise UserError(
            f"{source} has no labelled case to train on",
            given=f"{found.layout}: {len(cases)} cases, all for testing or without label",
            legal="at least one image with a label",
        )
    return Dataset(
        layout=found.layout,
        source=source,
        cases=tuple(sorted(labelled, key=attrgetter("name"))),
        test=tuple(sorted(testing, key=attrgetter("name"))),
        channels=found.channels,
        labels=found.labels,
        regions_class_order=found.regions_class_order,
        left_out=tuple(found.left_out),
    )


def _with_unique_names(cases: Sequence[Case], source: Path) -> list[Case]:
    """Put folder names in front of names that repeat: ``t1`` becomes ``patient_7_t1``."""
    folders_used = [0] * len(cases)
    while True:
        names = [
            _safe_name(case, depth, source) for case, depth in zip(cases, folders_used, strict=True)
        ]
        # Some file systems take Liver and liver for the same file.
        counts = Counter(name.casefold() for name in names)
        repeated = [index for index, name in enumerate(names) if counts[name.casefold()] > 1]
        if not repeated:
            return [replace(case, name=name) for case, name in zip(cases, names, strict=True)]
        for index in repeated:
            if folders_used[index] == len(_folders(cases[index])):
                case = cases[index]
                raise UserError(
                    f"{source} has more than one case called {case.name!r}",
                    given=f"{case.images[0]} among them",
                    legal="every case once, under a name of its own",
                    fix="remove the repetition, or name the cases in a list (column name)",
                )
            folders_used[index] += 1


def _safe_name(case: Case, folders: int, source: Path) -> str:
    parents = _folders(case)
    name = "_".join([*parents[len(parents) - folders :], case.name])
    safe = FORBIDDEN.sub("_", name).strip(" .")
    if not safe:
        raise UserError(
            f"{source} has a case that no file can be named after",
            given=repr(case.name),
            legal="a name with at least one letter or digit",
        )
    return safe


def _folders(case: Case) -> tuple[str, ...]:
    return case.images[0].parent.parts[1:]
