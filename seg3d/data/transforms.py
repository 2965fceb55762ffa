"""MONAI's transforms: the keys of their dictionaries, and what those of space do to a grid."""

from __future__ import annotations

import torch
from monai import transforms as mt
from monai.data import MetaTensor

from seg3d.geometry import Grid
from seg3d.plan import Plan

IMAGE, LABEL = "image", "label"
BOTH = (IMAGE, LABEL)
CENTRES = "_patch_centres"


def preprocessed_grids(grid: Grid, plan: Plan) -> tuple[Grid, Grid]:
    """Where the voxels of a volume on ``grid`` go: first by reorientation, then by resampling."""
    volume = _oriented(grid, plan)
    oriented = _pending_grid(volume)
    if plan.spacing is not None:
        volume = mt.Spacing(pixdim=plan.spacing)(volume, lazy=True)
    return oriented, _pending_grid(volume)


def oriented_grid(grid: Grid, plan: Plan) -> Grid:
    """Where the voxels of a volume on ``grid`` go by reorientation."""
    return _pending_grid(_oriented(grid, plan))


def _oriented(grid: Grid, plan: Plan) -> MetaTensor:
    # One voxel seen everywhere, and transforms that only take note of what they would do.
    volume = MetaTensor(torch.zeros(1).expand(1, *grid.shape), affine=torch.tensor(grid.affine))
    if plan.orientation == "none":
        return volume
    return mt.Orientation(axcodes=plan.orientation, labels=None)(volume, lazy=True)


def _pending_grid(volume: MetaTensor) -> Grid:
    x, y, z = (int(length) for length in volume.peek_pending_shape())
    return Grid((x, y, z), volume.peek_pending_affine().numpy())
