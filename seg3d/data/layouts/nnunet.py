"""nnU-Net's raw data: a ``dataset.json`` about folders, or with the files of every case."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from seg3d.common.errors import UserError
from seg3d.data.cases import Case
from seg3d.data.layouts.entries import entry, listed_cases
from seg3d.data.layouts.found import Found, LeftOut
from seg3d.data.layouts.json_files import channel_names, label_values, regions_class_order
from seg3d.data.layouts.pairs import (
    TRAINING_PAIRS,
    cases_for_testing,
    cases_for_training,
    unmatched,
)
from seg3d.data.layouts.volume_files import numbered
from seg3d.io import SUFFIXES


def raw_data(path: Path, content: dict[str, Any]) -> Found:
    """Images in ``imagesTr`` and ``imagesTs``, one file per channel, and labels in ``labelsTr``.

    Args:
        path: of the ``dataset.json`` beside these folders.
        content: of it.

    Raises:
        UserError: if the file is malformed, or no image belongs to a label.
    """
    root, pair, ending = path.parent, TRAINING_PAIRS[0], _file_ending(path, content)
    cases = cases_for_training(root, pair, ending)
    notes: list[LeftOut] = []
    stated = content.get("numTraining")
    if stated is not None and stated != len(cases):
        notes.append((f"{path.name}: numTraining", f"states {stated}, but {len(cases)} are there"))
    cases += cases_for_testing(root, numbered=numbered(cases), ending=ending)
    notes += unmatched(root, pair, cases, ending)
    return _found(path, content, cases, notes)


def explicit_files(path: Path, content: dict[str, Any]) -> Found:
    """Cases whose files ``dataset`` names one by one.

    Args:
        path: of the ``dataset.json``; what it lists is relative to its folder.
        content: of it.

    Raises:
        UserError: if the file is malformed, or lists files that are not there.
    """
    entries = []
    for name, files in content["dataset"].items():
        where = f'{path}, dataset["{name}"]'
        if not isinstance(files, dict) or not {"images", "label"} <= files.keys():
            raise UserError(
                f"{where} does not name its files",
                given=files,
                legal='{"images": [...], "label": "..."}',
            )
        row = {"name": name, "image": files["images"], "label": files["label"]}
        entries.append(entry(where, row))
    cases, absent = listed_cases(path, entries)
    cases += cases_for_testing(path.parent, numbered=True, ending=_file_ending(path, content))
    return _found(path, content, cases, absent)


def _found(
    path: Path, content: dict[str, Any], cases: list[Case], left_out: list[LeftOut]
) -> Found:
    return Found(
        "nnU-Net",
        path,
        cases,
        left_out,
        channel_names(path, content),
        label_values(path, content),
        regions_class_order(path, content),
    )


def _file_ending(path: Path, content: dict[str, Any]) -> str:
    ending = content.get("file_ending", "")
    if ending and ending not in SUFFIXES:
        raise UserError(
            f'{path}: "file_ending" is not that of a volume that seg3d reads',
            given=ending,
            legal=", ".join(SUFFIXES),
            fix="convert the files, and correct file_ending",
        )
    return ending
