"""Zarr arrays and OME-Zarr images, folders that end in ``.zarr``, through zarr-python.

Read are Zarr formats 2 and 3: an OME-Zarr image (its level 0, or the level whose path is given, as
in ``scan.ome.zarr/2``), or a lone array. A lone array holds `(X, Y, Z)` or `(X, Y, Z, C)` voxels
of 1 mm, unless its dimensions are named x, y, z and c. Written is OME-Zarr 0.5, one level of
compressed chunks; a chunk that is not written in one go is read and compressed again, so regions
should begin and end at multiples of `CHUNK`.
"""

from __future__ import annotations

import asyncio
import lzma
import math
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from seg3d.common.errors import UserError
from seg3d.common.files import UnfinishedFolder, full_disk_explained, stays_inside
from seg3d.common.sizes import readable
from seg3d.geometry import Shape3
from seg3d.io.header import Header, as_voxels, checked_header, voxel_dtype
from seg3d.io.ome_metadata import SPACE, attributes_of, multiscale_of
from seg3d.io.regions import Region, VolumeReader, VolumeWriter

# Voxels along each edge: 64³ is read often enough in one piece, and a patch cuts few of them.
CHUNK = 64
# Bytes of a chunk, which is read and unpacked whole.
LARGEST_CHUNK = 2**30
DAMAGED = (
    ArithmeticError, AttributeError, EOFError, KeyError, OSError, RuntimeError, SystemError,
    TypeError, ValueError, lzma.LZMAError, zlib.error,
)  # fmt: skip
METADATA = ("zarr.json", ".zarray", ".zgroup")


def open_volume(path: Path) -> VolumeReader:
    return _Reader(path)


def create_volume(path: Path, header: Header, dtype: np.dtype, channels: int) -> VolumeWriter:
    return _Writer(path, header, dtype, channels)


def ram_of(path: Path, shape: Shape3, voxel_bytes: int) -> int:
    return 0


class _Image(NamedTuple):
    """An array and what is known about its axes.

    Attributes:
        array: of zarr.
        axes: x, y, z, c, or another name, in the order of the array.
        affine: `(4, 4)`, index along x, y and z to RAS+ mm.
    """

    array: Any
    axes: list[str]
    affine: np.ndarray


class _Reader(VolumeReader):
    def __init__(self, path: Path) -> None:
        self.path = path
        array, axes, affine = _find_image(path)
        lengths = dict(zip(axes, array.shape, strict=False))
        more = [axis for axis in axes if axis not in ("c", *SPACE) and lengths[axis] != 1]
        if not lengths.keys() >= set(SPACE) or len(lengths) != array.ndim or more:
            raise UserError(
                f"{path} is not a 3D volume",
                given=f"axes {', '.join(axes)} of {array.shape} voxels",
                legal="x, y and z, perhaps c, and others of length 1",
            )
        shape = tuple(lengths.get(axis, 1) for axis in (*SPACE, "c"))
        self.header = checked_header(path, shape, affine)
        self.dtype = voxel_dtype(path, array.dtype)
        self.slow_axis = SPACE.index(next(axis for axis in axes if axis in SPACE))
        chunk = dict(zip(axes, array.chunks, strict=False))
        self.chunk = chunk["x"], chunk["y"], chunk["z"]
        self._array = array
        self._axes = axes

    def read(self, region: Region) -> np.ndarray:
        where: dict[str, slice | int] = dict(zip(SPACE, region, strict=True))
        where["c"] = slice(None)
        from seg3d.io.sound_codecs import chunks_of

        try:
            with chunks_of(math.prod(self._array.chunks)):
                stored = self._array[tuple(where.get(axis, 0) for axis in self._axes)]
        except DAMAGED as error:
            raise _damaged(self.path, error) from error
        kept = [axis for axis in self._axes if axis in where]
        voxels = stored.transpose([kept.index(axis) for axis in ("c", *SPACE) if axis in kept])
        voxels = as_voxels(self.path, voxels, self.dtype)
        return voxels.reshape(self.header.channels, *voxels.shape[-3:])

    def close(self) -> None:
        pass


class _Writer(VolumeWriter):
    def __init__(self, path: Path, header: Header, dtype: np.dtype, channels: int) -> None:
        import zarr
        from zarr.codecs import BloscCodec

        axes = "zyx" if channels == 1 else "czyx"
        shape = (channels, *header.grid.shape[::-1])[-len(axes) :]
        self._folder = UnfinishedFolder(path)
        try:
            with full_disk_explained(path):
                group = zarr.create_group(
                    self._folder.temporary, attributes=attributes_of(path.name, header.grid, axes)
                )
                self._array = group.create_array(
                    "0",
                    shape=shape,
                    dtype=dtype,
                    chunks=tuple(
                        1 if axis == "c" else min(length, CHUNK)
                        for axis, length in zip(axes, shape, strict=True)
                    ),
                    compressors=BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle"),
                    dimension_names=tuple(axes),
                )
        except BaseException:
            self.discard()
            raise

    def write(self, region: Region, array: np.ndarray) -> None:
        stored = array.transpose(0, 3, 2, 1)
        with full_disk_explained(self._folder.path):
            self._array[(..., *region[::-1])] = stored if self._array.ndim == 4 else stored[0]

    def finish(self) -> None:
        self._folder.finish()

    def discard(self) -> None:
        _await_chunks()
        self._folder.discard()


