"""How wide what is printed may be: as the terminal is, and without bounds where there is none."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT, command
from tests.volumes import save_nifti

LONG = "x" * 150
PROGRAM = f"""
from rich.table import Table
from seg3d.common.printing import make_console
console = make_console()
table = Table("name", "value")
table.add_row("{LONG}", "{LONG}")
console.print(table)
console.print("word " * 100)
"""


def environment(**changes: str) -> dict[str, str]:
    without = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    return without | {"OMP_NUM_THREADS": "1", **changes}


def printed(**changes: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True,
        env=environment(**changes),
    )  # fmt: skip
    return done.stdout.splitlines()


@pytest.mark.parametrize("changes", [{}, {"FORCE_COLOR": "1", "TERM": "xterm"}])
def test_a_pipe_folds_neither_tables_nor_lines(changes: dict[str, str]):
    lines = plain("\n".join(printed(**changes)))
    assert len(lines) == 6  # four of the table's frame and its heading, one each of row and words
    assert lines[3].count(LONG) == 2
    assert lines[5].split() == ["word"] * 100


def plain(text: str) -> list[str]:
    """Lines without what makes them bold or coloured."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()


def test_all_consoles_are_made_in_one_place():
    places = [*(ROOT / "seg3d").rglob("*.py"), *(ROOT / "scripts").iterdir()]
    makers = [path.name for path in places if "Console(" in path.read_text(encoding="utf-8")]
    assert makers == ["printing.py"]


@pytest.mark.parametrize("columns", [60, 100])
def test_columns_in_the_environment_set_the_width(columns: int):
    assert max(map(len, printed(COLUMNS=str(columns)))) in (columns, columns - 1)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_terminal_has_the_width_that_it_has():
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 70, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdin=theirs, stdout=theirs, stderr=theirs,
        env=environment(TERM="xterm", NO_COLOR="1"),
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # how Linux says that the other side is closed
            break
        if not part:
            break
        shown += part
    os.close(ours)
    assert process.wait() == 0
    assert max(map(len, plain(shown.decode()))) in (69, 70)


def test_rows_of_a_piped_evaluation_are_whole(tmp_path: Path):
    label = np.zeros((4, 5, 6), np.uint8)
    label[1:3] = 1
    for folder in ("predictions", "references"):
        save_nifti(tmp_path / folder / f"{LONG}.nii.gz", label)
    done = subprocess.run(
        command("evaluate", tmp_path / "predictions", tmp_path / "references"),
        capture_output=True, text=True, check=True, env=environment(),
    )  # fmt: skip
    [row] = [line for line in done.stdout.splitlines() if LONG in line and ".json" not in line]
    assert row.split()[:3] == [LONG, "label", "1"]
