"""The files that a volume is made of."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from seg3d.common.errors import UserError
from seg3d.io.detached import voxel_files
from seg3d.io.formats import header_of, store_of

PAIR = (".hdr", ".img")
TEXT_HEADERS = (".nrrd", ".nhdr", ".mha", ".mhd")


def parts_of(path: Path) -> list[Path]:
    """Everything that has to be copied for a volume: files, or the folder that it is.

    Args:
        path: of a volume that is there; of one that is damaged, what can be told is told.
    """
    ending = path.suffix.lower()
    if ending in PAIR:
        header = header_of(path)
        return sorted(other for other in path.parent.iterdir() if header_of(other) == header)
    parts = [store_of(path)]
    if ending in TEXT_HEADERS:
        with suppress(UserError):
            parts += voxel_files(path)
    return parts
