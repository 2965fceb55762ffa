"""Texts on the console just as they are."""

from __future__ import annotations

from rich.console import Console


def print_as_is(console: Console, text: object) -> None:
    """Without colours for numbers, brackets read as markup, or line breaks within long paths."""
    console.print(str(text), highlight=False, markup=False, soft_wrap=True)
