"""Sizes in bytes, as people read them."""

from __future__ import annotations

GIB = 2**30


def readable(size: float) -> str:
    """Bytes for people: ``"    1.50 GiB"``, always of the same width."""
    for unit in ("B", "KiB", "MiB"):
        if abs(size) < 1024:
            return f"{size:8.2f} {unit:3}"
        size /= 1024
    return f"{size:8.2f} GiB"
