"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from seg3d.common.errors import UserError
from seg3d.common.sizes import readable

ROOM = "free some space"
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# What the system says of names that cannot be used as they were given.
UNUSABLE = (
    errno.EACCES, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOENT, errno.ENOTDIR,
    errno.EPERM, errno.EROFS,
)  # fmt: skip


def in_plain_words(error: OSError) -> UserError | None:
    """What a person can do about an error of the system, or None if it is not theirs to mend."""
    place = f"{error.filename}: " if error.filename is not None else ""
    if error.errno in NO_SPACE:
        return UserError(f"{place}no more space on the disk", given=error.strerror, fix=ROOM)
    if error.errno in UNUSABLE:
        return UserError(f"{place}{error.strerror}")
    return None


@contextmanager
def no_entry_explained(folder: Path) -> Iterator[None]:
    """Turn the system's error that nothing can be made in a folder into a `UserError`."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{folder}: nothing can be written there",
            given=error.strerror or error,
            fix="give a shorter name"
            if error.errno == errno.ENAMETOOLONG
            else "give a folder that may be written to",
        ) from error


class NewFolders:
    """Make a folder, and those above it if need be; remember which.

    Args:
        folder: need not be there yet.
        make: at once; else the caller makes them.
    """

    def __init__(self, folder: Path, make: bool = True) -> None:
        with no_entry_explained(folder):
            self._made = [one for one in (folder, *folder.parents) if not one.exists()]
            try:
                if make:
                    folder.mkdir(parents=True, exist_ok=True)
            except BaseException:
                self.discard()
                raise

    def discard(self) -> None:
        """Remove those that were made, unless something lies in them."""
        for folder in self._made:
            with suppress(OSError):
                folder.rmdir()

    @contextmanager
    def discarded_if_raises(self) -> Iterator[None]:
        """Remove them if nothing can be made in them."""
        try:
            yield
        except BaseException:
            self.discard()
            raise


class UnfinishedFile:
    """An empty file under a hidden name, in the folder of the name that it shall have.

    Args:
        path: the final name; its folder is made if need be.
        suffix: ending of the temporary name, for writers that look at it (``.nii.gz``).

    Attributes:
        temporary: where to write.
    """

    def __init__(self, path: str | Path, suffix: str = "") -> None:
        self.path = Path(path)
        self._folders = NewFolders(self.path.parent)
        with self._folders.discarded_if_raises(), no_entry_explained(self.path.parent):
            handle, name = tempfile.mkstemp(suffix, f".{self.path.name}.", self.path.parent)
        os.close(handle)
        self.temporary = Path(name)

    def finish(self) -> None:
        """Give it its name, in place of the file that had it."""
        with self.temporary.open("r+b") as written:
            os.fsync(written.fileno())
        self.temporary.chmod(0o666 & ~_umask())
        self.temporary.replace(self.path)

    def discard(self) -> None:
        """Remove it, unless it has its name already."""
        self.temporary.unlink(missing_ok=True)
        self._folders.discard()


class UnfinishedFolder:
    """An empty folder under a hidden name, beside the name that it shall have.

    Args:
        path: the final name; the folder that holds it is made if need be.

    Attributes:
        temporary: where to write.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._folders = NewFolders(self.path.parent)
        with self._folders.discarded_if_raises(), no_entry_explained(self.path.parent):
            self.temporary = _hidden_folder(self.path, self.path.parent)

    def finish(self) -> None:
        """Give it its name, in place of the folder that had it."""
        self.temporary.chmod(0o777 & ~_umask())
        put_in_place(self.temporary, self.path)

    def discard(self) -> None:
        """Remove it, unless it has its name already."""
        shutil.rmtree(self.temporary, ignore_errors=True)
        self._folders.discard()


