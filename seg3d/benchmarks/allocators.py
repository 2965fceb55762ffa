"""Whether the C library keeps the memory of tensors that are gone, or gives it back at once.

On a CPU this decides times: memory that was given back comes again page by page, each cleared by
the system. Plain training asks for more of it in a step than training with sketches does.
"""

from __future__ import annotations

import os
import platform

import torch

KEPT, SYSTEM = "memory kept", "as the system comes"
# glibc reads them when a process starts: blocks of up to 4 GiB are kept.
SETTINGS = dict.fromkeys(("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"), str(2**32))


def legal_allocators(device: torch.device) -> list[str]:
    """Those that make a difference on a device."""
    matters = device.type == "cpu" and platform.libc_ver()[0] == "glibc"
    return [KEPT, SYSTEM] if matters else [SYSTEM]


def environment_of(allocator: str) -> dict[str, str]:
    """The environment of a process that shall have an allocator."""
    without = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    return without | SETTINGS if allocator == KEPT else without


def settings_here() -> dict[str, str]:
    """What this process was started with."""
    return {name: os.environ[name] for name in SETTINGS if name in os.environ}
