"""From one volume format to another, block by block."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
from rich.console import Console

from seg3d.common.errors import UserError
from seg3d.common.progress import progress_bar
from seg3d.geometry import Grid, Shape3
from seg3d.io import SEGY, Header, Region, create_volume, open_volume, target_suffix
from seg3d.io.ome_zarr import CHUNK

BLOCK_BYTES = 2**27
# What scanners and float32 headers leave of a right angle.
SHEAR_TOLERANCE_DEGREES = 0.1


def convert_volume(source: Path, target: Path, console: Console) -> list[str]:
    """Write a volume in the format of another name's ending.

    Voxels are the same numbers in the same type; only floating point becomes float32. In RAM are
    blocks of `BLOCK_BYTES`, and volumes of formats that can only be read or written whole.

    Args:
        source: a volume, as `seg3d.io.open_volume` takes it.
        target: a name with a volume ending; a volume that has it already is replaced.
        console: of the progress bar.

    Returns:
        What a person should know about the result, a sentence each.

    Raises:
        UserError: if the source cannot be read, or the target cannot be written.
    """
    ending = target_suffix(target)
    if target.resolve() in (source.resolve(), *source.resolve().parents):
        raise UserError(f"{target} would overwrite its input {source}", fix="give another name")
    with open_volume(source) as reader:
        header = reader.header
        with create_volume(target, header, reader.dtype, header.channels) as writer:
            voxel_bytes = reader.dtype.itemsize * header.channels
            slow = {axis for axis in (reader.slow_axis, writer.slow_axis) if axis is not None}
            pieces = blocks(header.grid.shape, slow, voxel_bytes, BLOCK_BYTES)
            with progress_bar(console, "blocks", len(pieces)) as bar:
                for region in pieces:
                    writer.write(region, reader.read(region))
                    bar.advance()
    return _notes(source, header, target, ending)


def blocks(shape: Shape3, axes: set[int], voxel_bytes: int, most: int) -> list[Region]:
    """Boxes that fill a volume, whose edges are multiples of Zarr's chunks.

    Args:
        shape: of the volume.
        axes: to be cut first; the others only if a box would still be too large.
        voxel_bytes: bytes of a voxel, all channels.
        most: bytes of a box, unless it has no edge that is longer than a chunk.
    """
    edges = list(shape)
    while math.prod(edges) * voxel_bytes > most and max(edges) > CHUNK:
        wanted = [axis for axis in axes if edges[axis] > CHUNK] or range(3)
        axis = max(wanted, key=edges.__getitem__)
        edges[axis] = CHUNK * math.ceil(edges[axis] / 2 / CHUNK)
    cuts = [
        [slice(start, min(start + edge, length)) for start in range(0, length, edge)]
        for length, edge in zip(shape, edges, strict=True)
    ]
    return list(itertools.product(*cuts))


def _notes(source: Path, header: Header, target: Path, ending: str) -> list[str]:
    grid = header.grid
    notes = [f"{note.where}: {note.what}" for note in header.notes]
    if grid.shear_degrees > SHEAR_TOLERANCE_DEGREES:
        notes.append(
            f"the axes of {source} are {grid.shear_degrees:.1f} degrees from right angles, as in "
            "CT with a tilted gantry; the affine says so, but not every program looks"
        )
    if ending == ".npy" and not np.array_equal(grid.affine, np.eye(4)):
        notes.append(
            f"{target} keeps no geometry: its spacing of {_spacing(grid)}, orientation "
            f"{grid.orientation} and origin are lost"
        )
    elif set(grid.units) != {"mm"} and ending not in SEGY:
        # Its codes for units know no axis of time among those of space.
        notes.append(
            f"{target} says mm, as all volumes of its format from seg3d do; the numbers are those "
            f"of {source}: {_spacing(grid)}"
        )
    return notes


def _spacing(grid: Grid) -> str:
    units = grid.units if len(set(grid.units)) > 1 else ("", "", grid.units[0])
    return " x ".join(
        f"{length:g} {unit}".strip() for length, unit in zip(grid.spacing, units, strict=True)
    )