def remove_unfinished(path: Path, since: float = 0.0) -> None:
    """Remove what killed processes have left of a file or folder that they were writing.

    Args:
        path: the final name; no process may be writing it now.
        since: seconds, as of a file; what was last changed before stays.
    """
    name, suffix = re.escape(path.name), re.escape(path.suffix.lower())
    hidden = re.compile(rf"\.{name}\.[a-z0-9_]{{8}}({suffix})?")
    for one in path.parent.iterdir() if path.parent.is_dir() else ():
        if not hidden.fullmatch(one.name) or one.stat().st_mtime < since:
            continue
        if (aside := one / path.name).exists() and not path.exists():
            # It was about to be replaced.
            aside.rename(path)
        if one.is_dir():
            shutil.rmtree(one, ignore_errors=True)
        else:
            one.unlink(missing_ok=True)


def put_in_place(made: Path, path: Path) -> None:
    """Give a file or folder that is whole its name, in place of the one that had it.

    Args:
        made: lies on the same disk. Beside it the folder that is replaced lies for a moment.
        path: the final name, which another of the same kind may have.
    """
    if not (made.is_dir() and path.exists()):
        made.replace(path)
        return
    aside = _hidden_folder(path, made.parent)
    old = path.rename(aside / path.name)
    try:
        made.rename(path)
    except BaseException:
        old.rename(path)
        aside.rmdir()
        raise
    shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def atomic_write(path: str | Path, suffix: str = "") -> Iterator[Path]:
    """Give a temporary path in the folder of ``path``; rename it to ``path`` if all went well.

    Args:
        path: the final name; its folder is made if need be.
        suffix: ending of the temporary name, for writers that look at it (``.nii.gz``).

    Yields:
        The temporary path, to be written by the caller. It is removed if the block raises.

    Raises:
        UserError: if the folder cannot be written to, or the disk is full.
    """
    file = UnfinishedFile(path, suffix)
    try:
        with full_disk_explained(Path(path)):
            yield file.temporary
            file.finish()
    finally:
        file.discard()


@contextmanager
def full_disk_explained(path: Path, fix: str = ROOM) -> Iterator[None]:
    """Turn the system's error that there is no more space into a `UserError`.

    Args:
        path: what is written, for the message.
        fix: what to do if there is too little space.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        raise UserError(f"{path}: no more space on the disk", given=error, fix=fix) from error


def require_space(path: Path, size: int, fix: str = ROOM) -> None:
    """Make sure that ``size`` bytes could be written.

    Args:
        path: what they shall be written to; it and its folders need not be there yet.
        size: bytes.
        fix: what to do if there is too little.

    Raises:
        UserError: if there is not enough space.
    """
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    free = shutil.disk_usage(there).free
    if free < size:
        raise UserError(
            f"{path}: there is not enough space on the disk",
            given=f"{readable(free)} are free",
            legal=readable(size),
            fix=fix,
        )


def reserve(file: IO[bytes], size: int, path: Path, fix: str = ROOM) -> None:
    """Make a file ``size`` bytes long and have the disk keep room for them.

    Writing into a memory map of the file then cannot run out of space, which would end the
    process.

    Args:
        file: open for writing.
        size: bytes.
        path: the folder that holds the file, or another file in it, for messages.
        fix: what to do if there is too little.

    Raises:
        UserError: if there is not enough space.
    """
    require_space(path, size, fix)
    with full_disk_explained(path, fix):
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)


def _hidden_folder(path: Path, parent: Path) -> Path:
    return Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=parent))


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


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


def stays_inside(name: str) -> bool:
    """Whether a name that stands in a file leads to nothing outside the folder that it is in."""
    parts = Path(name).parts
    return bool(parts) and not Path(name).is_absolute() and ".." not in parts and "\\" not in name


def stamp(path: Path) -> list[Any]:
    """Changes when a file, or a file of a folder, is replaced by another."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    states = [file.stat() for file in files if file.exists()]
    return [str(path.absolute()), [(one.st_size, one.st_mtime_ns) for one in states]]
