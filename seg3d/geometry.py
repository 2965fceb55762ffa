"""Where the voxels of a volume lie in the world."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.orientations import aff2axcodes

Shape3 = tuple[int, int, int]
Vector3 = tuple[float, float, float]

# A hundredth of a voxel: far below what moves a label, far above what float32 headers lose.
POSITION_TOLERANCE_VOXELS = 0.01


@dataclass(frozen=True, eq=False)
class Grid:
    """Shape and position of a volume.

    Attributes:
        shape: voxels along the three axes, as stored.
        affine: `(4, 4)` float64, voxel index to world. Medical volumes: millimetres, RAS+ as in
            NIfTI. Seismic volumes: metres east and north, and milliseconds or metres downwards.
        axes: what runs along each axis, such as ``("inline", "crossline", "time")``.
        units: of the spacing along each axis, such as ``("m", "m", "ms")``.
    """

    shape: Shape3
    affine: np.ndarray
    axes: tuple[str, str, str] = ("x", "y", "z")
    units: tuple[str, str, str] = ("mm", "mm", "mm")

    @property
    def spacing(self) -> Vector3:
        """Distance between neighbouring voxels along each axis, in `units`."""
        x, y, z = (float(size) for size in voxel_sizes(self.affine))
        return x, y, z

    @property
    def orientation(self) -> str:
        """Where each axis points, such as ``RAS`` or ``LPI``; oblique grids give the nearest."""
        return "".join(code or "?" for code in aff2axcodes(self.affine))

    @property
    def shear_degrees(self) -> float:
        """How far the axes are from right angles; for a tilted CT, the tilt of the gantry."""
        axes = self.affine[:3, :3] / voxel_sizes(self.affine)
        return float(np.degrees(np.arcsin(np.abs(np.triu(axes.T @ axes, 1)).clip(max=1).max())))

    @property
    def voxel_volume_ml(self) -> float:
        """Volume of one voxel in ml (right for sheared grids too); NaN where axes are not in mm."""
        if set(self.units) != {"mm"}:
            return math.nan
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000.0

    @property
    def corners(self) -> np.ndarray:
        """`(3, 8)`, where the outermost voxels lie in the world."""
        corners = np.array(np.meshgrid(*[(0, size - 1) for size in self.shape])).reshape(3, -1)
        return self.affine[:3, :3] @ corners + self.affine[:3, 3:]

    def distance(self, affine: np.ndarray) -> float:
        """How far another affine moves a voxel at most, in the unit of the affines."""
        moved = self.corners - Grid(self.shape, affine).corners
        return float(np.linalg.norm(moved, axis=0).max())

    def differences(self, other: Grid) -> list[str]:
        """Say in words how ``other`` differs from this grid; empty if the voxels coincide.

        Positions are compared at the eight corners, to `POSITION_TOLERANCE_VOXELS` of the
        smallest spacing, so that rounding in a header does not count and a shift does.
        """
        if self.shape != other.shape:
            return [f"shape {self.shape} and {other.shape}"]
        distance = self.distance(other.affine)
        if distance <= POSITION_TOLERANCE_VOXELS * min(self.spacing):
            return []
        found = [
            f"{name} {mine} and {theirs}"
            for name, mine, theirs in (
                ("spacing", _rounded(self.spacing), _rounded(other.spacing)),
                ("orientation", self.orientation, other.orientation),
                ("origin", _rounded(self.affine[:3, 3]), _rounded(other.affine[:3, 3])),
            )
            if mine != theirs
        ]
        units = "/".join(dict.fromkeys(self.units))
        return [*found, f"voxels up to {distance:.3g} {units} apart"]


def _rounded(values: np.ndarray | Vector3) -> tuple[float, ...]:
    return tuple(round(float(value), 3) for value in values)
