"""Texts on the console just as they are, but for what a terminal would obey."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from seg3d.common.plain_text import printable


def print_as_is(console: Console, text: object) -> None:
    """Without colours for numbers, brackets read as markup, or line breaks within long paths."""
    words = printable(text, kept="" if isinstance(text, Path) else "\n")
    console.print(words, highlight=False, markup=False, soft_wrap=True)
