"""Elements that are longer than their file are not for GDCM, which would make room for them."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
)

from seg3d.common.errors import UserError
from seg3d.io import open_volume
from tests.dicom_series import write_slice

PIXELS = np.arange(56, dtype=np.int16).reshape(7, 8)
HUGE = struct.pack("<I", 0x70000000)


@pytest.mark.parametrize(
    "element",
    [
        b"\x09\x00\x10\x10OB\0\0" + HUGE,
        b"\x09\x00\x10\x10UN\0\0" + HUGE,
        b"\x09\x00\x10\x10SQ\0\0" + HUGE,
        b"\xfe\xff\x0d\xe0" + HUGE,
        # A kind that is none.
        b"\xe2\x7f\x10\x10" + HUGE,
        b"\0\0\0\0" + HUGE,
        # In a sequence, and behind one.
        b"\x09\x00\x10\x10SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\x14\0\0\0\x09\x00\x10\x10OB\0\0"
        + HUGE,
        b"\x09\x00\x10\x10SQ\0\0\x18\0\0\0\xfe\xff\x00\xe0\x10\0\0\0\x09\x00\x10\x10OB\0\0" + HUGE,
        b"\x09\x00\x10\x10SQ\0\0\x08\0\0\0\xfe\xff\x00\xe0\0\0\0\0\x09\x00\x11\x10OB\0\0" + HUGE,
    ],
)
def test_an_element_that_is_longer_than_its_file(tmp_path: Path, element: bytes) -> None:
    path = write_slice(tmp_path / "a.dcm", PIXELS, (0, 0, 0))
    open_volume(path).close()
    path.write_bytes(path.read_bytes() + element + b"four")
    with pytest.raises(UserError, match=r"is damaged\n  given: element .{9} of .*GiB"):
        open_volume(path)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_files_of_other_kinds_are_read(tmp_path: Path, syntax: UID) -> None:
    path = write_slice(tmp_path / "a.dcm", PIXELS, (0, 0, 0))
    file = pydicom.dcmread(path)
    copy = pydicom.Dataset(dict(file))
    copy.file_meta = file.file_meta
    copy.file_meta.TransferSyntaxUID = syntax
    order = "<" if syntax.is_little_endian else ">"
    copy.PixelData = PIXELS.astype(f"{order}i2").tobytes()
    part = pydicom.Dataset()
    part.PatientID = "x"
    copy.ReferencedImageSequence = [part]
    copy.save_as(path, enforce_file_format=True)
    with open_volume(path) as reader:
        region = (slice(0, 8), slice(0, 7), slice(0, 1))
        np.testing.assert_array_equal(reader.read(region)[0, :, :, 0], PIXELS.T)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="is damaged"), open_volume(path) as reader:
        reader.read(region)


def test_what_is_packed_as_a_whole_is_bounded(tmp_path: Path) -> None:
    path = write_slice(tmp_path / "a.dcm", PIXELS, (0, 0, 0))
    file = pydicom.dcmread(path)
    file.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    file.save_as(path)
    open_volume(path).close()
    data = path.read_bytes()
    start = 144 + struct.unpack_from("<I", data, 140)[0]
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    content = zlib.decompress(data[start:], -zlib.MAX_WBITS)
    bomb = packer.compress(content + b"\x09\x00\x10\x10OB\0\0" + struct.pack("<I", 2**29))
    bomb += b"".join(packer.compress(bytes(2**24)) for _ in range(32)) + packer.flush()
    path.write_bytes(data[:start] + bomb)
    with pytest.raises(UserError, match="longer than 256"):
        open_volume(path)
