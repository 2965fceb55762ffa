"""Folders within a folder, such as one a patient, whose files the config describes by patterns."""

from __future__ import annotations

from pathlib import Path

from seg3d.common.errors import UserError
from seg3d.config import FilesConfig
from seg3d.data.cases import Case
from seg3d.data.layouts.found import Found
from seg3d.io import volumes_by_case


def files_by_pattern(root: Path, files: FilesConfig) -> Found:
    """Cases of which there are the images of all channels; without a label, they are for testing.

    Args:
        root: that the patterns start from.
        files: the patterns.

    Raises:
        UserError: if no image belongs to a label, or a pattern fits two files of a case.
    """
    if not files.images or files.label is None:
        raise UserError(
            "data.files names only the images or only the label",
            given=f"images {files.images}, label {files.label}",
            legal="both, such as images [CASE/image.nii.gz] and label CASE/label.nii.gz",
        )
    if root.is_file():
        raise UserError(
            f"{root} is a list, in which data.files finds nothing", legal="the folder of the cases"
        )
    labels = volumes_by_case(root, files.label)
    channels = [volumes_by_case(root, pattern) for pattern in files.images]
    # A pattern such as CASE.nii.gz fits CASE_seg.nii.gz too.
    taken = set(labels.values())
    channels = [
        {case: path for case, path in found.items() if path not in taken} for found in channels
    ]
    complete = set(channels[0]).intersection(*channels)
    if not complete & labels.keys():
        raise UserError(
            f"{root}: data.files finds no image that has a label",
            given="; ".join(
                f"{pattern} fits {len(found)} files"
                for pattern, found in zip(
                    (*files.images, files.label), (*channels, labels), strict=True
                )
            ),
            legal="patterns that give the image and the label of a case the same CASE",
        )
    cases = [
        Case(case, tuple(found[case] for found in channels), labels.get(case))
        for case in sorted(complete)
    ]
    unused = [
        (str(path.relative_to(root)), "not every channel of this case is there")
        for found in (*channels, labels)
        for case, path in found.items()
        if case not in complete
    ]
    return Found("files by pattern", root, cases, unused)
