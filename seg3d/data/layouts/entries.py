"""Lines of lists: what they may say, and the cases that they name."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from seg3d.common.errors import UserError
from seg3d.data.cases import Case, Split
from seg3d.data.layouts.found import LeftOut
from seg3d.data.layouts.volume_files import channel_files
from seg3d.io import SUFFIXES, is_volume, stem

SPLITS: dict[str, Split] = {part: part for part in get_args(Split)}
LEGAL_KEYS = "image, image2, image3, ..., label, split, name"


@dataclass(frozen=True)
class Entry:
    """One case as a list writes it, paths not yet looked at.

    Attributes:
        where: the place in the list, for messages.
    """

    where: str
    images: tuple[str, ...]
    label: str | None
    split: Split | None
    name: str | None


def entry(where: str, row: dict[str, Any], split: Split | None = None) -> Entry:
    """Check the values of one entry.

    Args:
        where: for messages.
        row: values by legal key.
        split: what holds if the row itself states none.

    Raises:
        UserError: if a value is of the wrong kind, or a case to train on has no label.
    """
    images: list[Any] = []
    for key in sorted((key for key in row if key.startswith("image")), key=_channel):
        images += row[key] if isinstance(row[key], list) else [row[key]]
    if not images or not all(isinstance(image, str) and image for image in images):
        raise UserError(
            f'{where}: "image" does not name the image file of every channel',
            given=images,
            legal="a path for every channel",
        )
    for key in ("label", "name", "split"):
        if row.get(key) is not None and not isinstance(row[key], str):
            raise UserError(f'{where}: "{key}" is not text', given=row[key], legal="a string")
    if stated := row.get("split"):
        if stated.lower() not in SPLITS:
            raise UserError(f'{where}: "split" is unknown', given=stated, legal=", ".join(SPLITS))
        split = SPLITS[stated.lower()]
    label = row.get("label") or None
    if split in ("train", "val") and label is None:
        raise no_label(where)
    return Entry(where, tuple(images), label, split, row.get("name") or None)


def listed_cases(path: Path, entries: Iterable[Entry]) -> tuple[list[Case], list[LeftOut]]:
    """Look up the files of a list; relative paths start at the folder that holds it.

    Where a lone image ``x`` is not there but ``x_0000`` is (nnU-Net v1), the numbered files
    are its channels. Test cases without their image are left out.

    Raises:
        UserError: naming files that are missing or cannot be read.
    """
    cases: list[Case] = []
    missing: list[str] = []
    left_out: list[LeftOut] = []
    for listed in entries:
        images = tuple(_volume(path.parent, image, listed.where) for image in listed.images)
        label = None if listed.label is None else _volume(path.parent, listed.label, listed.where)
        if len(images) == 1:
            images = _numbered(images[0]) or images
        wanted = [("image", image) for image in images]
        if label is not None:
            wanted.append(("label", label))
        absent = [(key, file) for key, file in wanted if not file.exists()]
        if not absent:
            name = listed.name or stem(images[0]).removesuffix("_0000")
            cases.append(Case(name, images, label, listed.split))
        elif listed.split == "test" or listed.label is None:
            what = f"{path.name}: {', '.join(listed.images)}"
            left_out.append((what, "listed for testing, but not all its files exist"))
        else:
            missing += [f'{listed.where}, "{key}": {file}' for key, file in absent]
    if missing:
        more = [f"and {len(missing) - 5} more"] if len(missing) > 5 else []
        raise UserError(
            f"{path} lists {len(missing)} files that do not exist",
            given="".join(f"\n    {line}" for line in [*missing[:5], *more]),
            legal=f"paths relative to {path.parent}, or absolute",
            fix="correct the paths, complete the download, or remove these entries",
        )
    return cases, left_out


def no_label(where: str) -> UserError:
    """What to say about an entry that needs a label."""
    return UserError(
        f'{where} is to train on or to validate with, but has no "label"',
        fix="add the label, or list the case for testing",
    )


def check_object(where: str, row: object) -> None:
    """Require that an entry of a JSON list is an object.

    Raises:
        UserError: if it is not.
    """
    if not isinstance(row, dict):
        raise UserError(f"{where} is not an object", given=row, legal=f"{{...}} with {LEGAL_KEYS}")


def check_keys(where: str, keys: list[str]) -> None:
    """Require that keys (or columns) are legal, none is there twice, and one names the image.

    Raises:
        UserError: naming all that is wrong.
    """
    problems = [f"{key!r} is unknown" for key in keys if not is_legal(key)]
    problems += sorted({f"{key!r} occurs twice" for key in keys if keys.count(key) > 1})
    if not any(key.startswith("image") for key in keys):
        problems.append("'image' is missing")
    if problems:
        raise UserError(f"{where}: {'; '.join(problems)}", given=", ".join(keys), legal=LEGAL_KEYS)


def is_legal(key: str) -> bool:
    """Whether an entry may have this key."""
    return re.fullmatch(r"image\d*|label|split|name", key) is not None


def _numbered(image: Path) -> tuple[Path, ...]:
    name = stem(image)
    ending = image.name[len(name) :]

    def find(candidate: str) -> Path | None:
        path = image.with_name(candidate + ending)
        return path if path.exists() else None

    return channel_files(name, find)


def _volume(root: Path, text: str, where: str) -> Path:
    path = root / text
    if not is_volume(path):
        raise UserError(
            f"{where}: {text} is not a volume that seg3d reads", legal=", ".join(SUFFIXES)
        )
    return path


def _channel(key: str) -> int:
    return int(key.removeprefix("image") or 0)
