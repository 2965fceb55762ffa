"""How much RAM may be taken: of the machine's, and of what a container or a batch job is given."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil

GROUPS_OF_PROCESS = Path("/proc/self/cgroup")
GROUPS = Path("/sys/fs/cgroup")


class _Names(NamedTuple):
    """What files, and an entry of ``memory.stat``, are called."""

    limit: str
    used: str
    # Copies of files, which the system lets go of when room is needed.
    files: str


VERSION_1 = _Names("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
VERSION_2 = _Names("memory.max", "memory.current", "inactive_file")


def free_ram() -> int:
    """Bytes that are free on the machine, and within the limits of all control groups (Linux)."""
    return min([psutil.virtual_memory().available, *_free_in_groups()])


def _free_in_groups() -> Iterator[int]:
    """What the limits of the process's control groups leave, where there are any."""
    if not GROUPS_OF_PROCESS.exists():
        return
    for line in GROUPS_OF_PROCESS.read_text(encoding="utf-8").splitlines():
        _, controllers, place = line.split(":", 2)
        if not controllers:
            root, names = GROUPS, VERSION_2
        elif "memory" in controllers.split(","):
            root, names = GROUPS / "memory", VERSION_1
        else:
            continue
        # In a container the place is one outside of it, and the root is its own group.
        group = root / place.lstrip("/")
        for folder in (group, *group.parents):
            # No such file, no right to read it, or "max": no limit.
            with suppress(OSError, ValueError):
                if folder.is_relative_to(root):
                    limit, used, stat = (
                        (folder / name).read_text(encoding="utf-8")
                        for name in (names.limit, names.used, "memory.stat")
                    )
                    entries = (line.split() for line in stat.splitlines())
                    cached = sum(int(value) for key, value in entries if key == names.files)
                    yield max(0, int(limit) - int(used) + cached)
