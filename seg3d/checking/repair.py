"""From a report to a repaired copy, and to what could not be repaired."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from seg3d.checking.copy import copy_dataset, root_of
from seg3d.checking.dataset import Report, look_at_all
from seg3d.checking.json_report import problems_as_json
from seg3d.checking.repairs import find_repairs
from seg3d.common.progress import progress_bar
from seg3d.config import Config


@dataclass(frozen=True)
class Repaired:
    """What was done.

    Attributes:
        folder: of the copy; None if nothing could be repaired, so that there is none.
        done: what was done to which file, a line each.
        left: what is found in the copy; without one, what was found before.
    """

    folder: Path | None
    done: tuple[str, ...]
    left: Report

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "folder": None if self.folder is None else str(self.folder),
            "done": list(self.done),
            "left": problems_as_json(self.left.problems),
        }


def repair_dataset(
    report: Report, config: Config, target: Path, nan: float | None, console: Console
) -> Repaired:
    """Write a copy in which what is safe to repair is repaired, and check it.

    Args:
        report: on the dataset.
        config: by which it was found.
        target: folder of the copy.
        nan: what is written in place of NaN and infinities; None: they stay.
        console: of the progress bars.

    Raises:
        UserError: as `copy_dataset`.
    """
    dataset = report.dataset
    repairs = find_repairs(report, nan)
    if not repairs:
        return Repaired(None, (), report)
    files = len({path for look in report.looks for path in look.case.files})
    with progress_bar(console, "writing the copy", files) as bar:
        copy = copy_dataset(dataset, config, repairs, target, bar.advance)
    done = [
        f"{path.relative_to(root_of(dataset))}: {'; '.join(repair.done)}"
        for path, repair in repairs.items()
    ]
    if dataset.left_out:
        count = len(dataset.left_out)
        done.append(
            "1 file that no case uses was not copied"
            if count == 1
            else f"{count} files that no case uses were not copied"
        )
    return Repaired(target, tuple(done), look_at_all(copy, config, console))
