"""A progress bar with an estimate, silent when nobody is watching."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class Bar:
    """One bar: how far, how long, how much longer."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def advance(self, count: int = 1) -> None:
        """Say that ``count`` more units are done."""
        self._progress.advance(self._task, count)

    def describe(self, text: str) -> None:
        """Change the words in front of the bar."""
        self._progress.update(self._task, description=text)


@contextmanager
def progress_bar(console: Console, description: str, total: int, done: int = 0) -> Iterator[Bar]:
    """Show a bar while the block runs; nothing is shown if the console is not a terminal.

    Args:
        console: where.
        description: what is being done.
        total: units of work.
        done: how many of them are done already.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield Bar(progress, progress.add_task(description, total=total, completed=done))
