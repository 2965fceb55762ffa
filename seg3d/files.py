"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from seg3d.errors import UserError


@contextmanager
def atomic_write(path: str | Path, suffix: str = "") -> Iterator[Path]:
    """Give a temporary path in the folder of ``path``; rename it to ``path`` if all went well.

    Args:
        path: the final name; its folder is made if need be.
        suffix: ending of the temporary name, for writers that look at it (``.nii.gz``).

    Yields:
        The temporary path, to be written by the caller. It is removed if the block raises.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("r+b") as written:
            os.fsync(written.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def require_folder(path: Path, option: str) -> None:
    """Require that ``path`` is a folder, or that nothing stands in the way of making it.

    Raises:
        UserError: if it, or what it should lie in, is a file; ``option`` says who asked for it.
    """
    for folder in (path, *path.parents):
        if folder.exists() and not folder.is_dir():
            raise UserError(
                f"{option} {path}: {folder} is a file",
                legal="a folder, which need not exist yet",
            )
