"""A look at the elements of a DICOM file before GDCM reads it.

GDCM takes as much memory as an element says that it is long, even if the file is shorter, and
inflates what is packed as a whole to whatever it becomes.
"""

from __future__ import annotations

import struct
import zlib
from mmap import ACCESS_READ, mmap
from pathlib import Path

from seg3d.common.errors import UserError
from seg3d.common.sizes import readable

IMPLICIT, BIG_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
# Unpacked in one go, whatever its length.
DEFLATED = "1.2.840.10008.1.2.1.99"
# Of a slice that is packed as a whole.
MOST_INFLATED = 2**28
# Of shorter elements GDCM says itself that the file ends too early.
HARMLESS = 2**24
PREAMBLE = 132
LONG_KINDS = (
    b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"
)  # fmt: skip
PIXELS, ITEM = (0x7FE0, 0x0010), (0xFFFE, 0xE000)
UNTIL_ITS_END = 0xFFFFFFFF


def require_whole_elements(path: Path, syntax: str) -> None:
    """Require that no long element of a file is longer than the file.

    Args:
        path: of the file.
        syntax: identifier of how its elements are written, its transfer syntax.

    Raises:
        UserError: if one is, or the file is packed and becomes too long.
    """
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
        # What stands in front is always written in the same way.
        start = _Elements(path, data, explicit=True, order="<").walk(PREAMBLE, only_group=2)
        if syntax == DEFLATED:
            inflated = _inflated(path, data[start:])
            _Elements(path, inflated, explicit=True, order="<").walk(0)
        else:
            order = ">" if syntax == BIG_ENDIAN else "<"
            _Elements(path, data, explicit=syntax != IMPLICIT, order=order).walk(start)


class _Elements:
    def __init__(self, path: Path, data: bytes | mmap, *, explicit: bool, order: str) -> None:
        self._path = path
        self._data = data
        self._explicit = explicit
        self._order = order

    def walk(self, at: int, only_group: int | None = None) -> int:
        """Look at one element after the other, those of sequences included.

        Args:
            at: where the first begins.
            only_group: end in front of the first that is not of this group.

        Returns:
            Where it ended.
        """
        # Their items are packed pixels, no elements.
        in_pixels = False
        while at + 12 <= len(self._data):
            tag = struct.unpack_from(f"{self._order}HH", self._data, at)
            if only_group not in (None, tag[0]):
                break
            kind = self._data[at + 4 : at + 6]
            if self._explicit and tag[0] != ITEM[0] and not (kind.isalpha() and kind.isupper()):
                # So does GDCM go on.
                self._explicit = False
            at, length = self._value(at, tag, kind)
            in_pixels = length == UNTIL_ITS_END if tag == PIXELS else in_pixels and tag == ITEM
            if length == UNTIL_ITS_END or (tag == ITEM and not in_pixels):
                continue
            if length > len(self._data) - at:
                if length <= HARMLESS:
                    break
                raise _damaged(
                    self._path,
                    f"element {tag[0]:04x},{tag[1]:04x} of {readable(length)}, "
                    f"{readable(len(self._data) - at)} follow",
                )
            # The parts of a sequence are elements.
            may_have_parts = kind in (b"SQ", b"UN") if self._explicit else tag != PIXELS
            if not (may_have_parts and self._begins_with_item(at)):
                at += length
        return at

    def _value(self, at: int, tag: tuple[int, ...], kind: bytes) -> tuple[int, int]:
        """Where the value of an element begins, and how long it is."""
        if not self._explicit or tag[0] == ITEM[0]:
            return at + 8, struct.unpack_from(f"{self._order}I", self._data, at + 4)[0]
        if kind in LONG_KINDS:
            return at + 12, struct.unpack_from(f"{self._order}I", self._data, at + 8)[0]
        return at + 8, struct.unpack_from(f"{self._order}H", self._data, at + 6)[0]

    def _begins_with_item(self, at: int) -> bool:
        return self._data[at : at + 4] == struct.pack(f"{self._order}HH", *ITEM)


def _inflated(path: Path, packed: bytes) -> bytes:
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        data = unpacker.decompress(packed, MOST_INFLATED)
    except zlib.error as error:
        raise _damaged(path, str(error)) from error
    if unpacker.unconsumed_tail:
        raise _damaged(path, f"it becomes longer than {readable(MOST_INFLATED)}")
    return data


def _damaged(path: Path, given: str) -> UserError:
    return UserError(f"{path} is damaged", given=given, fix="copy or convert it again")
