"""Folders of images beside folders of labels: a case is known by its file names."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from seg3d.common.errors import UserError
from seg3d.data.cases import Case
from seg3d.data.layouts.found import LeftOut
from seg3d.data.layouts.volume_files import (
    channel_files,
    files_of,
    images_by_stem,
    labels_by_stem,
    left_out,
    visible,
    without_channel,
)


class Pair(NamedTuple):
    """Names of the folders that hold the images and their labels."""

    images: str
    labels: str


TRAINING_PAIRS = (Pair("imagesTr", "labelsTr"), Pair("images", "labels"))
TEST_PAIR = Pair("imagesTs", "labelsTs")


def cases_for_training(root: Path, pair: Pair, ending: str = "") -> list[Case]:
    """Cases of which there are an image and a label.

    A label ``x`` belongs to the image ``x`` or to the images ``x_0000``, ``x_0001``, ...,
    one per channel.

    Args:
        root: holds the folders.
        pair: folders of the training images and labels.
        ending: that all volumes must have; without it, image and label may differ in theirs.

    Raises:
        UserError: if there is none.
    """
    images = images_by_stem(root / pair.images, ending)
    labels = labels_by_stem(root / pair.labels, ending)
    cases = [
        Case(name, files, label)
        for name, label in labels.items()
        if (files := channel_files(name, images.get))
    ]
    if not cases:
        wanted = ending or ".nii.gz"
        raise UserError(
            f"{root}: no image in {pair.images} belongs to a label in {pair.labels}",
            given=f"{_content(root, pair.images)}; {_content(root, pair.labels)}",
            legal=f"{pair.labels}/x{wanted} with {pair.images}/x{wanted}, "
            f"or with {pair.images}/x_0000{wanted}, x_0001{wanted}, ...",
            fix="rename the files, or list them in a dataset.csv with the columns image,label",
        )
    return cases


def cases_for_testing(root: Path, *, numbered: bool, ending: str = "") -> list[Case]:
    """Cases in ``imagesTs``, with a label if ``labelsTs`` has one of that name.

    Args:
        root: holds the folders, or does not.
        numbered: whether file names end in the number of the channel.
        ending: that all volumes must have.
    """
    images = images_by_stem(root / TEST_PAIR.images, ending)
    labels = labels_by_stem(root / TEST_PAIR.labels, ending)
    names = sorted({without_channel(name) if numbered else name for name in images})
    return [
        Case(name, files, labels.get(name), "test")
        for name in names
        if (files := channel_files(name, images.get))
    ]


def unmatched(root: Path, pair: Pair, cases: Iterable[Case], ending: str = "") -> list[LeftOut]:
    """What lies in the folders and belongs to none of the cases."""
    used = files_of(cases)
    reasons = {
        pair.images: f"no label of this name in {pair.labels}, or an earlier channel is missing",
        pair.labels: f"no image of this name in {pair.images}",
        TEST_PAIR.images: "an earlier channel is missing",
        TEST_PAIR.labels: f"no image of this name in {TEST_PAIR.images}",
    }
    return [
        leftover
        for folder, reason in reasons.items()
        for leftover in left_out(root, folder, used, reason, ending)
    ]


def _content(root: Path, folder: str) -> str:
    if not (root / folder).is_dir():
        return f"no folder {folder}"
    names = [path.name for path in visible(root / folder)]
    shown = ", ".join([*names[:3], *(["..."] if len(names) > 3 else [])])
    return f"{folder} holds {shown or 'nothing'}"
