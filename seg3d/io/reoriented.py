"""Grids of the same voxels whose axes stand in another order or run the other way."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from nibabel.orientations import inv_ornt_aff, io_orientation

from seg3d.common.errors import UserError
from seg3d.geometry import Grid, Shape3
from seg3d.io.formats import stem, written_suffix
from seg3d.io.header import Header
from seg3d.io.interpretation import Interpretation
from seg3d.io.regions import Region, VolumeReader
from seg3d.io.volume import Volume

# What voxels may come from.
Source = Path | Volume | Interpretation


@dataclass(frozen=True)
class Turn:
    """Another order and other directions of a grid's axes; no voxel is lost or made.

    Attributes:
        axes: for each axis as wanted, which one of the stored it is.
        flips: for each axis as wanted, whether it runs against the stored.
    """

    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]

    def sizes(self, stored: Shape3) -> Shape3:
        """Numbers that belong to the stored axes, such as a shape, in the order as wanted."""
        x, y, z = (stored[axis] for axis in self.axes)
        return x, y, z

    def grid(self, stored: Grid) -> Grid:
        """Where the voxels lie, counted along the axes as wanted."""
        change = np.empty((3, 2))
        change[list(self.axes)] = [
            [axis, -1 if flip else 1] for axis, flip in enumerate(self.flips)
        ]
        affine = stored.affine @ inv_ornt_aff(change, stored.shape)
        i, j, k = self.axes
        names, units = stored.axes, stored.units
        return Grid(
            self.sizes(stored.shape),
            affine,
            (names[i], names[j], names[k]),
            (units[i], units[j], units[k]),
        )

    def array(self, stored: np.ndarray) -> np.ndarray:
        """A view of `(C, x, y, z)` along the axes as wanted."""
        flipped = tuple(1 + axis for axis, flip in enumerate(self.flips) if flip)
        return np.flip(stored.transpose(0, *(1 + axis for axis in self.axes)), flipped)

    def region(self, wanted: Region, stored: Shape3) -> Region:
        """The region of the stored grid that is a region as wanted."""
        parts = list(wanted)
        for part, axis, flip in zip(wanted, self.axes, self.flips, strict=True):
            length = stored[axis]
            parts[axis] = slice(length - part.stop, length - part.start) if flip else part
        x, y, z = parts
        return x, y, z


AS_STORED = Turn((0, 1, 2), (False, False, False))


class Reoriented(VolumeReader):
    """A volume read along other axes than those of its file.

    Args:
        stored: the volume, open; it is closed with this.
        turn: from the file's axes.
    """

    def __init__(self, stored: VolumeReader, turn: Turn) -> None:
        header = stored.header
        # The format's own header is about the axes as they are stored.
        self.header = Header(turn.grid(header.grid), header.channels, None, header.notes)
        self.dtype = stored.dtype
        self.slow_axis = turn.axes.index(stored.slow_axis)
        self.chunk = turn.sizes(stored.chunk)
        self._stored = stored
        self._turn = turn

    def read(self, region: Region) -> np.ndarray:
        there = self._turn.region(region, self._stored.header.grid.shape)
        return self._turn.array(self._stored.read(there))

    def close(self) -> None:
        self._stored.close()


def nearest_turn(stored: Grid, wanted: Grid) -> Turn:
    """The turn after which the axes of a grid run as nearly as they can along those of another."""
    axes, signs = io_orientation(np.linalg.solve(wanted.affine, stored.affine)).T
    x, y, z = (int(axis) for axis in np.argsort(axes))
    return Turn((x, y, z), (bool(signs[x] < 0), bool(signs[y] < 0), bool(signs[z] < 0)))


def turn_between(stored: Grid, wanted: Grid) -> Turn | None:
    """The turn that makes one grid of the other; None if their voxels do not coincide."""
    # Grids of a single slice may coincide and yet say different things of what is beyond it.
    for turn in (AS_STORED, nearest_turn(stored, wanted)):
        if not wanted.differences(turn.grid(stored)):
            return turn
    return None


def require_same_voxels(path: Path | Volume, grid: Grid, other_path: Source, other: Grid) -> Turn:
    """Require that the voxels of two files coincide, in whatever order their axes stand.

    Returns:
        What turns the other's axes into those of the first.

    Raises:
        UserError: if they do not coincide.
    """
    turn = turn_between(other, grid)
    if turn is None:
        raise UserError(
            f"{path} and {other_path} do not lie on the same grid",
            given="; ".join(grid.differences(other)),
            legal="the same voxels in the world, in any order of the axes",
            fix=_advice(path, other_path),
        )
    return turn


def on_grid_of(
    path: Path | Volume, grid: Grid, other_path: Source, other: VolumeReader
) -> VolumeReader:
    """A volume along the axes of another with the same voxels; itself, if they are its own.

    Raises:
        UserError: if the voxels do not coincide.
    """
    turn = require_same_voxels(path, grid, other_path, other.header.grid)
    return other if turn == AS_STORED else Reoriented(other, turn)


def _advice(path: Path | Volume, other: Source) -> str | None:
    if not (isinstance(path, Path) and isinstance(other, Path)):
        return None
    target = Path("resampled", stem(other) + written_suffix(path))
    command = shlex.join(["seg3d", "convert", str(other), str(target), "--like", str(path)])
    return f"put one on the grid of the other: {command}"
