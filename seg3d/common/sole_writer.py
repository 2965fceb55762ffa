"""One process at a time writes an output, however many write to its folder.

What a process is writing lies beside its outputs in the hidden folder `NOTES`: a list of their
names, and a lock that the system opens when the process ends, in whatever way it does. So a list
whose lock is open is that of a process that was killed.

Nobody is asked first. A process lays down its list, then looks for others that have a name of it;
of two, at least one sees the other. Who came later gives up.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator, Set
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from itertools import groupby
from pathlib import Path

from filelock import FileLock, Timeout

from seg3d.common.errors import UserError
from seg3d.common.files import NewFolders, no_entry_explained, remove_unfinished

NOTES = ".seg3d.writing"
LIST, BEGUN, LOCK = ".json", ".begun", ".lock"
# Seconds for which another list is looked at again: its process may be about to give up, or have
# ended just now. Longer for those that came first, so that of two there is one that goes on.
PATIENCE_OF_LATER, PATIENCE_OF_EARLIER = 0.5, 5.0

_own: ContextVar[frozenset[Path]] = ContextVar("_own", default=frozenset())


@contextmanager
def sole_writer(*outputs: Path) -> Iterator[None]:
    """Keep other processes and threads from writing the same outputs while the block runs.

    What killed processes have left of their outputs in the same folders is removed. Within the
    block, the same outputs may be asked for again.

    Args:
        outputs: files or folders; the folders that hold them are made if need be.

    Raises:
        UserError: if one of them is being written already, or nothing can be written there.
    """
    wanted = {output.parent.resolve() / output.name: output for output in outputs}
    new = sorted(wanted.keys() - _own.get())
    with ExitStack() as lists:
        for folder, places in groupby(new, lambda place: place.parent):
            names = {place.name: wanted[place] for place in places}
            lists.enter_context(_listed(folder, names))
        token = _own.set(_own.get().union(new))
        try:
            yield
        finally:
            _own.reset(token)


@contextmanager
def _listed(folder: Path, names: dict[str, Path]) -> Iterator[None]:
    """Have a list in a folder while the block runs.

    Args:
        folder: of the outputs.
        names: of the outputs, with the paths that people know them by.
    """
    notes = folder / NOTES
    # Looked for before the time is taken, and made afterwards: so none of those that come later has
    # made what the first finds there.
    made = NewFolders(folder, make=False)
    # In the order of their beginning, if clocks agree.
    mine = notes / f"{time.time_ns():020}-{secrets.token_hex(4)}{LIST}"
    lock = FileLock(mine.with_suffix(LOCK))
    try:
        with no_entry_explained(folder):
            _lay_down(mine, lock, sorted(names))
        _require_free(mine, names)
        yield
    finally:
        mine.unlink(missing_ok=True)
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)
        with suppress(OSError):
            notes.rmdir()
        made.discard()


def _lay_down(mine: Path, lock: FileLock, names: list[str]) -> None:
    text = json.dumps(names)
    while True:
        mine.parent.mkdir(parents=True, exist_ok=True)
        # The folder goes when the last process in it has ended; and another may be looking whether
        # this one lives.
        with suppress(FileNotFoundError, Timeout):
            lock.acquire(timeout=0)
            break
    # It is seen when it is whole, and locked already.
    begun = mine.with_suffix(BEGUN)
    begun.write_text(text, encoding="utf-8")
    begun.replace(mine)


def _require_free(mine: Path, names: dict[str, Path]) -> None:
    """Require that no other list has one of the names, or will have none in a moment."""
    began = time.monotonic()
    while taken := _taken(mine, names.keys()):
        name, later = taken
        patience = PATIENCE_OF_EARLIER if later else PATIENCE_OF_LATER
        if time.monotonic() - began > patience:
            raise UserError(
                f"{names[name]} is being written by another process: wait until it has ended, "
                "or give another output"
            )
        time.sleep(0.05)


def _taken(mine: Path, names: Set[str]) -> tuple[str, bool] | None:
    """One of the names that living processes have, and whether they all came later."""
    for lock in sorted(mine.parent.glob(f"*{LOCK}")):
        other = lock.with_suffix(LIST)
        if other == mine or _is_left_over(other):
            continue
        with suppress(FileNotFoundError):
            if common := names & set(json.loads(other.read_text(encoding="utf-8"))):
                return min(common), other > mine
    return None


def _is_left_over(other: Path) -> bool:
    """Whether a list is that of a killed process; then it goes, with what it was writing."""
    lock = FileLock(other.with_suffix(LOCK))
    try:
        lock.acquire(timeout=0)
    except (Timeout, OSError):
        # Another user's may be out of reach.
        return False
    try:
        if other.exists():
            for name in json.loads(other.read_text(encoding="utf-8")):
                remove_unfinished(other.parents[1] / name, since=other.stat().st_mtime)
    finally:
        for suffix in (LIST, BEGUN, LOCK):
            other.with_suffix(suffix).unlink(missing_ok=True)
        lock.release()
    return True
