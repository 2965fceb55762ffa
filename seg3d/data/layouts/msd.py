"""The Medical Segmentation Decathlon and MONAI: ``dataset.json`` that lists the files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from seg3d.common.errors import UserError
from seg3d.data.cases import Case, Split
from seg3d.data.layouts.entries import Entry, check_object, entry, is_legal, listed_cases, no_label
from seg3d.data.layouts.found import Found, LeftOut
from seg3d.data.layouts.json_files import channel_names, label_values
from seg3d.data.layouts.pairs import TEST_PAIR, TRAINING_PAIRS
from seg3d.data.layouts.volume_files import files_of, left_out, numbered

SECTIONS = ("training", "validation", "test", "testing")


def listed_in_sections(path: Path, content: dict[str, Any]) -> Found:
    """Cases under ``training``, and perhaps ``validation`` and ``test``.

    Args:
        path: of the ``dataset.json``; what it lists is relative to its folder.
        content: of it.

    Raises:
        UserError: if it is malformed, or lists files that are not there.
    """
    entries, notes = _entries(path, content)
    cases, absent = listed_cases(path, entries)
    cases = [_with_reference(path.parent, case) for case in cases]
    used = files_of(cases)
    unlisted = [
        leftover
        for folder in (*TRAINING_PAIRS[0], *TEST_PAIR)
        for leftover in left_out(path.parent, folder, used, f"not listed in {path.name}")
    ]
    return Found(
        "nnU-Net v1" if numbered(cases) else "MSD",
        path,
        cases,
        [*notes, *absent, *unlisted],
        channel_names(path, content),
        label_values(path, content),
    )


def _with_reference(root: Path, case: Case) -> Case:
    """MSD lists test cases by their images; references, if there are any, lie in labelsTs."""
    reference = root / TEST_PAIR.labels / case.images[0].name
    unlabelled_test = case.split == "test" and case.label is None
    return replace(case, label=reference) if unlabelled_test and reference.exists() else case


def _entries(path: Path, content: dict[str, Any]) -> tuple[list[Entry], list[LeftOut]]:
    """All that is listed; keys of MONAI data lists that seg3d has no use for are left out."""
    sections = {name: content[name] for name in SECTIONS if content.get(name)}
    for name, rows in sections.items():
        if not isinstance(rows, list):
            raise UserError(f'{path}: "{name}" is not a list', given=rows, legal="[{...}, ...]")
    notes: dict[str, str] = {}
    default: dict[str, Split | None] = {"validation": "val", "test": "test", "testing": "test"}
    if "validation" in sections:
        default["training"] = "train"
    folds = [row.get("fold") for row in sections.get("training", []) if isinstance(row, dict)]
    by_fold = "validation" not in sections and 0 in folds and any(fold != 0 for fold in folds)
    if by_fold:
        notes['"fold"'] = "only its first fold is used: 0 validates, all others train"

    entries = []
    for section, rows in sections.items():
        for number, row in enumerate(rows):
            where = f"{path}, {section}[{number}]"
            if section in ("test", "testing") and isinstance(row, str):
                row = {"image": row}
            check_object(where, row)
            known = {key: value for key, value in row.items() if is_legal(key)}
            for key in row.keys() - known.keys():
                notes.setdefault(f'"{key}"', "a key that seg3d has no use for")
            split = default.get(section)
            if by_fold and section == "training":
                split = "val" if row.get("fold") == 0 else "train"
            listed = entry(where, known, split)
            if section == "training" and listed.label is None and listed.split != "test":
                raise no_label(where)
            entries.append(listed)
    return entries, sorted((f"{path.name}: {key}", reason) for key, reason in notes.items())
