"""Folders within folders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from seg3d.io.formats import is_plain_folder


def folders_below(folder: Path, but: Path | None = None) -> Iterator[tuple[Path, Path]]:
    """A folder and all folders in it, each with the way to it, sorted.

    Hidden ones and those that are volumes themselves are left out. Links may lead in circles: no
    folder is visited twice.

    Args:
        folder: where to begin; if it is none, there is nothing.
        but: a folder that is left out, with all that is in it.
    """
    seen = set() if but is None else {but.resolve()}

    def search(here: Path, way: Path) -> Iterator[tuple[Path, Path]]:
        if here.resolve() in seen or not is_plain_folder(here):
            return
        seen.add(here.resolve())
        yield here, way
        for inner in sorted(here.iterdir()):
            if not inner.name.startswith("."):
                yield from search(inner, way / inner.name)

    yield from search(folder, Path())
