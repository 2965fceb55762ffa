"""All of a SEG-Y file but its samples, to be written around new ones."""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from seg3d.io.segy.file_header import FORMAT
from seg3d.io.segy.layout import Layout
from seg3d.io.segy.survey import Survey

ReadHeaders = Callable[[int, int], np.ndarray]


class Headers(ABC):
    """What is written around the samples.

    Attributes:
        layout: of the file to be written.
        index: number of the trace at each inline and crossline, `(X, Y)`; -1 for none.
        before: all in front of the traces.
        after: all behind them.
    """

    layout: Layout
    index: np.ndarray
    before: bytes
    after: bytes

    @abstractmethod
    def reading(self) -> AbstractContextManager[ReadHeaders]:
        """Within it, a function that gives the headers of traces ``first`` to ``stop``."""


class CopiedHeaders(Headers):
    """Those of an input, byte for byte except for the sample format.

    Args:
        survey: the input.
        path: of the file to be written.
        code: its sample format.
    """

    def __init__(self, survey: Survey, path: Path, code: int) -> None:
        self._source = survey.layout
        self.layout = replace(self._source, path=path, code=code)
        self.index = survey.index
        with self._source.open() as stream:
            before = bytearray(stream.read(self._source.start))
            stream.seek(self._source.stop)
            self.after = stream.read()
        struct.pack_into(self.layout.order + "h", before, FORMAT - 1, code)
        self.before = bytes(before)

    @contextmanager
    def reading(self) -> Iterator[ReadHeaders]:
        with self._source.open() as stream:
            yield lambda first, stop: self._source.read(stream, first, stop)["header"]
