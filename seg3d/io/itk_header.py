"""A look at the text headers of MetaImage and NRRD before ITK reads them.

ITK believes them: numbers of axes that no volume has, or words where numbers should be, make it run
forever or end the process. So every field that it knows has to look like one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

from seg3d.common.errors import UserError
from seg3d.io.detached import LIST, LONGEST_HEADER, voxel_files
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

# Thousands of digits end the process, too.
NUMBER = r"[+-]?(?:nan|inf|(?:[0-9]{1,40}\.?[0-9]{0,40}|\.[0-9]{1,40})(?:e[+-]?[0-9]{1,3})?)"
NUMBERS = rf"{NUMBER}(?:\s+{NUMBER}){{0,99}}"
VECTOR = rf"(?:none|\(\s*{NUMBER}(?:\s*,\s*{NUMBER}){{0,8}}\s*\))"
VECTORS = rf"{VECTOR}(?:\s*{VECTOR}){{0,9}}"
WORDS, QUOTED, TEXT = r"[\w?.* -]{1,999}", r'(?:\s*"[^"\\]{0,99}"){0,10}', ".{0,4000}"
# What the fields may hold, by their names in lower case and without blanks.
NRRD_FIELDS = {
    "axismaxs": NUMBERS, "axismins": NUMBERS, "byteskip": NUMBER, "centerings": WORDS,
    "centers": WORDS, "content": TEXT, "datafile": TEXT, "dimension": NUMBER, "encoding": WORDS,
    "endian": WORDS, "kinds": WORDS, "labels": QUOTED, "lineskip": NUMBER, "max": NUMBER,
    "measurementframe": VECTORS, "min": NUMBER, "number": NUMBER, "oldmax": NUMBER,
    "oldmin": NUMBER, "sampleunits": TEXT, "sizes": NUMBERS, "space": WORDS,
    "spacedimension": "[1-8]", "spacedirections": VECTORS, "spaceorigin": VECTOR,
    "spaceunits": QUOTED, "spacings": NUMBERS, "thicknesses": NUMBERS, "type": WORDS,
    "units": QUOTED,
}  # fmt: skip
# Further ones are remarks.
META_FIELDS = dict.fromkeys(
    ("NDims", "HeaderSize", "ElementNumberOfChannels", "CompressedDataSize", "ElementMin",
     "ElementMax", "ElementToIntensityFunctionSlope", "ElementToIntensityFunctionOffset",
     "ElementNBits", "ID", "ParentID"), NUMBER,
) | dict.fromkeys(
    ("DimSize", "ElementSpacing", "ElementSize", "TransformMatrix", "Rotation", "Orientation",
     "Offset", "Position", "Origin", "CenterOfRotation", "SequenceID", "Color"), NUMBERS,
)  # fmt: skip

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
    fields, start = _meta_fields(path, head)
    axes = _number(path, fields, "NDims", 1, MOST_AXES)
    voxels = math.prod(_numbers(path, fields, "DimSize", axes))
    channels = _number(path, fields, "ElementNumberOfChannels", 1, MOST_CHANNELS, usual=1)
    _number(path, fields, "CompressedDataSize", 0, LONGEST, usual=0)
    _number(path, fields, "HeaderSize", -1, LONGEST, usual=0)
    kind = fields.get("ElementType", "")
    if kind not in META_BYTES:
        raise _wrong(path, fields, "ElementType", ", ".join(META_BYTES))
    deflated = fields.get("CompressedData", "").lower().startswith("t")
    as_words = fields.get("BinaryData", "").lower().startswith("f")
    size = voxels * channels * (1 if as_words else META_BYTES[kind])
    _check_voxels(path, start, size, "deflate" if deflated else "raw")


def _check_nrrd(path: Path, head: bytes) -> None:
    fields, start = _nrrd_fields(path, head)
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


def _meta_fields(path: Path, head: bytes) -> tuple[Fields, int]:
    """The fields of a header by their names, and where what follows it begins."""
    fields: Fields = {}
    for line, end in _lines(head):
        name, _, value = (part.strip() for part in re.split("([=:])", f"{line}=", maxsplit=1))
        value = value.removesuffix("=").strip()
        _take(path, fields, name, name, value, META_FIELDS.get(name, TEXT))
        if name == "ElementDataFile":
            return fields, end
    raise _damaged(path, f"no ElementDataFile within the first {len(head)} bytes")


def _nrrd_fields(path: Path, head: bytes) -> tuple[Fields, int]:
    """Likewise; names are in lower case and without blanks."""
    fields: Fields = {}
    end = 0
    for line, end in list(_lines(head))[1:]:
        if not line:
            return fields, end
        # Remarks, and what other programs add.
        if line.startswith("#") or ":=" in line:
            continue
        name, _, value = (part.strip() for part in line.partition(":"))
        key = name.replace(" ", "").lower()
        if key not in NRRD_FIELDS:
            raise _damaged(path, f"a field {name}", ", ".join(NRRD_FIELDS))
        _take(path, fields, name, key, value, NRRD_FIELDS[key])
        if key == "datafile" and value.upper().startswith(LIST):
            return fields, end
    if len(head) == LONGEST_HEADER:
        raise _damaged(path, f"no end within the first {len(head)} bytes")
    # What is detached from its voxels need not end in an empty line.
    return fields, end


def _lines(head: bytes) -> Iterator[tuple[str, int]]:
    """The lines of a header without blanks around them, and where each ends."""
    end = 0
    for row in head.splitlines(keepends=True):
        end += len(row)
        yield row.decode("latin-1").strip(), end


def _take(path: Path, fields: Fields, name: str, key: str, value: str, pattern: str) -> None:
    if key in fields:
        raise _damaged(path, f"{name} stands there twice")
    if not re.fullmatch(pattern, value, re.IGNORECASE):
        raise _damaged(path, f"{name}: {value}")
    fields[key] = value


def _number(
    path: Path, fields: Fields, name: str, least: int, most: int, usual: int | None = None
) -> int:
    text = fields.get(name, "" if usual is None else str(usual))
    if not re.fullmatch(r"[+-]?[0-9]{1,19}", text) or not least <= int(text) <= most:
        raise _wrong(path, fields, name, f"a whole number from {least} to {most}")
    return int(text)


def _numbers(path: Path, fields: Fields, name: str, count: int) -> list[int]:
    words = fields.get(name, "").split()
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
    files = voxel_files(path)
    there = sum(one.stat().st_size for one in files) if files else path.stat().st_size - start
    require_enough(path, size, there, packing)


def _wrong(path: Path, fields: Fields, name: str, legal: str) -> UserError:
    return _damaged(path, f"{name}: {fields.get(name, 'not there')}", legal)


def _damaged(path: Path, given: str, legal: str | None = None) -> UserError:
    return UserError(
        f"{path} is damaged or not in the format of its name",
        given=given,
        legal=legal,
        fix="copy or convert it again",
    )
