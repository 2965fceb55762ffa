"""What is printed may have no reader."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.conftest import command, environment

# Prints, works on, and shows by its exit status that it got to the end.
GOES_ON = """
import sys
from rich.console import Console
from seg3d.common.standard_streams import going_on_unheard
with going_on_unheard():
    console = Console()
    sys.stdin.read()
    for number in range(3):
        console.print(number)
        print(number, file=sys.stderr, flush=True)
sys.exit(5)
"""
# Opens a file, then has a library print to standard error.
WRITES = """
import os, sys
from seg3d.common.standard_streams import open_what_is_closed
open_what_is_closed()
with open(sys.argv[1], "wb") as file:
    file.write(b"voxels")
    file.flush()
    os.write(2, b"chatter")
"""


def test_work_goes_on_when_its_readers_have_ended():
    process = subprocess.Popen(
        [sys.executable, "-c", GOES_ON],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    for stream in (process.stdout, process.stderr, process.stdin):
        stream.close()
    assert process.wait(timeout=60) == 5


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_work_goes_on_when_its_log_file_cannot_grow():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", GOES_ON], stdin=subprocess.DEVNULL, stdout=full, stderr=full,
            env=environment(), timeout=60,
        )  # fmt: skip
    assert done.returncode == 5


@pytest.mark.skipif(os.name != "posix", reason="needs a shell")
def test_a_closed_stream_is_not_taken_by_the_next_file(tmp_path):
    program = [sys.executable, "-c", WRITES, str(tmp_path / "file")]
    subprocess.run(
        ["sh", "-c", '"$@" 0<&- >&- 2>&-', "sh", *program], check=True, env=environment()
    )
    assert (tmp_path / "file").read_bytes() == b"voxels"


@pytest.mark.parametrize("arguments", [["info"], ["--help"]])
def test_other_commands_end_quietly(arguments):
    process = subprocess.Popen(
        command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    )
    process.stdout.close()
    assert process.communicate(timeout=60)[1] == b""
    assert process.returncode == 1
