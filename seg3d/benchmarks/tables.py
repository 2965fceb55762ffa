"""Results of the benchmarks: a table for people, a JSON file for the record."""

from __future__ import annotations

import json
import platform
import shlex
import sys
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from seg3d.common.files import atomic_write
from seg3d.common.printing import make_console

# Characters; a table is not folded to fit into a narrower terminal.
WIDTH = 160


def print_table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table, as wide as it needs to be, numbers to the right."""
    table = Table()
    for place, name in enumerate(header):
        table.add_column(name, justify="right" if place else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console = make_console()
    console.width = max(console.width, WIDTH)
    console.print(title)
    console.print(table)


def write_results(path: Path, results: dict[str, Any]) -> None:
    """Write results as JSON, with date, hardware, PyTorch's version and the command."""
    _write(path, _circumstances() | results)


def add_results(path: Path, name: str, results: dict[str, Any]) -> dict[str, Any]:
    """Like `write_results`, under a name, beside what the file already has under other names.

    Returns:
        All that is in the file now, by name.
    """
    known = read_results(path)
    known[name] = _circumstances() | results
    _write(path, known)
    return known


def read_results(path: Path) -> dict[str, Any]:
    """What a file of results holds; nothing if there is none."""
    known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return known


def _circumstances() -> dict[str, str]:
    return {
        "date": date.today().isoformat(),
        "hardware": hardware(),
        "torch": str(torch.__version__),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def _write(path: Path, content: dict[str, Any]) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def hardware() -> str:
    """The GPU if there is one, and the CPU with the number of threads that PyTorch uses."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text(encoding="utf-8").splitlines() if information.is_file() else []
    models = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    cpu = models[0] if models else f"{platform.machine()} CPU"
    parts = [f"{cpu}, {torch.get_num_threads()} threads"]
    if torch.cuda.is_available():
        parts.insert(0, torch.cuda.get_device_name())
    return "; ".join(parts)
