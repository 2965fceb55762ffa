"""How the functions of this folder are compiled, and where the machine code is kept."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numba

# Sums in any order, which vectors need, and products and sums in one rounding. NaN stays NaN.
FASTMATH = {"reassoc", "contract", "nsz"}


def compiled(function: Callable[..., Any]) -> Any:
    """Compile for the types of the first call; later processes find the machine code on disk."""
    options = {"nogil": True, "fastmath": FASTMATH, "error_model": "numpy"}
    folder = _folder()
    if folder is None:
        return numba.njit(function, **options)
    before = numba.config.CACHE_DIR
    try:
        # Read here and never again. A program's other functions are none of our business.
        numba.config.CACHE_DIR = folder
        return numba.njit(function, cache=True, **options)
    finally:
        numba.config.CACHE_DIR = before


def part_of_others(function: Callable[..., Any]) -> Any:
    """For a function that compiled ones call: it becomes a part of them, never one of its own.

    That takes less time to compile, and arguments need not be handed over.
    """
    return numba.njit(function, inline="always")


def is_new() -> bool:
    """Whether no machine code of these functions has been kept yet."""
    folder = _folder()
    return folder is None or not any(Path(folder).rglob("*.nbc"))


@cache
def _folder() -> str | None:
    """Where to keep machine code, or None if there is no place for it.

    Not beside the source, which may belong to somebody else. Numba compiles anew when the file of
    a function has changed, but not when that of a function that it calls has: so the folder's name
    says what is in all of them.
    """
    sources = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        sources.update(file.read_bytes())
    try:
        base = numba.config.CACHE_DIR or _users_cache()
        folder = Path(base) / "seg3d" / f"kernels-{sources.hexdigest()[:16]}"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # no home, or no space
        return None
    return str(folder) if os.access(folder, os.W_OK) else None


def _users_cache() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
