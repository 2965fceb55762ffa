"""What the text and binary headers of a SEG-Y file, and its size, say about its layout."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from seg3d.common.errors import UserError
from seg3d.io.segy.layout import (
    BIG_ENDIAN,
    BINARY_BYTES,
    LITTLE_ENDIAN,
    TEXT_BYTES,
    TRACE_HEADER_BYTES,
    Layout,
    decode_text,
    state_of,
    unreadable,
)
from seg3d.io.segy.samples import FORMATS

FORMAT = 3225  # position of the sample format code
HIGHEST_FORMAT = 16
# Written by revision 2 as a number that shows the order of its bytes.
ORDER_MARK = 0x01020304
# In µs; an hour.
LONGEST_INTERVAL = 3.6e9


@dataclass(frozen=True)
class Words:
    """Words of a header by their byte positions.

    Attributes:
        content: the header.
        before: bytes of the file in front of it, if positions count from the file's beginning.
        order: byte order.
    """

    content: bytes
    before: int
    order: str

    def __call__(self, position: int, kind: str) -> Any:
        return struct.unpack_from(self.order + kind, self.content, position - self.before - 1)[0]


def read_layout(path: Path) -> Layout:
    """Find out how a file is laid out, from its headers and its size.

    Raises:
        UserError: if it is not SEG-Y, is cut short, or its samples are of a kind that is not read.
    """
    try:
        with path.open("rb") as stream:
            return _layout(path, stream)
    except OSError as error:
        raise unreadable(path, error) from error


def _layout(path: Path, stream: BinaryIO) -> Layout:
    size, changed = state_of(path)
    binary = stream.read(TEXT_BYTES + BINARY_BYTES)[TEXT_BYTES:]
    if len(binary) < BINARY_BYTES:
        raise UserError(
            f"{path} is cut short or not a SEG-Y file",
            given=f"{size} bytes",
            legal=f"headers of {TEXT_BYTES + BINARY_BYTES} bytes, then the traces",
        )
    word = Words(binary, TEXT_BYTES, _byte_order(binary))
    code = word(FORMAT, "h")
    if code not in FORMATS:
        raise _not_read(path, code)
    revision = _revision(word)
    newer = revision >= (2, 0)
    # One word of four bytes in revision 2.0, where some write the two bytes of 2.1.
    extensions = word(3507, "h") or (word(3507, "i") if revision == (2, 0) else 0) if newer else 0
    header_bytes = TRACE_HEADER_BYTES * (1 + max(extensions, 0))
    sample_bytes = np.dtype(FORMATS[code].stored).itemsize
    declared, trailers = (word(3513, "Q"), word(3529, "i")) if newer else (0, 0)
    guesses = list(_guesses(path, stream, size, word, revision))
    for guess in guesses:
        trace_bytes = header_bytes + guess.samples * sample_bytes
        traces = _count(size - guess.start, trace_bytes, declared, trailers)
        if traces:
            break
    else:
        raise _does_not_fit(path, size, guesses, header_bytes, sample_bytes, declared)
    finer = word(3273, "d") if newer else 0.0
    return Layout(
        path=path,
        order=word.order,
        revision=revision,
        code=code,
        samples=guess.samples,
        interval=finer if 0 < finer < LONGEST_INTERVAL else word(3217, "H"),
        feet=word(3255, "h") == 2,
        fixed_length=word(3503, "h") == 1,
        start=guess.start,
        header_bytes=header_bytes,
        traces=traces,
        state=(size, changed),
        notes=tuple(
            f"{other.source} says {other.samples} samples in a trace, the file's size "
            f"{guess.samples}"
            for other in guesses
            if other.start == guess.start and other.samples != guess.samples
        ),
    )


@dataclass(frozen=True)
class Guess:
    """Where the first trace may be, how many samples it may have, and what says so."""

    start: int
    samples: int
    source: str


def _guesses(
    path: Path, stream: BinaryIO, size: int, word: Words, revision: tuple[int, int]
) -> Iterator[Guess]:
    """What the headers say about the traces, most trustworthy first."""
    for start in _starts(path, stream, word, revision):
        more = word(3269, "I") if revision >= (2, 0) else 0
        if more or word(3221, "H"):
            yield Guess(start, more or word(3221, "H"), "the binary header")
        if start + TRACE_HEADER_BYTES <= size:
            stream.seek(start)
            samples = Words(stream.read(TRACE_HEADER_BYTES), 0, word.order)(115, "H")
            if samples:
                yield Guess(start, samples, "the first trace's header")


def _byte_order(binary: bytes) -> str:
    """Big-endian unless the mark of revision 2 or the format code says otherwise."""
    little = Words(binary, TEXT_BYTES, LITTLE_ENDIAN)
    if little(3297, "I") == ORDER_MARK:
        return LITTLE_ENDIAN
    big = Words(binary, TEXT_BYTES, BIG_ENDIAN)
    # A code is a small number; in the wrong order it is at least 256.
    wrong = 1 <= little(FORMAT, "h") <= HIGHEST_FORMAT and big(3297, "I") != ORDER_MARK
    return LITTLE_ENDIAN if wrong else BIG_ENDIAN


def _revision(word: Words) -> tuple[int, int]:
    """Major and minor; bytes that hold no known revision count as 0.0."""
    major, minor = word(3501, "B"), word(3502, "B")
    if major == 0:
        # Files in the wrong byte order, and writers that took the two bytes for one number.
        major, minor = minor, 0
    return (major, minor) if major in (1, 2) else (0, 0)


def _starts(path: Path, stream: BinaryIO, word: Words, revision: tuple[int, int]) -> list[int]:
    """Where the first trace may be: behind the headers, with any further text headers."""
    start = TEXT_BYTES + BINARY_BYTES
    if revision >= (2, 0) and word(3521, "Q"):
        return [max(start, word(3521, "Q"))]
    texts = word(3505, "h")
    if texts < 0 and revision >= (1, 0):
        return [_end_of_texts(path, stream, start)]
    with_texts = start + max(texts, 0) * TEXT_BYTES
    # Revision 0 has none, and may hold anything there; yet some write the number and no revision.
    return [with_texts] if revision >= (1, 0) else list(dict.fromkeys([with_texts, start]))


def _end_of_texts(path: Path, stream: BinaryIO, start: int) -> int:
    """Where text headers end of which the last says that it is the last."""
    stream.seek(start)
    while len(content := stream.read(TEXT_BYTES)) == TEXT_BYTES:
        start += TEXT_BYTES
        if "((SEG:ENDTEXT))" in decode_text(content).upper().replace(" ", ""):
            return start
    raise UserError(
        f"{path} has no end of its text headers",
        given="a variable number of them, according to bytes 3505 and 3506",
        legal="a last one with ((SEG: EndText))",
    )


def _count(room: int, trace_bytes: int, declared: int, trailers: int) -> int:
    """How many traces fill the room, or 0 if none of one length do.

    Args:
        room: bytes from the first trace on.
        trace_bytes: of a trace with its header.
        declared: number of traces that the file states, 0 if it does not.
        trailers: blocks of text after the traces, negative if the file does not say how many.
    """
    if declared:
        rest = room - declared * trace_bytes
        fits = rest == trailers * TEXT_BYTES or (trailers < 0 <= rest and rest % TEXT_BYTES == 0)
        return declared if fits else 0
    traces, rest = divmod(room - max(trailers, 0) * TEXT_BYTES, trace_bytes)
    return 0 if rest else max(traces, 0)


def _does_not_fit(
    path: Path,
    size: int,
    guesses: list[Guess],
    header_bytes: int,
    sample_bytes: int,
    declared: int,
) -> UserError:
    given = [f"{size} bytes" + (f", {declared} traces declared" if declared else "")]
    for guess in guesses:
        trace_bytes = header_bytes + guess.samples * sample_bytes
        traces, rest = divmod(max(0, size - guess.start), trace_bytes)
        given.append(
            f"{guess.samples} samples in a trace ({guess.source}): {guess.start} bytes in front, "
            f"{traces} traces of {trace_bytes} bytes, {rest} bytes over"
        )
    return UserError(
        f"{path} is cut short or damaged: its size does not fit its traces",
        given="\n    ".join(given),
        legal="traces of one length, all whole, and at least one",
        fix="copy the file again",
    )


def _not_read(path: Path, code: int) -> UserError:
    legal = ", ".join(f"{one.code} ({one.name})" for one in FORMATS.values())
    given = f"sample format {code} in bytes {FORMAT} and {FORMAT + 1}"
    if 1 <= code <= HIGHEST_FORMAT:
        return UserError(
            f"{path} holds samples of a kind that seg3d does not read",
            given=given,
            legal=legal,
            fix="convert it to format 5 with a seismic package",
        )
    return UserError(f"{path} is not a SEG-Y file", given=given, legal=legal)
