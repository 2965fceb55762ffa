"""What was found, for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seg3d.checking.case import CaseLook
from seg3d.checking.dataset import Report
from seg3d.checking.problems import Level, Problem
from seg3d.common.files import atomic_write
from seg3d.common.version import __version__


def as_json(report: Report, repairs: dict[str, Any] | None = None) -> str:
    """Everything, cases and problems in full.

    Args:
        report: what was found.
        repairs: what was done about it, if anything.
    """
    levels = [one.kind.level for one in report.problems]
    content = {
        "seg3d_version": __version__,
        "dataset": str(report.dataset.source),
        "layout": report.dataset.layout,
        "errors": levels.count(Level.ERROR),
        "warnings": levels.count(Level.WARNING),
        "names": {str(value): name for value, name in report.names.items()},
        "cases": {one.case.name: _case(one) for one in report.looks},
        "problems": problems_as_json(report.problems),
    }
    if repairs is not None:
        content["repairs"] = repairs
    return json.dumps(content, indent=2, allow_nan=False)


def problems_as_json(problems: Sequence[Problem]) -> list[dict[str, Any]]:
    """A row for every problem."""
    return [
        {
            "level": one.kind.level.word,
            "kind": one.kind.value,
            "case": one.case or None,
            "problem": one.what,
            "given": one.given,
            "legal": one.legal,
            "to_do": one.fix,
        }
        for one in problems
    ]


def save_json(text: str, path: Path) -> None:
    """Write what `as_json` gives.

    Raises:
        UserError: if the folder cannot be written to.
    """
    with atomic_write(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def _case(look: CaseLook) -> dict[str, Any]:
    grid = None if look.image is None else look.image.grid
    voxel = math.nan if look.label is None else look.label.grid.voxel_volume_ml
    return {
        "images": list(map(str, look.case.images)),
        "label": None if look.case.label is None else str(look.case.label),
        "shape": None if grid is None else list(grid.shape),
        "spacing": None if grid is None else list(grid.spacing),
        "units": None if grid is None else list(grid.units),
        "orientation": None if grid is None else grid.orientation,
        "affine": None if grid is None else grid.affine.tolist(),
        "channels": look.channels,
        "lowest": [value if math.isfinite(value) else None for value in look.lowest],
        "highest": [value if math.isfinite(value) else None for value in look.highest],
        "labels": {
            str(value): {
                "voxels": count,
                "ml": None if math.isnan(voxel) else count * voxel,
            }
            for value, count in look.labels.items()
        },
    }
