"""The record of a run: TensorBoard for people, ``log.jsonl`` for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from seg3d.common.files import atomic_write, full_disk_explained

# What belongs in one chart; the tags are regular expressions.
CHARTS = {
    "training": {
        "loss": ["Multiline", ["loss/.*"]],
        "dice": ["Multiline", ["dice/.*"]],
    },
    "probed layers": {
        "noise": ["Multiline", ["noise/.*"]],
        "bits": ["Multiline", ["bits/.*"]],
        "memory in GiB": ["Multiline", ["memory/.*"]],
    },
}


class Journal:
    """Write the same to TensorBoard and to a JSON-lines file: a line of scalars for each epoch.

    Args:
        tensorboard: folder of the event files.
        log: the JSON-lines file.
        epochs_done: epochs that the run being continued has finished; later records, written by
            a process that was killed, are dropped.
    """

    def __init__(self, tensorboard: Path, log: Path, epochs_done: int) -> None:
        self.log = log
        self.tensorboard = tensorboard
        rows = (
            log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
        )
        with atomic_write(log) as temporary:
            kept = [row for row in rows if _epoch(row) <= epochs_done]
            temporary.write_text("".join(f"{row}\n" for row in kept), encoding="utf-8")
        with full_disk_explained(tensorboard):
            self.writer = SummaryWriter(str(tensorboard), purge_step=epochs_done + 1)
            self.writer.add_custom_scalars(CHARTS)

    def scalars(self, epoch: int, values: dict[str, float]) -> None:
        """Record ``values`` under their TensorBoard tags for an epoch, counted from 1."""
        with full_disk_explained(self.tensorboard):
            for tag, value in values.items():
                if np.isfinite(value):
                    self.writer.add_scalar(tag, value, epoch)
            self.writer.flush()
        row: dict[str, Any] = {"epoch": epoch} | {
            tag: float(f"{value:.6g}") if np.isfinite(value) else None
            for tag, value in values.items()
        }
        self._append(row)

    def notes(self, epoch: int, notes: Sequence[str]) -> None:
        """Record what was said about the data before an epoch, in a line of its own."""
        if notes:
            with full_disk_explained(self.tensorboard):
                self.writer.add_text("notes", "\n\n".join(notes), epoch)
                self.writer.flush()
            self._append({"epoch": epoch, "notes": list(notes)})

    def picture(self, epoch: int, tag: str, picture: np.ndarray) -> None:
        """Record an `(H, W, 3)` picture of uint8."""
        with full_disk_explained(self.tensorboard):
            self.writer.add_image(tag, picture, epoch, dataformats="HWC")

    def close(self) -> None:
        with full_disk_explained(self.tensorboard):
            self.writer.close()

    def _append(self, row: dict[str, Any]) -> None:
        with full_disk_explained(self.log), self.log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


class NoJournal:
    """For processes that share a training whose first one writes."""

    def scalars(self, epoch: int, values: dict[str, float]) -> None: ...

    def notes(self, epoch: int, notes: Sequence[str]) -> None: ...

    def picture(self, epoch: int, tag: str, picture: np.ndarray) -> None: ...

    def close(self) -> None: ...


def _epoch(row: str) -> float:
    try:
        return float(json.loads(row)["epoch"])
    except (ValueError, KeyError, TypeError):
        # The last line of a killed process may be half a line.
        return float("inf")
