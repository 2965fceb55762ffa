"""A look at the text headers of MetaImage and NRRD before ITK reads them.

ITK believes them: numbers of axes that no volume has make it run forever or end the process.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

from seg3d.common.errors import UserError
from seg3d.io.detached import LONGEST_HEADER, own_voxels
from seg3d.io.packed import require_enough

MOST_AXES, MOST_CHANNELS, LONGEST = 10, 2**16, 2**62
META_BYTES = {
    "MET_CHAR": 1, "MET_UCHAR": 1, "MET_SHORT": 2, "MET_USHORT": 2, "MET_INT": 4, "MET_UINT": 4,
    "MET_LONG": 4, "MET_ULONG": 4, "MET_LONG_LONG": 8, "MET_ULONG_LONG": 8, "MET_FLOAT": 4,
    "MET_DOUBLE": 8,
}  # fmt: skip
# Without what stands before and behind it: "unsigned short int" and "uint16_t" have more words.
NRRD_BYTES = {
    "char": 1, "int8": 1, "short": 2, "int16": 2, "int": 4, "int32": 4, "long long": 8,
    "longlong": 8, "int64": 8, "float": 4, "double": 8,
}  # fmt: skip
NRRD_PACKINGS = {
    "raw": "raw", "gzip": "deflate", "gz": "deflate", "bzip2": "bzip2", "bz2": "bzip2",
    "hex": "hex", "text": "raw", "txt": "raw", "ascii": "raw",
}  # fmt: skip
AS_WORDS = ("text", "txt", "ascii")

Fields = dict[str, str]


def require_sound_header(path: Path) -> None:
    """Require that the header of a MetaImage or NRRD file is one that ITK can be given.

    Args:
        path: of a file; one that begins with ``NRRD`` is taken for NRRD, all others for MetaImage.

    Raises:
        UserError: if it promises what cannot be, or names a file outside its own folder.
    """
    with path.open("rb") as file:
        head = file.read(LONGEST_HEADER)
    if head.startswith(b"NRRD"):
        _check_nrrd(path, head)
    else:
        _check_meta(path, head)


def _check_meta(path: Path, head: bytes) -> None:
    fields, start = _fields(path, head, r"([^=:]*)[=:](.*)", last="ElementDataFile")
    axes = _number(path, fields, "NDims", 1, MOST_AXES)
    voxels = math.prod(_numbers(path, fields, "DimSize", axes))
    channels = _number(path, fields, "ElementNumberOfChannels", 1, MOST_CHANNELS, usual=1)
    _number(path, fields, "CompressedDataSize", 0, LONGEST, usual=0)
    _number(path, fields, "HeaderSize", -1, LONGEST, usual=0)
    kind = fields.get("elementtype", "")
    if kind not in META_BYTES:
        raise _wrong(path, fields, "ElementType", ", ".join(META_BYTES))
    deflated = fields.get("compresseddata", "").lower().startswith("t")
    as_words = fields.get("binarydata", "").lower().startswith("f")
    size = voxels * channels * (1 if as_words else META_BYTES[kind])
    _check_voxels(path, start, size, "deflate" if deflated else "raw")


def _check_nrrd(path: Path, head: bytes) -> None:
    fields, start = _fields(path, head, r"([^:=]*):(?!=)(.*)", last="")
    axes = _number(path, fields, "dimension", 1, MOST_AXES)
    voxels = math.prod(_numbers(path, fields, "sizes", axes))
    _number(path, fields, "lineskip", 0, LONGEST_HEADER, usual=0)
    _number(path, fields, "byteskip", -1, LONGEST, usual=0)
    kind = re.sub(r"^(un)?signed +|^u|( +int|_t)$", "", fields.get("type", "").lower())
    if kind not in NRRD_BYTES:
        raise _wrong(path, fields, "type", ", ".join(NRRD_BYTES))
    encoding = fields.get("encoding", "").lower()
    if encoding not in NRRD_PACKINGS:
        raise _wrong(path, fields, "encoding", ", ".join(NRRD_PACKINGS))
    # A number in words has at least one digit.
    size = voxels * (1 if encoding in AS_WORDS else NRRD_BYTES[kind])
    _check_voxels(path, start, size, NRRD_PACKINGS[encoding])


def _fields(path: Path, head: bytes, line: str, last: str) -> tuple[Fields, int]:
    """The fields of a header by their names without blanks, and where what follows it begins.

    Args:
        path: for messages.
        head: the first bytes of the file.
        line: a pattern of name and value.
        last: name of the last field; an empty one stands for an empty line.
    """
    fields: Fields = {}
    place = 0
    for row in head.splitlines(keepends=True):
        place += len(row)
        text = row.decode("latin-1").strip()
        if not text and not last:
            return fields, place
        if text.startswith("#") or not (match := re.fullmatch(line, text)):
            continue
        key = match[1].replace(" ", "").lower()
        if key in fields:
            raise _damaged(path, f"{match[1].strip()} stands there twice")
        fields[key] = match[2].strip()
        if key == last.lower():
            return fields, place
    if last or len(head) == LONGEST_HEADER:
        raise _damaged(path, f"no {last or 'end'} within the first {len(head)} bytes")
    # What is detached from its voxels need not end in an empty line.
    return fields, place


def _number(
    path: Path, fields: Fields, name: str, least: int, most: int, usual: int | None = None
) -> int:
    text = fields.get(name.lower(), "" if usual is None else str(usual))
    if not re.fullmatch(r"[+-]?[0-9]{1,19}", text) or not least <= int(text) <= most:
        raise _wrong(path, fields, name, f"a whole number from {least} to {most}")
    return int(text)


def _numbers(path: Path, fields: Fields, name: str, count: int) -> list[int]:
    words = fields.get(name.lower(), "").split()
    if len(words) != count or not all(re.fullmatch("0*[1-9][0-9]{0,9}", word) for word in words):
        raise _wrong(path, fields, name, f"{count} whole numbers above 0")
    return [int(word) for word in words]


def _check_voxels(path: Path, start: int, size: int, packing: str) -> None:
    """Check where the voxels are, and that there are enough bytes for them.

    Args:
        path: of the header.
        start: where they begin if they are in the same file.
        size: of the voxels, in bytes.
        packing: as for `require_enough`.
    """
    files = own_voxels(path)
    there = sum(one.stat().st_size for one in files) if files else path.stat().st_size - start
    require_enough(path, size, there, packing)


def _wrong(path: Path, fields: Fields, name: str, legal: str) -> UserError:
    return _damaged(path, f"{name}: {fields.get(name.lower(), 'not there')}", legal)


def _damaged(path: Path, given: str, legal: str | None = None) -> UserError:
    return UserError(
        f"{path} is damaged or not in the format of its name",
        given=given,
        legal=legal,
        fix="copy or convert it again",
    )
