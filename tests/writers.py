"""Other processes that are writing an output."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.conftest import environment

# Says when it is the writer, and is it until its standard input ends.
HOLDER = """
import sys
from pathlib import Path
from seg3d.common.sole_writer import sole_writer
with sole_writer(*map(Path, sys.argv[1:])):
    print("writing", flush=True)
    sys.stdin.read()
"""


def start(program: str, *arguments: Path) -> subprocess.Popen[str]:
    """A process that runs a program; one can write to it and read from it."""
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    )


@contextmanager
def another_writer(*outputs: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that is writing these, until the block ends."""
    with start(HOLDER, *outputs) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        yield process
