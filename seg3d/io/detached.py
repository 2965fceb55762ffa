"""Which files the text headers of NRRD and MetaImage name for their voxels.

``.nhdr`` and ``.mhd`` do so always, ``.nrrd`` and ``.mha`` may: one file, or a list of files. As a
header may come from a stranger, nothing is read that lies outside its own folder.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PureWindowsPath

from seg3d.common.errors import UserError

# Headers are short; a list of files has a line for each.
LONGEST_HEADER = 2**20
IN_METAIMAGE = re.compile(rb"^\s*ElementDataFile\s*[=:]([^\r\n]*)", re.MULTILINE | re.IGNORECASE)
IN_NRRD = re.compile(rb"^\s*data ?file\s*:(?!=)([^\r\n]*)", re.MULTILINE | re.IGNORECASE)
END_OF_NRRD = re.compile(rb"\n\r?\n")
LIST = "LIST"


def voxel_files(path: Path) -> list[Path]:
    """The files that a header names for its voxels, all in its folder or below.

    Args:
        path: a file of NRRD or MetaImage.

    Returns:
        The files; none if the voxels are in the same file.

    Raises:
        UserError: if one is named that does not lie in the header's folder or below, or is not
            there, or the header has no end.
    """
    names = _named_files(path)
    for name in names:
        if not name or name == "-" or any(char in name for char in "%\0") or _leaves_folder(name):
            raise UserError(
                f"{path}: its header names files that are not read",
                given=name,
                legal="a file, or a list of files, in the folder of the header",
                fix="move the file there, and correct the header",
            )
        if not os.path.isfile(path.parent / name):
            raise UserError(
                f"{path}: the file of its voxels is not there",
                given=name,
                fix="put it where the header says, or correct the header",
            )
    return [path.parent / name for name in names]


def _named_files(path: Path) -> list[str]:
    """The names as they are written in a header; none if the voxels are in the same file."""
    with path.open("rb") as file:
        start = file.read(LONGEST_HEADER)
    if path.suffix.lower() in (".mha", ".mhd"):
        end, found = None, IN_METAIMAGE.search(start)
    else:
        end = END_OF_NRRD.search(start)
        found = IN_NRRD.search(start, 0, end.end() if end else len(start))
    if found is None:
        if end is None and len(start) == LONGEST_HEADER:
            raise UserError(
                f"{path} is damaged or not in the format of its name",
                given="a header without an end",
            )
        return []
    name = _text(found[1]).strip()
    if name.upper() == "LOCAL":
        return []
    # Every name that begins so counts as the announcement of a list.
    if name.upper().startswith(LIST):
        return [line.strip() for line in _text(start[found.end() :]).splitlines() if line.strip()]
    return [name]


def _text(part: bytes) -> str:
    return part.decode("utf-8", "surrogateescape")


def _leaves_folder(name: str) -> bool:
    # Both kinds of slashes, and drives.
    there = PureWindowsPath(name)
    return bool(there.anchor) or ".." in there.parts
