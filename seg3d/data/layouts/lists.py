"""Datasets that list their files: CSV tables, JSON lists, MSD and MONAI data lists."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from seg3d.common.errors import UserError
from seg3d.data.cases import Case, Split
from seg3d.data.layouts.volume_files import LeftOut, channel_files
from seg3d.io import SUFFIXES, is_volume, stem

SPLITS: dict[str, Split] = {part: part for part in get_args(Split)}
LEGAL_KEYS = "image, image2, image3, ..., label, split, name"
SECTIONS = ("training", "validation", "test", "testing")


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


def read_csv(path: Path) -> list[Entry]:
    """Read a table with the columns image, image2, ..., label, split, name.

    Commas, semicolons and tabs separate; upper case in the header does not matter.

    Raises:
        UserError: naming the line, if the table is malformed.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not a text file", given=str(error), legal="a table in UTF-8"
        ) from error
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    rows = csv.reader(io.StringIO(text), delimiter=delimiter, strict=True)
    try:
        lines = [(rows.line_num, [cell.strip() for cell in row]) for row in rows]
    except csv.Error as error:
        raise UserError(
            f"{path}, line {rows.line_num} is not valid CSV", given=str(error)
        ) from error
    lines = [(number, row) for number, row in lines if any(row)]
    if not lines:
        raise UserError(f"{path} is empty", legal=f"a header of {LEGAL_KEYS}, and a line per case")
    (first, header), *rest = lines
    header = [column.lower() for column in header]
    _check_keys(f"{path}, line {first}", header)
    for number, row in rest:
        if len(row) != len(header):
            raise UserError(
                f"{path}, line {number} does not fit the header",
                given=f"{len(row)} cells: {delimiter.join(row)}",
                legal=f"{len(header)} cells: {delimiter.join(header)}",
                fix="put a cell that contains the separator in double quotes",
            )
    return [
        entry(f"{path}, line {number}", dict(zip(header, row, strict=True))) for number, row in rest
    ]


def data_list(path: Path, content: dict[str, Any]) -> tuple[list[Entry], list[LeftOut]]:
    """Entries of a JSON object with ``training`` and perhaps ``validation`` and ``test``.

    Keys of MONAI data lists that seg3d has no use for are left out.

    Raises:
        UserError: naming section and number of an entry that is malformed.
    """
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
            _check_object(where, row)
            known = {key: value for key, value in row.items() if _is_legal(key)}
            for key in row.keys() - known.keys():
                notes.setdefault(f'"{key}"', "a key that seg3d has no use for")
            split = default.get(section)
            if by_fold and section == "training":
                split = "val" if row.get("fold") == 0 else "train"
            listed = entry(where, known, split)
            if section == "training" and listed.label is None and listed.split != "test":
                raise _no_label(where)
            entries.append(listed)
    return entries, sorted((f"{path.name}: {key}", reason) for key, reason in notes.items())


def json_list(path: Path, rows: list[Any]) -> list[Entry]:
    """Entries of a JSON list of objects with the same keys as the columns of a CSV table."""
    entries = []
    for number, row in enumerate(rows):
        where = f"{path}, [{number}]"
        _check_object(where, row)
        _check_keys(where, list(row))
        entries.append(entry(where, row))
    return entries


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
        raise _no_label(where)
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


def _no_label(where: str) -> UserError:
    return UserError(
        f'{where} is to train on or to validate with, but has no "label"',
        fix="add the label, or list the case for testing",
    )


def _check_object(where: str, row: object) -> None:
    if not isinstance(row, dict):
        raise UserError(f"{where} is not an object", given=row, legal=f"{{...}} with {LEGAL_KEYS}")


def _check_keys(where: str, keys: list[str]) -> None:
    problems = [f"{key!r} is unknown" for key in keys if not _is_legal(key)]
    problems += sorted({f"{key!r} occurs twice" for key in keys if keys.count(key) > 1})
    if not any(key.startswith("image") for key in keys):
        problems.append("'image' is missing")
    if problems:
        raise UserError(f"{where}: {'; '.join(problems)}", given=", ".join(keys), legal=LEGAL_KEYS)


def _is_legal(key: str) -> bool:
    return re.fullmatch(r"image\d*|label|split|name", key) is not None


def _channel(key: str) -> int:
    return int(key.removeprefix("image") or 0)
