"""Sizes in bytes, as people read them."""

from __future__ import annotations

GIB = 2**30


def readable(size: float) -> str:
    """Bytes for people, such as ``1.50 GiB``."""
    for unit in ("B", "KiB", "MiB"):
        if abs(size) < 1024:
            return f"{size:.2f} {unit}"
        size /= 1024
    return f"{size:.2f} GiB"
