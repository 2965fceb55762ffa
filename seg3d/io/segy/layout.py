"""How the bytes of a SEG-Y file lie: byte order, revision, sample format, length of the traces.

SEG-Y revisions 0 (1975), 1 (2002), 2.0 (2017) and 2.1, by the standards of the Society of
Exploration Geophysicists. Byte positions count from 1, as there.

Files are read with numpy and plain reads of whole traces. segyio, the well-kept library, maps only
files without a missing trace to a cube, finds no byte positions, and is under the LGPL; the tests
use it as an independent reader and writer. Nothing is memory-mapped: an error of a disk or network
would then end the process without a message, and pages that were touched count as its memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedRandom, BufferedReader
from itertools import pairwise
from pathlib import Path

import numpy as np

from seg3d.common.errors import UserError
from seg3d.io.segy.samples import FORMATS

TEXT_BYTES, BINARY_BYTES, TRACE_HEADER_BYTES = 3200, 400, 240
# Enough for the disk to run at full speed, little beside a volume.
BLOCK_BYTES = 2**23

BIG_ENDIAN, LITTLE_ENDIAN = ">", "<"

# Position and numpy kind of a word of the trace header.
Word = tuple[int, str]


@dataclass(frozen=True)
class Layout:
    """Where everything is in a file of traces of equal length.

    Attributes:
        path: the file.
        order: byte order, ``>`` (big-endian, what the standard had until revision 2) or ``<``.
        revision: major and minor number.
        code: of the sample format, a key of `FORMATS`.
        samples: of a trace.
        interval: between samples, in µs; 0 if the binary header does not say.
        feet: whether lengths are in feet instead of metres.
        fixed_length: whether the file vouches for it that its traces have equal lengths.
        start: bytes in front of the first trace.
        header_bytes: in front of the samples of each trace: 240, or more with header extensions.
        traces: how many.
        state: size in bytes and time of the last change, to notice changes.
        notes: what is odd about the file, in words.
    """

    path: Path
    order: str
    revision: tuple[int, int]
    code: int
    samples: int
    interval: float
    feet: bool
    fixed_length: bool
    start: int
    header_bytes: int
    traces: int
    state: tuple[int, int]
    notes: tuple[str, ...]

    @property
    def trace_bytes(self) -> int:
        """Length of a trace with its header."""
        return self.header_bytes + self.samples * np.dtype(FORMATS[self.code].stored).itemsize

    @property
    def stop(self) -> int:
        """Where the last trace ends."""
        return self.start + self.traces * self.trace_bytes

    @property
    def block(self) -> int:
        """Traces that are read or written at a time."""
        return max(1, BLOCK_BYTES // self.trace_bytes)

    def trace_dtype(self, words: dict[str, Word] | None = None) -> np.dtype:
        """A trace as numpy sees it: ``header``, ``samples``, and these words of the header."""
        fields = {
            "header": (f"V{self.header_bytes}", 0),
            "samples": ((self.order + FORMATS[self.code].stored, (self.samples,)),
                        self.header_bytes),
        } | {
            name: (self.order + kind, position - 1)
            for name, (position, kind) in (words or {}).items()
        }  # fmt: skip
        return np.dtype({
            "names": list(fields),
            "formats": [kind for kind, _ in fields.values()],
            "offsets": [offset for _, offset in fields.values()],
            "itemsize": self.trace_bytes,
        })  # fmt: skip

    @contextmanager
    def open(self) -> Iterator[BufferedReader]:
        """The file, open for reading.

        Raises:
            UserError: if it cannot be read, here or in the block, or is not what it was.
        """
        try:
            with self.path.open("rb") as stream:
                if state_of(self.path) != self.state:
                    raise UserError(f"{self.path} was changed while it was in use")
                yield stream
        except OSError as error:
            raise unreadable(self.path, error) from error

    def read(
        self,
        stream: BufferedReader | BufferedRandom,
        first: int,
        stop: int,
        dtype: np.dtype | None = None,
    ) -> np.ndarray:
        """Traces ``first`` to ``stop``, `(stop - first,)` of a `trace_dtype`."""
        content = np.empty((stop - first) * self.trace_bytes, np.uint8)
        stream.seek(self.start + first * self.trace_bytes)
        if stream.readinto(content.data) != content.nbytes:
            raise UserError(f"{self.path} ends within traces {first + 1} to {stop}")
        return content.view(self.trace_dtype() if dtype is None else dtype)

    def write(self, stream: BufferedRandom, first: int, traces: np.ndarray) -> None:
        """Put traces, whole with their headers, from number ``first`` on."""
        stream.seek(self.start + first * self.trace_bytes)
        stream.write(traces.view(np.uint8).data)

    def words(self, words: dict[str, Word]) -> dict[str, np.ndarray]:
        """These words of every trace header, each `(traces,)`, in one pass over the file."""
        dtype = self.trace_dtype(words)
        columns = {name: np.empty(self.traces, kind) for name, (_, kind) in words.items()}
        with self.open() as stream:
            for first in range(0, self.traces, self.block):
                stop = min(first + self.block, self.traces)
                traces = self.read(stream, first, stop, dtype)
                for name, column in columns.items():
                    column[first:stop] = traces[name]
        return columns

    def text(self) -> str:
        """The text header, 40 lines of 80 characters in EBCDIC or ASCII."""
        with self.open() as stream:
            return decode_text(stream.read(TEXT_BYTES))


def in_file_order(index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Trace numbers of a region as they follow each other in the file, and where they belong.

    Args:
        index: trace numbers, `(x, y)`, -1 where there is none.

    Returns:
        The numbers that there are, `(n,)`, and their places in the raveled index, `(n,)`.
    """
    places = np.flatnonzero(index >= 0)
    places = places[np.argsort(index.ravel()[places])]
    return index.ravel()[places], places


def runs(numbers: np.ndarray, longest: int) -> Iterator[slice]:
    """Cut growing trace numbers into runs of neighbours, none longer than ``longest``."""
    cuts = np.flatnonzero(np.diff(numbers) != 1) + 1
    for start, stop in pairwise([0, *cuts.tolist(), len(numbers)]):
        for first in range(start, stop, longest):
            yield slice(first, min(first + longest, stop))


def decode_text(content: bytes) -> str:
    """Text in EBCDIC (code page 037) or ASCII, cut into lines of 80 characters."""
    # A blank is 0x40 in EBCDIC and 0x20 in ASCII, and text headers are mostly blanks.
    ascii_text = content.count(b" ") > content.count(b"\x40")
    text = content.decode("latin-1" if ascii_text else "cp037")
    lines = [text[start : start + 80].rstrip(" \0\r\n") for start in range(0, len(text), 80)]
    return "\n".join(lines).rstrip()


def state_of(path: Path) -> tuple[int, int]:
    """Size in bytes and time of the last change."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def unreadable(path: Path, error: OSError) -> UserError:
    """What is said when the disk or network fails."""
    return UserError(f"{path} cannot be read", given=error.strerror or error)
