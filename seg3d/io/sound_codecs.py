"""Codecs for Zarr that refuse chunks that are cut short, or would be unpacked to too much.

The decompressors of numcodecs believe the length that a chunk says it has: they make room for it,
which may be thousands of times what the array has use for, and Blosc's reads beyond the end of a
chunk that is shorter.
"""

from __future__ import annotations

import asyncio
import bz2
import lzma
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import numcodecs.registry
import zarr.registry
from numcodecs.blosc import Blosc
from numcodecs.bz2 import BZ2
from numcodecs.compat import ndarray_copy
from numcodecs.gzip import GZip
from numcodecs.lz4 import LZ4
from numcodecs.lzma import LZMA
from numcodecs.zlib import Zlib
from numcodecs.zstd import Zstd
from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec

from seg3d.common.sizes import readable

# What filters may make of a voxel, and what compressors and checksums put around a chunk.
VOXEL_BYTES, ROOM = 8, 2**16
# What a block of Zstandard may hold.
ZSTD_BLOCK = 2**17
# Bytes that LZMA may take for its dictionary; its highest level takes 65 MiB.
LZMA_MEMORY = 2**28
# Those that give numbers, and no more bytes than there are voxels for. Others, such as that which
# unpickles, are refused.
KNOWN = {
    "blosc", "bz2", "gzip", "lz4", "lzma", "zlib", "zstd",
    "astype", "bitround", "bytes", "delta", "fixedscaleoffset", "packbits", "quantize", "shuffle",
    "sharding_indexed", "transpose",
    "adler32", "crc32", "crc32c", "fletcher32", "jenkins_lookup3",
}  # fmt: skip

# Bytes that a chunk may be unpacked to. What zarr reads for others is none of seg3d's business.
_most: ContextVar[int] = ContextVar("most", default=sys.maxsize)


@contextmanager
def chunks_of(voxels: int) -> Iterator[None]:
    """Have chunks of so many voxels, and none that are larger, unpacked while the block runs."""
    token = _most.set(voxels * VOXEL_BYTES + ROOM)
    try:
        yield
    finally:
        _most.reset(token)


def register() -> None:
    """Have zarr-python take these from now on."""
    for codec in (SoundBlosc, SoundBZ2, SoundGZip, SoundLZ4, SoundLZMA, SoundZlib, SoundZstd):
        numcodecs.registry.register_codec(codec)
    for name, kind in (("blosc", Blosc3), ("gzip", GZip3), ("zstd", Zstd3)):
        zarr.registry.register_codec(name, kind)
        zarr.config.set({f"codecs.{name}": f"{kind.__module__}.{kind.__qualname__}"})


class SoundBlosc(Blosc):
    codec_id = "blosc"

    def decode(self, buf: Any, out: Any = None) -> Any:
        # Of Blosc 1: 16 bytes, of which 4 to 7 are the length unpacked, 12 to 15 that of the whole.
        head = bytes(memoryview(buf)[:16])
        if len(head) < 16 or int.from_bytes(head[12:16], "little") > memoryview(buf).nbytes:
            raise ValueError(f"a chunk is cut short: {memoryview(buf).nbytes} bytes")
        _require_moderate(int.from_bytes(head[4:8], "little"))
        return super().decode(buf, out)


class SoundLZ4(LZ4):
    codec_id = "lz4"

    def decode(self, buf: Any, out: Any = None) -> Any:
        _require_moderate(int.from_bytes(bytes(memoryview(buf)[:4]), "little"))
        return super().decode(buf, out)


class SoundZstd(Zstd):
    codec_id = "zstd"

    def decode(self, buf: Any, out: Any = None) -> Any:
        _require_moderate(_zstd_length(memoryview(buf).cast("B")))
        return super().decode(buf, out)


class SoundGZip(GZip):
    codec_id = "gzip"

    def decode(self, buf: Any, out: Any = None) -> Any:
        return ndarray_copy(_unpacked(buf, partial(zlib.decompressobj, 16 + zlib.MAX_WBITS)), out)


class SoundZlib(Zlib):
    codec_id = "zlib"

    def decode(self, buf: Any, out: Any = None) -> Any:
        return ndarray_copy(_unpacked(buf, zlib.decompressobj), out)


class SoundBZ2(BZ2):
    codec_id = "bz2"

    def decode(self, buf: Any, out: Any = None) -> Any:
        return ndarray_copy(_unpacked(buf, bz2.BZ2Decompressor), out)


class SoundLZMA(LZMA):
    codec_id = "lzma"

    def decode(self, buf: Any, out: Any = None) -> Any:
        limit = None if self.format == lzma.FORMAT_RAW else LZMA_MEMORY
        one = partial(lzma.LZMADecompressor, self.format, limit, self.filters)
        return ndarray_copy(_unpacked(buf, one), out)


class _Sound3:
    """What makes a codec of Zarr 3 unpack by one of the above."""

    sound: Any

    def _decode_sync(self, chunk_bytes: Any, chunk_spec: Any) -> Any:
        unpacked = self.sound.decode(chunk_bytes.as_numpy_array())
        return chunk_spec.prototype.buffer.from_bytes(unpacked)

    async def _decode_single(self, chunk_bytes: Any, chunk_spec: Any) -> Any:
        return await asyncio.to_thread(self._decode_sync, chunk_bytes, chunk_spec)


class Blosc3(_Sound3, BloscCodec):
    sound = SoundBlosc()


class GZip3(_Sound3, GzipCodec):
    sound = SoundGZip()


class Zstd3(_Sound3, ZstdCodec):
    sound = SoundZstd()


def _require_moderate(size: int) -> None:
    if size > _most.get():
        raise ValueError(
            f"a chunk would be unpacked to more than the {readable(_most.get())} that its array "
            "has use for"
        )


def _unpacked(buf: Any, decompressor: Callable[[], Any]) -> bytes:
    """What members of a stream, one behind the other, are unpacked to."""
    packed, parts, size = bytes(buf), [], 0
    while packed:
        one = decompressor()
        parts.append(one.decompress(packed, _most.get() - size + 1))
        size += len(parts[-1])
        _require_moderate(size)
        if not one.eof:
            raise EOFError("a chunk is cut short")
        # Some pad to whole blocks of the disk.
        packed = one.unused_data.lstrip(b"\0")
    return b"".join(parts)


def _zstd_length(frame: memoryview) -> int:
    """The length that a frame of Zstandard states, or the most that its blocks can stand for.

    By RFC 8878. Most writers state it; those that do not know it beforehand leave it out.
    """
    described = frame[4]
    single = described >> 5 & 1
    # Behind the magic number and this byte: the window, a dictionary's number, the length.
    place = 5 + (not single) + (0, 1, 2, 4)[described & 3]
    width = (single, 2, 4, 8)[described >> 6]
    if width:
        return int.from_bytes(frame[place : place + width], "little") + 256 * (width == 2)
    size = 0
    while True:
        block = int.from_bytes(frame[place : place + 3], "little")
        kind, length = block >> 1 & 3, block >> 3
        size += ZSTD_BLOCK if kind == 2 else length
        place += 3 + (1 if kind == 1 else length)
        if block & 1 or place >= len(frame):
            return size
