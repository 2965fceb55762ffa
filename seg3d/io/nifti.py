"""NIfTI and Analyze: headers through nibabel, voxels through memory maps.

``.nii`` is mapped, and so is the ``.img`` of a pair. ``.nii.gz`` can only be read from its
beginning: it is unpacked at the first `read`, in RAM up to 64 MiB, above that in an unnamed file in
the folder for temporary files (``TMPDIR``). It is packed when it is finished; until then the voxels
are in RAM, or above 64 MiB in an unnamed file in the output's folder. What is read is packed if its
first bytes say so, whatever its name says.
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
from nibabel.fileholders import FileHolder
from nibabel.filename_parser import types_filenames
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
from seg3d.io.header import Header, checked_header, no_geometry, voxel_dtype
from seg3d.io.packed import require_enough
from seg3d.io.regions import VolumeReader, VolumeWriter

# Of NIfTI-1; longer ones take NIfTI-2.
LONGEST_AXIS = np.iinfo(np.int16).max
LONGEST_HEADER = 540
SINGLE_FILES = (nib.nifti1.Nifti1Image, nib.nifti2.Nifti2Image)
# Analyze is what remains, and SPM's form of it is that with a scale.
PAIRS = (nib.nifti1.Nifti1Pair, nib.nifti2.Nifti2Pair, nib.spm2analyze.Spm2AnalyzeImage)
ENDINGS_OF_PAIRS = (".img", ".hdr")
# Codes of a header's unit of length, and what it is in mm; nearly all files say mm or nothing.
METRE, MICROMETRE = 1, 3
MILLIMETRES = {METRE: 1e3, MICROMETRE: 1e-3}
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
        image = _load_pair(path) if path.suffix.lower() in ENDINGS_OF_PAIRS else _load(path)
    except DAMAGED as error:
        raise _damaged(path, error) from error
    return (_PackedReader if _is_packed(path) else _Reader)(path, image)


def _load_pair(path: Path) -> Any:
    """The image of header and voxels in two files."""
    names = types_filenames(path, nib.nifti1.Nifti1Pair.files_types)
    for half in map(Path, names.values()):
        if not half.is_file():
            raise UserError(
                f"{path} is half of a volume",
                given=f"there is no {half.name} beside it",
                legal="header and voxels in NAME.hdr and NAME.img",
            )
    files = {part: FileHolder(name) for part, name in names.items()}
    # SPM's positions in Matlab's format are not looked for.
    files["mat"] = FileHolder(fileobj=io.BytesIO())
    with Path(names["header"]).open("rb") as stream:
        kind = _kind(path, stream.read(LONGEST_HEADER), PAIRS)
        stream.seek(0)
        kind.header_class.from_fileobj(_Head(stream), check=False)
    return kind.from_file_map(files)


def _load(path: Path) -> Any:
    """The image of a single file, packed or not, whose voxels are left alone."""
    with gzip.open(path) if _is_packed(path) else path.open("rb") as stream:
        kind = _kind(path, stream.read(LONGEST_HEADER), SINGLE_FILES)
        stream.seek(0)
        kind.header_class.from_fileobj(_Head(stream), check=False)
        stream.seek(0)
        return kind.from_file_map({"image": FileHolder(str(path), stream)})


def _kind(path: Path, start: bytes, kinds: tuple[Any, ...]) -> Any:
    """Which of nibabel's kinds of images begins like this.

    Raises:
        UserError: if the header needs spacings and has none; nibabel would take 1 for 0.
    """
    for kind in kinds:
        if kind.header_class.may_contain_header(start):
            native = kind.header_class(start[: kind.header_class.sizeof_hdr], check=False)
            positioned = "sform_code" in native and native["sform_code"] > 0
            spacings = native["pixdim"][1:4]
            if not positioned and not spacings.all():
                raise no_geometry(path, f"spacings {spacings.tolist()}")
            return kind
    raise ImageFileError("no header of NIfTI")


def create_volume(path: Path, header: Header, dtype: np.dtype, channels: int) -> VolumeWriter:
    native = _native(header, dtype, channels)
    layout = native.get_data_dtype(), native.get_data_shape()
    if path.suffix.lower() == ".gz":
        return _PackedWriter(path, _head(native), *layout)
    return MappedWriter(path, _head(native), *layout, order="F")


def ram_of(path: Path, shape: Shape3, voxel_bytes: int) -> int:
    packed = path.suffix.lower() == ".gz" or (path.is_file() and _is_packed(path))
    return ram_of_scratch(math.prod(shape) * voxel_bytes) if packed else 0


class _Reader(ArrayReader):
    """An uncompressed file; integers stay what they are unless the header scales them."""

    slow_axis = 2

    def __init__(self, path: Path, image: Any) -> None:
        self.path = path
        affine = _scaled(image.affine, _millimetres(image.header))
        header = checked_header(path, image.shape, affine, image.header)
        self.header = replace(header, notes=_notes(path, header))
        self._stored = image.dataobj
        self._voxels_in = Path(image.file_map["image"].filename)
        self._scaled = (self._stored.slope, self._stored.inter) != (1, 0)
        self.dtype = voxel_dtype(path, self._stored.dtype)
        if self._scaled:
            self.dtype = np.dtype(np.float32)
        if not _is_packed(path):
            self._array()

    def _array(self) -> np.ndarray:
        stored = self._stored
        try:
            return np.memmap(self._voxels_in, stored.dtype, "r", stored.offset, stored.shape, "F")
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
    """What is odd about the position that a header gives."""
    native = header.native
    if not isinstance(native, nib.nifti1.Nifti1Header):
        return _notes_on_analyze(path)
    notes = []
    if (factor := _millimetres(native)) != 1:
        unit = "metres" if factor > 1 else "micrometres"
        notes.append(Note(f"the header gives lengths in {unit}, not in mm", str(path)))
    return (*notes, *_notes_on_forms(path, header))


def _notes_on_analyze(path: Path) -> tuple[Note, ...]:
    side = "Analyze does not say which side is left; columns are taken to run from right to left"
    notes = [Note(side, str(path))]
    if path.with_suffix(".mat").exists():
        notes.append(Note("the position that SPM wrote beside it is not read", f"{path.stem}.mat"))
    return tuple(notes)


def _notes_on_forms(path: Path, header: Header) -> tuple[Note, ...]:
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
    affine = header.grid.affine
    if given is not None:
        affine = _scaled(affine, 1 / _millimetres(given))
    image = kind(voxels, affine, given)
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


def _is_packed(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _millimetres(native: Any) -> float:
    """How long a header's unit of length is; Analyze has mm only."""
    if not isinstance(native, nib.nifti1.Nifti1Header):
        return 1.0
    return MILLIMETRES.get(int(native["xyzt_units"]) % 8, 1.0)


def _scaled(affine: np.ndarray, factor: float) -> np.ndarray:
    scaled: np.ndarray = affine * np.array([[factor], [factor], [factor], [1.0]])
    return scaled


def _damaged(path: Path, error: BaseException) -> UserError:
    return UserError(
        f"{path} is damaged or not a NIfTI file",
        given=f"{type(error).__name__}: {error}",
        fix="copy or convert it again",
    )
