"""From one volume format to another, block by block."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console

from seg3d.common.errors import UserError
from seg3d.common.progress import progress_bar
from seg3d.common.sole_writer import sole_writer
from seg3d.geometry import Grid, Shape3
from seg3d.io import (
    SEGY,
    Header,
    Region,
    VolumeReader,
    create_volume,
    open_volume,
    read_header,
    suffix,
    target_suffix,
)
from seg3d.io.ome_zarr import CHUNK
from seg3d.io.reoriented import Reoriented, turn_between

BLOCK_BYTES = 2**27
# Endings of formats that say nothing of where voxels lie.
PLACELESS = (".npy",)
# What scanners and float32 headers leave of a right angle.
SHEAR_TOLERANCE_DEGREES = 0.1


def convert_volume(
    source: Path,
    target: Path,
    console: Console,
    like: Path | None = None,
    labels: bool | None = None,
) -> list[str]:
    """Write a volume in the format of another name's ending.

    Voxels are the same numbers in the same type; only floating point becomes float32. In RAM are
    blocks of `BLOCK_BYTES`, and volumes of formats that can only be read or written whole.

    Args:
        source: a volume, as `seg3d.io.open_volume` takes it.
        target: a name with a volume ending; a volume that has it already is replaced.
        console: of the progress bar.
        like: a volume whose grid the result shall have.
        labels: where the source has to be resampled for that, take the nearest voxels; False:
            interpolate. By default the number type decides: whole numbers are labels.

    Returns:
        What a person should know about the result, a sentence each.

    Raises:
        UserError: if the source cannot be read, or has no voxel in common with the grid that is
            wanted, or the target cannot be written, or is being written by another process.
    """
    ending = target_suffix(target)
    for path in (source, like or source):
        if target.resolve() in (path.resolve(), *path.resolve().parents):
            raise UserError(f"{target} would overwrite its input {path}", fix="give another name")
    if like is None and labels is not None:
        raise UserError("--labels and --image say how --like resamples", fix="add --like IMAGE")
    with open_volume(source) as reader:
        header = reader.header
        notes: list[str] = []
        if like is not None:
            wanted = read_header(like)
            header = replace(wanted, channels=header.channels, notes=header.notes)
            reader, notes = _on_grid(wanted.grid, like, source, reader, labels)
        with (
            sole_writer(target),
            create_volume(target, header, reader.dtype, header.channels) as writer,
        ):
            voxel_bytes = reader.dtype.itemsize * header.channels
            slow = {axis for axis in (reader.slow_axis, writer.slow_axis) if axis is not None}
            pieces = blocks(header.grid.shape, slow, voxel_bytes, BLOCK_BYTES)
            with progress_bar(console, "blocks", len(pieces)) as bar:
                for region in pieces:
                    writer.write(region, reader.read(region))
                    bar.advance()
    return notes + _notes(like or source, header, target, ending)


def _on_grid(
    grid: Grid, like: Path, source: Path, reader: VolumeReader, labels: bool | None
) -> tuple[VolumeReader, list[str]]:
    """A volume read on another grid, and what a person should know about that."""
    if turn := turn_between(reader.header.grid, grid):
        return Reoriented(reader, turn), []
    if (suffix(source) in PLACELESS) != (suffix(like) in PLACELESS):
        placeless = source if suffix(source) in PLACELESS else like
        if reader.header.grid.shape != grid.shape:
            raise UserError(
                f"{source} cannot be put on the grid of {like}, as {placeless} keeps no geometry",
                given=f"shapes {reader.header.grid.shape} and {grid.shape}",
                legal="the same shape, or geometry in both",
            )
        return reader, [
            f"{placeless} keeps no geometry: voxels are taken to stand in the same order as those "
            f"of {like if placeless == source else source}"
        ]
    # PyTorch takes its time to load.
    from seg3d.io.resampled import Resampled

    nearest = reader.dtype.kind in "iu" if labels is None else labels
    resampled = Resampled(reader, grid, nearest=nearest)
    if not resampled.overlaps:
        raise UserError(
            f"{source} and {like} have no voxel in common",
            given=f"{_place(reader.header.grid)}, and {_place(grid)}",
            legal="volumes that overlap in the world",
            fix="give the image that the source was drawn on",
        )
    if resampled.exact:
        return resampled, []
    other = "--image interpolates" if nearest else "--labels takes the nearest voxels"
    given = "" if labels is not None else f" ({other})"
    done = "its nearest voxels are taken" if nearest else "it is interpolated linearly"
    return resampled, [f"{source} lies on another grid than {like}: {done}{given}"]


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
    if ending in PLACELESS and not np.array_equal(grid.affine, np.eye(4)):
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


def _place(grid: Grid) -> str:
    """Between which points of the world a grid lies."""
    ends = grid.corners.min(1), grid.corners.max(1)
    low, high = (", ".join(f"{place:g}" for place in end) for end in ends)
    return f"from ({low}) to ({high})"


def _spacing(grid: Grid) -> str:
    units = grid.units if len(set(grid.units)) > 1 else ("", "", grid.units[0])
    return " x ".join(
        f"{length:g} {unit}".strip() for length, unit in zip(grid.spacing, units, strict=True)
    )