def _await_chunks() -> None:
    """Wait until zarr has nothing under way.

    When a chunk cannot be written, it goes on with the others behind the exception, and makes
    anew what folders are removed meanwhile.
    """
    from zarr.core.sync import sync

    async def others() -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*tasks, return_exceptions=True)

    sync(others())


def _find_image(path: Path) -> _Image:
    """The array that a path leads to, and what the groups around it say about its axes."""
    node, attributes = _open(path)
    if _is_array(node):
        return _array_in_its_group(path, node)
    image = multiscale_of(path, attributes)
    if image is None:
        raise UserError(
            f"{path} is a group of Zarr that describes no image",
            given=f"it holds {', '.join(sorted(node.keys())) or 'nothing'}",
            legal="an OME-Zarr image, or a lone array",
            fix=f"give the path of what is meant, such as {path}/0",
        )
    level = image.datasets[0]
    if not stays_inside(level.path):
        raise UserError(
            f"{path}: its multiscales metadata is wrong",
            given=f"level {level.path!r}, which does not lie in the image",
            legal="the path of an array in the image",
        )
    array, _ = _open(path / level.path)
    if not _is_array(array):
        raise UserError(
            f"{path}: its multiscales metadata is wrong",
            given=f"level {level.path!r}, which is a group",
            legal="the path of an array",
        )
    return _Image(array, [axis.key for axis in image.axes], image.affine(level))


def _array_in_its_group(path: Path, array: Any) -> _Image:
    """A level of the image that a group above it describes, or a lone array."""
    for group in path.absolute().parents:
        if not is_node(group):
            break
        if (image := multiscale_of(group, _open(group)[1])) is None:
            continue
        below = path.absolute().relative_to(group).as_posix()
        for level in image.datasets:
            if level.path == below:
                return _Image(array, [axis.key for axis in image.axes], image.affine(level))
    names = getattr(array.metadata, "dimension_names", None)
    axes = [name.lower() for name in names] if names and all(names) else [*SPACE, "c"]
    return _Image(array, axes[: array.ndim], np.eye(4))


def is_node(folder: Path) -> bool:
    """Whether a folder is a group or an array of zarr."""
    return any((folder / name).is_file() for name in METADATA)


def _is_array(node: Any) -> bool:
    return hasattr(node, "shape")


def _open(path: Path) -> tuple[Any, dict[str, Any]]:
    """A group or array of zarr, and its attributes.

    Raises:
        UserError: if it is none, or if reading it would unpickle what it holds.
    """
    import zarr

    from seg3d.io.sound_codecs import KNOWN, register

    register()
    try:
        node: Any = zarr.open(path, mode="r")
        attributes = node.attrs.asdict()
        chunk = node.chunks if _is_array(node) else ()
    except DAMAGED as error:
        raise _damaged(path, error) from error
    if _is_array(node):
        # A pickle runs whatever its author wished, and zarr has a codec for it.
        if unknown := sorted(_codecs(node.metadata.to_dict()) - KNOWN):
            raise UserError(
                f"{path} is packed in a way that is not safe to read, or not known",
                given=", ".join(unknown),
                legal=", ".join(sorted(KNOWN)),
            )
        size = math.prod(chunk) * node.dtype.itemsize
        if size > LARGEST_CHUNK:
            raise UserError(
                f"{path} has chunks that are too large to be read",
                given=f"{readable(size)} each, {chunk} voxels",
                legal=f"up to {readable(LARGEST_CHUNK)}",
                fix="write it again in smaller chunks, such as 64 x 64 x 64",
            )
    return node, attributes


def _codecs(metadata: dict[str, Any]) -> set[str]:
    """The names of all codecs of an array, those within others included."""
    left = [metadata.get(key) for key in ("codecs", "filters", "compressor")]
    found = set()
    while left:
        one = left.pop()
        if isinstance(one, (list, tuple)):
            left += one
        elif isinstance(one, dict):
            found.add(str(one.get("name", one.get("id"))).removeprefix("numcodecs."))
            inside = one.get("configuration")
            left += inside.values() if isinstance(inside, dict) else []
    return found


def _damaged(path: Path, error: BaseException) -> UserError:
    return UserError(
        f"{path} is damaged or not in Zarr's format",
        given=f"{type(error).__name__}: {error}",
        fix="copy or convert it again",
    )
