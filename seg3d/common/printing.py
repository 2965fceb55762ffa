"""The console of a command, and texts on it as they are, but for what a terminal would obey."""

from __future__ import annotations

import os
from pathlib import Path

from rich.console import Console

from seg3d.common.plain_text import printable

# Characters of a line that no table reaches.
UNBOUNDED = 10_000


def make_console(*, quiet: bool = False) -> Console:
    """The console of a command: as wide as its terminal, without bounds in a pipe or file.

    ``COLUMNS`` in the environment sets the width of both.
    """
    console = Console(quiet=quiet)
    # Not console.is_terminal: FORCE_COLOR asks for colours, not for a width.
    if not console.file.isatty() and not os.environ.get("COLUMNS", "").isdigit():
        # rich would fold tables and lines at 80 characters, which programs do not expect.
        console.width = UNBOUNDED
    return console


def print_as_is(console: Console, text: object) -> None:
    """Without colours for numbers, brackets read as markup, or line breaks within long paths."""
    words = printable(text, kept="" if isinstance(text, Path) else "\n")
    console.print(words, highlight=False, markup=False, soft_wrap=True)
