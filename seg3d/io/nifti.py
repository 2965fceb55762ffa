"""NIfTI: headers through nibabel, voxels through memory maps.

``.nii`` is mapped. ``.nii.gz`` can only be read from its beginning: it is unpacked at the first
`read`, in RAM up to 64 MiB, above that in an unnamed file in the folder for temporary files
(``TMPDIR``). It is packed when it is finished; until then the voxels are in RAM, or above 64 MiB in
an unnamed file in the output's folder.
"""

from __future__ import annotations

import gzip
import io
import math
import tempfile
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.volumeutils import apply_read_scaling
from nibabel.wrapstruct import WrapStructError

from seg3d.common.errors import UserError
from seg3d.common.files import NewFolders, atomic_write, full_disk_explained
from seg3d.common.notes import Note
from seg3d.geometry import Grid, Shape3
from seg3d.io.arrays import (
    ArrayReader,
    ArrayWriter,
    MappedWriter,
    Scratch,
    byte_count,
    ram_of_scratch,
)
from seg3d.io.header import Header, checked_header, voxel_dtype
from seg3d.io.packed import require_enough
from seg3d.io.regions import VolumeReader, VolumeWriter

# Of NIfTI-1; longer ones take NIfTI-2.
LONGEST_AXIS = np.iinfo(np.int16).max
# Voxels up to which sform and qform are taken for the same.
SAME_PLACE = 0.5
# Bytes in front of the voxels, which are extensions of the header, and behind them.
LONGEST_HEAD, MOST_BEHIND = 2**26, 2**20
DAMAGED = (
    EOFError, OSError, OverflowError, ValueError, zlib.error,
    ImageFileError, HeaderDataError, WrapStructError,
)  # fmt: skip


def open_volume(path: Path) -> VolumeReader:
    try:
        _require_moderate_head(path)
        image = nib.load(path)
    except DAMAGED as error:
        raise _damaged(path, error) from error
    if not isinstance(image, nib.nifti1.Nifti1Pair):
        raise UserError(f"{path} is not a NIfTI file", given=type(image).__name__)
    return (_PackedReader if _is_packed(path) else _Reader)(path, image)


def create_volume(path: Path, header: Header, dtype: np.dtype, channels: int) -> VolumeWriter:
    native = _native(header, dtype, channels)
    layout = native.get_data_dtype(), native.get_data_shape()
    if _is_packed(path):
        return _PackedWriter(path, _head(native), *layout)
    return MappedWriter(path, _head(native), *layout, order="F")


def ram_of(path: Path, shape: Shape3, voxel_bytes: int) -> int:
    return ram_of_scratch(math.prod(shape) * voxel_bytes) if _is_packed(path) else 0


class _Reader(ArrayReader):
    """An uncompressed file; integers stay what they are unless the header scales them."""

    slow_axis = 2

    def __init__(self, path: Path, image: Any) -> None:
        self.path = path
        header = checked_header(path, image.shape, image.affine, image.header)
        self.header = replace(header, notes=_notes(path, header))
        self._stored = image.dataobj
        self._scaled = (self._stored.slope, self._stored.inter) != (1, 0)
        self.dtype = voxel_dtype(path, self._stored.dtype)
        if self._scaled:
            self.dtype = np.dtype(np.float32)
        if not _is_packed(path):
            self._array()

    def _array(self) -> np.ndarray:
        stored = self._stored
        try:
            return np.memmap(self.path, stored.dtype, "r", stored.offset, stored.shape, "F")
        except DAMAGED as error:
            raise _damaged(self.path, error) from error

    def _in_units(self, stored: np.ndarray) -> np.ndarray:
        if not self._scaled:
            return stored
        scaled: np.ndarray = apply_read_scaling(stored, self._stored.slope, self._stored.inter)
        return scaled


class _PackedReader(_Reader):
    _unpacked: Scratch | None = None

    def _array(self) -> np.ndarray:
        if self._unpacked is None:
            self._unpacked = self._unpack()
        return self._unpacked.array()

    def _unpack(self) -> Scratch:
        size = byte_count(self._stored.shape, self._stored.dtype)
        require_enough(self.path, size, self.path.stat().st_size, "deflate")
        folder = Path(tempfile.gettempdir())
        fix = "free some space, or set TMPDIR to a folder that has it"
        scratch = Scratch(self._stored.shape, self._stored.dtype, folder, fix)
        try:
            with gzip.open(self.path) as stream:
                stream.seek(self._stored.offset)
                scratch.fill(stream)
                # gzip compares its checksum at the end.
                if len(stream.read(MOST_BEHIND + 1)) > MOST_BEHIND:
                    raise ValueError(f"more than {MOST_BEHIND} bytes follow the voxels")
        except DAMAGED as error:
            scratch.close()
            raise _damaged(self.path, error) from error
        return scratch

    def close(self) -> None:
        if self._unpacked is not None:
            self._unpacked.close()
            self._unpacked = None


