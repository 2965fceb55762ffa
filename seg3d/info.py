"""What is installed, and how a run stands, in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from seg3d.common.errors import UserError
from seg3d.common.sizes import readable
from seg3d.config import Config
from seg3d.io import SUFFIXES, open_volume, segy
from seg3d.plan import Plan
from seg3d.probing.bits import summary
from seg3d.runs.checkpoint import (
    FOLDS,
    damage_explained,
    find_checkpoint,
    load_checkpoint,
    versions,
)

CHECKPOINT = ".pt"


def system_info() -> str:
    """Versions and devices."""
    lines = [f"{name:8} {version}" for name, version in versions().items()]
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            device = torch.cuda.get_device_properties(index)
            lines.append(f"cuda:{index}   {device.name}, {readable(device.total_memory)}")
    else:
        lines.append("cuda     not available")
    if torch.backends.mps.is_available():
        lines.append("mps      available")
    lines.append(f"cpu      {torch.get_num_threads()} threads")
    return "\n".join(lines)


def volume_info(path: Path) -> str:
    """Format and geometry of a volume, without reading its voxels.

    Raises:
        UserError: if it cannot be read.
    """
    with open_volume(path) as volume:
        header, dtype = volume.header, volume.dtype
    if isinstance(header.native, segy.Survey):
        return segy.report(path)
    grid = header.grid
    return "\n".join(
        [
            f"file        {path}",
            f"shape       {' × '.join(map(str, grid.shape))} voxels, {header.channels} channels",
            f"voxels      {dtype}",
            f"spacing     {' × '.join(f'{size:.6g}' for size in grid.spacing)} mm",
            f"orientation {grid.orientation}",
            *(f"note        {note.what}: {note.where}" for note in header.notes),
        ]
    )


def run_info(run: Path) -> str:
    """State, data, labels, network and best score of a run.

    Raises:
        UserError: if the folder holds no run.
    """
    if run.is_file() and run.suffix != CHECKPOINT:
        raise UserError(
            f"{run} is neither a volume nor a run",
            legal=f"a run folder, a checkpoint ({CHECKPOINT}), or a volume that ends in "
            f"{', '.join(SUFFIXES)}",
        )
    last = run / "checkpoints" / "last.pt"
    checkpoint = last if last.is_file() else find_checkpoint(run)
    config, plan, content = load_checkpoint(checkpoint)
    with damage_explained(checkpoint):
        return _in_words(run, config, plan, content)


def _in_words(run: Path, config: Config, plan: Plan, content: dict[str, Any]) -> str:
    position = content["position"]
    best = f"{position['best_dice']:.4f}" if position["best_dice"] >= 0 else "not validated yet"
    labels = ", ".join(f"{one.name} ({'+'.join(map(str, one.values))})" for one in plan.classes)
    kind = "labels"
    if plan.regions is not None:
        kind = "regions"
        labels += f", written as {', '.join(map(str, plan.regions))}"
    wrote = ", ".join(f"{name} {number}" for name, number in content["versions"].items())
    weights = sum(weight.numel() for weight in content["network"].values())
    return "\n".join(
        [
            f"run       {run}",
            f"state     epoch {position['epochs_done']} of {config.train.epochs}, "
            f"step {position['step']}",
            f"best Dice {best}",
            f"data      {plan.dataset}",
            f"{kind:9} {labels}{'' if plan.rest is None else f', rest: {plan.rest}'}",
            f"patch     {' × '.join(map(str, plan.patch_size))} voxels"
            f"{', the largest of whole volumes' if plan.whole else ''}",
            f"network   {_count(content)}{config.network.name}, {weights / 1e6:.2f} million "
            f"weights, sketch {config.probing.sketch}",
            *([f"bits      {summary(bits)}"] if (bits := content.get("bits")) else []),
            f"versions  {wrote}",
        ]
    )


def _count(content: dict[str, Any]) -> str:
    """How many networks there are, if it is not one."""
    count = len(content.get(FOLDS, [0]))
    return "" if count == 1 else f"{count} of "
