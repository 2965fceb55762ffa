"""SEG-Y files written by segyio, which shares no code with seg3d."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from seg3d.io import Header, segy

segyio = pytest.importorskip("segyio")

# What segyio takes for each sample format.
DTYPES = {1: "f4", 2: "i4", 3: "i2", 5: "f4", 6: "f8", 8: "i1", 10: "u4", 11: "u2", 16: "u1"}
# Written into bytes of the trace headers that no reader looks at, so that copies show.
UNUSED = (slice(118, 180), slice(196, 214), slice(216, 240))


@dataclass(frozen=True)
class Spec:
    """A survey to be written.

    Attributes:
        shape: inlines, crosslines, samples.
        first: lowest inline and crossline number.
        step: between inline and crossline numbers.
        sorting: inline, crossline, or random.
        missing: share of the places without a trace.
        code: sample format.
        endian: big or little.
        texts: extended text headers.
        lines: byte positions of inline and crossline.
        coordinates: byte positions of easting and northing; None for none.
        world: origin, step to the next inline, step to the next crossline; `(2,)` each.
        scalar: of the coordinates.
        interval: µs, in binary and trace headers.
        delay: ms.
        header: further words of every trace header.
        binary: further words of the binary header.
    """

    shape: tuple[int, int, int] = (5, 6, 7)
    first: tuple[int, int] = (100, 300)
    step: tuple[int, int] = (1, 1)
    sorting: str = "inline"
    missing: float = 0.0
    code: int = 5
    endian: str = "big"
    texts: int = 0
    lines: tuple[int, int] = (189, 193)
    coordinates: tuple[int, int] | None = (181, 185)
    world: tuple[tuple[float, float], ...] = ((6e5, 6.07e6), (24, 7), (-7, 24))
    scalar: int = -10
    interval: int = 4000
    delay: int = 0
    header: dict[int, int] = field(default_factory=dict)
    binary: dict[int, int] = field(default_factory=dict)
    seed: int = 0

    def but(self, **changes: object) -> Spec:
        return replace(self, **changes)


@dataclass(frozen=True, eq=False)
class Written:
    """What was written.

    Attributes:
        path: where.
        cube: `(X, Y, Z)` as segyio was given it, zeros where there is no trace.
        mask: `(X, Y)`, where there is a trace.
        places: inline and crossline index of each trace, `(n, 2)`.
    """

    path: Path
    cube: np.ndarray
    mask: np.ndarray
    places: np.ndarray

    @property
    def start(self) -> int:
        return self.path.stat().st_size - len(self.places) * self.trace_bytes

    @property
    def trace_bytes(self) -> int:
        return 240 + self.cube.shape[2] * self.cube.itemsize


def write(path: Path, spec: Spec = Spec()) -> Written:
    rng = np.random.default_rng(spec.seed)
    mask, places = layout(spec, rng)
    cube = samples(spec, rng)
    cube[~mask] = 0
    file = segyio.spec()
    file.format, file.endian = spec.code, spec.endian
    file.samples = np.arange(spec.shape[2])
    file.tracecount, file.ext_headers = len(places), spec.texts
    path.parent.mkdir(parents=True, exist_ok=True)
    with segyio.create(str(path), file) as out:
        out.text[0] = segyio.tools.create_text_header({1: "A SURVEY", 2: f"SEED {spec.seed}"})
        for number in range(spec.texts):
            out.text[1 + number] = segyio.tools.create_text_header({1: f"MORE {number}"})
        out.bin.update({
            segyio.BinField.Interval: spec.interval,
            segyio.BinField.Samples: spec.shape[2],
            segyio.BinField.JobID: 77,
            **spec.binary,
        })  # fmt: skip
        origin, *steps = np.array(spec.world)
        for number, (i, j) in enumerate(places.tolist()):
            words = {1: number % 3 + 1, 115: spec.shape[2], 117: spec.interval, 109: spec.delay}
            if spec.coordinates:
                world = (origin + i * steps[0] + j * steps[1]) * stored_scale(spec.scalar)
                words |= dict(zip(spec.coordinates, np.rint(world).astype(int), strict=True))
                words |= {71: spec.scalar, 89: 1}
            words |= spec.header
            words |= {
                spec.lines[0]: spec.first[0] + i * spec.step[0],
                spec.lines[1]: spec.first[1] + j * spec.step[1],
            }
            out.header[number] = words
            out.trace[number] = cube[i, j]
    written = Written(path, cube, mask, places)
    scribble(written, rng)
    return written


def stored_scale(scalar: int) -> float:
    return -scalar if scalar < 0 else 1 / max(scalar, 1)


def layout(spec: Spec, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Which places have a trace, some on every line, and the order of the traces."""
    mask = rng.random(spec.shape[:2]) >= spec.missing
    mask[0] = mask[:, 0] = True
    places = np.argwhere(mask)
    if spec.sorting == "crossline":
        places = places[np.lexsort(places.T)]
    if spec.sorting == "random":
        places = rng.permutation(places)
    return mask, places


def samples(spec: Spec, rng: np.random.Generator) -> np.ndarray:
    dtype = np.dtype(DTYPES[spec.code])
    if dtype.kind == "f":
        # Multiples of 2^-10 below 2^10: IBM floats hold them exactly.
        return (rng.integers(-(2**20), 2**20, spec.shape) / 2**10).astype(dtype)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, spec.shape, dtype=dtype, endpoint=True)


def scribble(written: Written, rng: np.random.Generator) -> None:
    """Fill what is unused in every trace header with random bytes."""
    content = bytearray(written.path.read_bytes())
    for number in range(len(written.places)):
        at = written.start + number * written.trace_bytes
        for part in UNUSED:
            content[at + part.start : at + part.stop] = rng.bytes(part.stop - part.start)
    written.path.write_bytes(content)


def read_header(path: Path, *options: object, **more: object) -> Header:
    return segy.open_volume(path, *options, **more).header


def patch(path: Path, position: int, kind: str, *values: float) -> Path:
    """Overwrite words from a byte position on, which counts from 1; kind as in `struct`."""
    content = bytearray(path.read_bytes())
    struct.pack_into(kind, content, position - 1, *values)
    path.write_bytes(content)
    return path


def trace_word(written: Written, trace: int, position: int) -> int:
    """Byte position in the file of a word of a trace's header; traces count from 0."""
    return written.start + trace * written.trace_bytes + position
