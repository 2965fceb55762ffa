"""Times and sizes as people write them: a number and a unit."""

from __future__ import annotations

import re
from typing import Any

from seg3d.common.errors import UserError

MOST = 2**62
_UNITS = {
    "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400,
    "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
    "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
}  # fmt: skip


def _quantity(text: Any, units: tuple[str, ...]) -> Any:
    if not isinstance(text, str):
        return text
    match = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*([a-zA-Z]+)\s*", text)
    if not match or match[2].lower() not in units:
        raise ValueError("should be a number and a unit")
    quantity = float(match[1]) * _UNITS[match[2].lower()]
    # Bytes and nanoseconds are counted in 64 bits.
    if quantity > MOST:
        raise ValueError("should be a number that is not beyond all measure")
    return quantity


def as_seconds(text: Any) -> Any:
    """Seconds from a text such as ``2h``; what is no text stays as it is."""
    return _quantity(text, ("s", "m", "min", "h", "d"))


def as_bytes(text: Any) -> Any:
    """Bytes from a text such as ``4GiB``; what is no text stays as it is."""
    return _quantity(text, ("kib", "mib", "gib", "tib", "kb", "mb", "gb", "tb"))


def parse_bytes(text: str, option: str) -> float:
    """Bytes from a text such as ``4GiB``.

    Raises:
        UserError: if it is not one; ``option`` says where it stands.
    """
    try:
        size = float(as_bytes(text))
    except ValueError as error:
        raise UserError(f"{option} {error}", given=text, legal="a size (512MiB, 8GiB)") from error
    return size
