"""Blosc for Zarr that refuses chunks that are cut short.

The decompressor of numcodecs believes the length that a chunk says it has and reads beyond the end
of one that is shorter: it may give wrong voxels, or end the process.
"""

from __future__ import annotations

from typing import Any

import numcodecs.registry
import zarr.registry
from numcodecs.blosc import Blosc
from zarr.codecs import BloscCodec

# Of Blosc 1: bytes 12 to 15 of the header of 16 are the length of the whole, little-endian.
HEADER_BYTES, LENGTH = 16, slice(12, 16)


class WholeBlosc(Blosc):
    """For Zarr 2."""

    codec_id = "blosc"

    def decode(self, buf: Any, out: Any = None) -> Any:
        _require_whole(bytes(memoryview(buf)[:HEADER_BYTES]), memoryview(buf).nbytes)
        return super().decode(buf, out)


class WholeBloscCodec(BloscCodec):
    """For Zarr 3."""

    async def _decode_single(self, chunk_bytes: Any, chunk_spec: Any) -> Any:
        head = chunk_bytes.as_numpy_array()[:HEADER_BYTES].tobytes()
        _require_whole(head, len(chunk_bytes))
        return await super()._decode_single(chunk_bytes, chunk_spec)


def register() -> None:
    """Have zarr-python take these from now on."""
    numcodecs.registry.register_codec(WholeBlosc)
    name = f"{WholeBloscCodec.__module__}.{WholeBloscCodec.__qualname__}"
    zarr.registry.register_codec("blosc", WholeBloscCodec)
    zarr.config.set({"codecs.blosc": name})


def _require_whole(head: bytes, size: int) -> None:
    if len(head) < HEADER_BYTES or int.from_bytes(head[LENGTH], "little") > size:
        raise ValueError(f"a chunk is cut short: {size} bytes")
