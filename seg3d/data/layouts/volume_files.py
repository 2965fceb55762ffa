"""Volume files in folders: which count, and how the files of one case belong together."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from seg3d.common.errors import UserError
from seg3d.data.cases import Case
from seg3d.data.layouts.found import LeftOut
from seg3d.io import header_of, images_in, is_segmentation, is_volume, labels_in, stem

NOT_A_VOLUME = "not a volume that seg3d reads"


def visible(folder: Path) -> list[Path]:
    """What a folder holds, sorted, without hidden files (macOS strews ``._x.nii.gz``)."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def images_by_stem(folder: Path, ending: str = "") -> dict[str, Path]:
    """Images in a folder by their name without ending; empty if there is no such folder.

    Raises:
        UserError: if two files differ in their ending only.
    """
    return by_stem(folder, _ending_in(ending, images_in(folder) if folder.is_dir() else []))


def labels_by_stem(folder: Path, ending: str = "") -> dict[str, Path]:
    """Likewise the labels in a folder, which may hold the images of some of them."""
    return by_stem(folder, _ending_in(ending, labels_in(folder) if folder.is_dir() else []))


def by_stem(folder: Path, volumes: Iterable[Path]) -> dict[str, Path]:
    """Volumes of a folder by their name without ending.

    Raises:
        UserError: if two of them differ in their ending only.
    """
    found: dict[str, Path] = {}
    for path in volumes:
        first = found.setdefault(stem(path), path)
        if first is not path:
            raise UserError(
                f"{folder} holds two files of the same name",
                given=f"{first.name} and {path.name}",
                fix="keep one of them in this folder",
            )
    return found


def channel_files(name: str, find: Callable[[str], Path | None]) -> tuple[Path, ...]:
    """The image files of a case: ``name`` itself, or ``name_0000``, ``name_0001``, ...

    Args:
        name: of the case.
        find: gives the file with a certain stem, or None.
    """
    if (whole := find(name)) is not None:
        return (whole,)
    found = (find(f"{name}_{channel:04d}") for channel in itertools.count())
    return tuple(path for path in itertools.takewhile(bool, found) if path is not None)


def without_channel(name: str) -> str:
    """``liver_1_0000`` gives ``liver_1``."""
    return re.sub(r"_\d{4}$", "", name)


def numbered(cases: Iterable[Case]) -> bool:
    """Whether image names end in the number of the channel, as in ``liver_1_0000.nii.gz``."""
    return any(
        stem(case.images[0]) != case.name and without_channel(stem(case.images[0])) == case.name
        for case in cases
    )


def files_of(cases: Iterable[Case]) -> set[Path]:
    """All files that cases are made of."""
    return {path for case in cases for path in case.files}


def left_out(
    root: Path, folder: str, used: Collection[Path], reason: str, ending: str = ""
) -> list[LeftOut]:
    """What lies in a folder and was not used, each with the reason.

    Args:
        root: of the dataset.
        folder: below ``root``; need not exist.
        used: files that are part of a case.
        reason: for volumes that a case might have used.
        ending: that volumes of this dataset must have.
    """
    if not (root / folder).is_dir():
        return []
    unused = []
    with_image = {stem(path) for path in images_in(root / folder)}
    for path in visible(root / folder):
        if path in used or header_of(path) != path:
            continue
        if not is_volume(path):
            why = NOT_A_VOLUME
        elif not path.exists():
            why = "a link to a file that does not exist"
        elif not path.name.endswith(ending):
            why = f"does not end in {ending}"
        elif is_segmentation(path) and stem(path) in with_image:
            why = "a segmentation beside its image"
        else:
            why = reason
        unused.append(((Path(folder) / path.name).as_posix(), why))
    return unused


def _ending_in(ending: str, volumes: list[Path]) -> list[Path]:
    return [path for path in volumes if path.name.endswith(ending)]