class _PackedWriter(ArrayWriter):
    def __init__(self, path: Path, head: bytes, dtype: np.dtype, shape: tuple[int, ...]) -> None:
        self.path = path
        self._head = head
        self._folders = NewFolders(path.parent)
        try:
            self._scratch = Scratch(shape, dtype, path.parent, "free some space")
        except BaseException:
            self._folders.discard()
            raise

    def _array(self) -> np.ndarray:
        return self._scratch.array()

    def finish(self) -> None:
        # As nibabel packs: fast, and without the time, so that equal volumes are equal files.
        with (
            full_disk_explained(self.path),
            atomic_write(self.path) as temporary,
            temporary.open("wb") as file,
            gzip.GzipFile("", "wb", 1, file, mtime=0) as stream,
        ):
            stream.write(self._head)
            self._scratch.pour(stream)

    def discard(self) -> None:
        self._scratch.close()
        self._folders.discard()


def _notes(path: Path, header: Header) -> tuple[Note, ...]:
    """Whether the two positions that a header may give are one; nibabel takes the sform."""
    native = header.native
    if not native["sform_code"] or not native["qform_code"]:
        return ()
    grid = Grid(header.grid.shape, native.get_sform())
    try:
        apart = grid.distance(native.get_qform()) / min(grid.spacing)
    except DAMAGED:
        apart = math.nan
    if apart <= SAME_PLACE:
        return ()
    if math.isfinite(apart):
        what = "sform and qform put voxels in different places; the sform is used"
        return (Note(what, f"{path} ({apart:.3g} voxels apart)"),)
    return (Note("the qform is not a position; the sform is used", str(path)),)


def _native(header: Header, dtype: np.dtype, channels: int) -> Any:
    """The NIfTI header of an output, in which the input's units and codes are kept."""
    # What nibabel wants for a header is an image; its voxels are never looked at.
    shape = header.grid.shape if channels == 1 else (*header.grid.shape, channels)
    voxels = np.broadcast_to(np.uint8(0), shape)
    given = header.native if isinstance(header.native, nib.nifti1.Nifti1Header) else None
    wide = isinstance(given, nib.nifti2.Nifti2Header) or max(shape) > LONGEST_AXIS
    kind = nib.nifti2.Nifti2Image if wide else nib.nifti1.Nifti1Image
    # nibabel keeps sform and qform with their codes as long as the affine is the header's.
    image = kind(voxels, header.grid.affine, given)
    if given is None:
        image.header.set_xyzt_units("mm")
    native = image.header
    native.set_data_dtype(dtype)
    native.set_data_offset(0)
    native.set_slope_inter(1, 0)
    native["cal_min"] = native["cal_max"] = 0
    image.update_header()
    return native


def _head(native: Any) -> bytes:
    """All that stands in front of the voxels."""
    stream = io.BytesIO()
    native.write_to(stream)
    return stream.getvalue().ljust(native.get_data_offset(), b"\0")


class _Head:
    """A file as far as what stands in front of the voxels may reach.

    nibabel believes the lengths that a header states, and unpacks so much into RAM.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._left = LONGEST_HEAD

    def read(self, count: int) -> bytes:
        if not 0 <= count <= self._left:
            raise ValueError(f"{count} bytes are to be read in front of the voxels")
        self._left -= count
        found: bytes = self._stream.read(count)
        return found

    def tell(self) -> int:
        place: int = self._stream.tell()
        return place


def _require_moderate_head(path: Path) -> None:
    with (gzip.open if _is_packed(path) else open)(path, "rb") as stream:
        head = stream.read(nib.Nifti2Header.sizeof_hdr)
        for kind in (nib.Nifti2Header, nib.Nifti1Header):
            if kind.may_contain_header(head):
                stream.seek(0)
                kind.from_fileobj(_Head(stream), check=False)
                return


def _is_packed(path: Path) -> bool:
    return path.suffix.lower() == ".gz"


def _damaged(path: Path, error: BaseException) -> UserError:
    return UserError(
        f"{path} is damaged or not a NIfTI file",
        given=f"{type(error).__name__}: {error}",
        fix="copy or convert it again",
    )
