"""The numbers that samples are stored as, and what they are read as."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from seg3d.io.header import as_voxels


@dataclass(frozen=True)
class SampleFormat:
    """One of the standard's sample formats.

    Attributes:
        code: in bytes 3225 and 3226 of the file.
        name: in words.
        stored: numpy kind and size of what is stored.
        dtype: of the voxels that it is read as.
    """

    code: int
    name: str
    stored: str
    dtype: np.dtype


IBM, FLOAT, INT8 = 1, 5, 8
FORMATS = {
    code: SampleFormat(code, name, stored, np.dtype(read))
    for code, name, stored, read in (
        (IBM, "IBM float, 32 bits", "u4", "f4"),
        (2, "integer, 32 bits", "i4", "i4"),
        (3, "integer, 16 bits", "i2", "i2"),
        (FLOAT, "IEEE float, 32 bits", "f4", "f4"),
        (6, "IEEE float, 64 bits", "f8", "f4"),
        (INT8, "integer, 8 bits", "i1", "i1"),
        (10, "unsigned integer, 32 bits", "u4", "u4"),
        (11, "unsigned integer, 16 bits", "u2", "u2"),
        (16, "unsigned integer, 8 bits", "u1", "u1"),
    )
}

# An IBM float is sign, 7 bits of a power of 16, 24 bits of a fraction: by the first byte, the
# worth of the fraction's last bit.
_WORTH = np.ldexp(1.0, 4 * (np.arange(128) - 64) - 24)
WORTH_OF_LAST_BIT = np.concatenate([_WORTH, -_WORTH])


def decode(path: Path, stored: np.ndarray, code: int) -> np.ndarray:
    """Samples as numbers in the machine's byte order, of the format's `SampleFormat.dtype`.

    Each number is the nearest that the type holds.

    Args:
        path: of the file.
        stored: what it holds.
        code: of its sample format.

    Raises:
        UserError: if a number is too large for float32, beyond which IBM floats and those of 64
            bits reach.
    """
    if code == IBM:
        stored = WORTH_OF_LAST_BIT[stored >> 24] * (stored & 0xFFFFFF)
    return as_voxels(path, stored, FORMATS[code].dtype)
