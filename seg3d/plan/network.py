"""Patch size, kernels and strides that suit the spacing, after nnU-Net's planner."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from seg3d.common.errors import UserError
from seg3d.config import Config, UNet3dConfig
from seg3d.geometry import Shape3, Vector3
from seg3d.plan.plan import Plan
from seg3d.plan.presets import voxels_of

AUTO_CHANNELS = (32, 64, 128, 256, 320, 320)
# nnU-Net's thresholds: axes are pooled together once their spacings are within this factor, ...
POOL_TOGETHER = 2.0
# ... and no axis is pooled below this many voxels.
SMALLEST_FEATURE_MAP = 4


def plan_network(
    config: Config, spacing: Vector3, median_shape: Shape3
) -> tuple[Shape3, list[Shape3], list[Shape3]]:
    """Patch size, kernels and strides that suit the spacing.

    Raises:
        UserError: if a given patch size is not a multiple of the network's total stride, or a
            network of MONAI's is to see whole volumes.
    """
    if config.patch.size == "whole" and not isinstance(config.network, UNet3dConfig):
        raise UserError(
            "patch.size: whole is for networks that take volumes of any shape",
            given=f"network.name {config.network.name}",
            legal="network.name UNet3d",
            fix="give a patch.size that the network takes",
        )
    given = config.patch.size
    if given == "whole":
        patch = padded(config, spacing, median_shape)
    else:
        patch = auto_patch(voxels_of(config), spacing, median_shape) if given == "auto" else given
    channels = config.network.channels if isinstance(config.network, UNet3dConfig) else "auto"
    levels = most_levels(config)
    kernels, strides = topology(spacing, patch, levels)
    if channels != "auto" and len(strides) < levels:
        raise UserError(
            f"network.channels asks for {levels} levels",
            given=f"patches of {list(patch)} voxels",
            legal=f"at most {len(strides)} levels for such patches",
            fix="enlarge patch.size or give fewer channels",
        )
    factors = np.prod(strides, axis=0)
    if given == "auto":
        patch = as_shape(np.ceil(np.array(patch) / factors) * factors)
    else:
        require_legal_patch(config, patch, strides)
    return patch, kernels, strides


def most_levels(config: Config) -> int:
    """Levels that the network may have, if the patch is large enough for them."""
    channels = config.network.channels if isinstance(config.network, UNet3dConfig) else "auto"
    return len(AUTO_CHANNELS if channels == "auto" else channels)


def padded(config: Config, spacing: Vector3, shape: Shape3) -> Shape3:
    """A patch that holds a whole volume, padded as far as the network's strides ask for."""
    size = np.array(shape)
    while True:
        factors = np.prod(topology(spacing, as_shape(size), most_levels(config))[1], axis=0)
        if not (size % factors).any():
            return as_shape(size)
        # A longer side may be halved once more.
        size = np.ceil(size / factors).astype(int) * factors


def require_legal_patch(
    config: Config, patch: Shape3, strides: Sequence[Shape3], name: str = "patch.size"
) -> None:
    """Require of a patch that the U-Net can halve it as often as it has to.

    Args:
        config: of the run.
        patch: voxels.
        strides: of the network.
        name: what the patch is called where it was given.

    Raises:
        UserError: naming the nearest patches that are legal.
    """
    if not isinstance(config.network, UNet3dConfig):
        return
    factors = np.prod(strides, axis=0)
    legal = f"multiples of {factors.tolist()} voxels"
    if (np.array(patch) % factors).any():
        below = np.maximum(np.array(patch) // factors, 1) * factors
        above = np.ceil(np.array(patch) / factors) * factors
        raise UserError(
            f"{name} is not divisible by the total stride of the network",
            given=list(patch),
            legal=legal,
            fix=f"use {below.astype(int).tolist()} or {above.astype(int).tolist()}",
        )
    if (np.array(patch) == factors).all():
        raise UserError(
            f"{name} leaves a single voxel to the coarsest level of the network",
            given=list(patch),
            legal=legal,
            fix=f"use {(2 * factors).tolist()}",
        )


def divisors_of(config: Config, plan: Plan) -> Shape3 | None:
    """What the sides of patches have to be multiples of; None if a network takes its own only."""
    return plan.divisors if isinstance(config.network, UNet3dConfig) else None


def features_of(config: Config, levels: int) -> list[int]:
    """Channels of the U-Net per level."""
    if isinstance(config.network, UNet3dConfig) and config.network.channels != "auto":
        return config.network.channels
    return list(AUTO_CHANNELS[:levels])


def auto_patch(voxels: int, spacing: Vector3, median_shape: Shape3) -> Shape3:
    """A patch of about equal sides in mm: of so many voxels, or as the volumes, if these are less.

    It suits `topology`: pooling an axis while it keeps `SMALLEST_FEATURE_MAP` voxels divides it.
    """
    limit = np.array(median_shape, dtype=float)
    sides = 1 / np.array(spacing)
    size = np.minimum(sides * (voxels / sides.prod()) ** (1 / 3), limit)
    # What one clipped axis leaves of the budget goes to the others.
    for _ in range(3):
        free = size < limit
        if free.any():
            size[free] *= (voxels / size.prod()) ** (1 / free.sum())
            size = np.minimum(size, limit)
    step = _grain(size)
    size = np.maximum(np.rint(size / step), 1) * step
    while size.prod() > voxels:
        longest = size.argmax()
        size[longest] -= _grain(size - 1)[longest]
    return as_shape(size)


def patch_for_strides(voxels: int, plan: Plan, shape: Shape3) -> Shape3:
    """`auto_patch` for a network that there is already, in multiples of its total stride.

    Args:
        voxels: about so many.
        plan: for the strides and the typical spacing.
        shape: of a volume; no patch is larger, apart from padding.
    """
    factors, whole = np.array(plan.divisors), padded_for_strides(plan, shape)
    size = np.array(auto_patch(voxels, plan.typical_spacing, whole))
    return as_shape(np.minimum(np.maximum(np.rint(size / factors), 1) * factors, whole))


def padded_for_strides(plan: Plan, shape: Shape3) -> Shape3:
    """`padded` for a network that there is already: the next multiples of its total stride."""
    factors = np.array(plan.divisors)
    return as_shape(np.ceil(np.array(shape) / factors) * factors)


def _grain(size: np.ndarray) -> np.ndarray:
    """The power of two that should divide sides of about ``size`` voxels, for up to 6 levels."""
    return np.select([size >= 128, size >= 32, size >= 12, size >= 7], [32, 16, 4, 2], 1)


def topology(
    spacing: Vector3, patch: Shape3, most_levels: int
) -> tuple[list[Shape3], list[Shape3]]:
    """Kernel sizes and strides per level, after nnU-Net's planner.

    An axis is pooled while its feature map keeps `SMALLEST_FEATURE_MAP` voxels and its spacing is
    within `POOL_TOGETHER` of the finest that is pooled; until then its kernel size is 1. An axis
    of one voxel always has kernel size 1.

    Args:
        spacing: mm.
        patch: voxels.
        most_levels: number of levels not to be exceeded.

    Returns:
        Kernel sizes and strides from the level above; as many of each as there are levels.

    Raises:
        UserError: if no axis is long enough to be pooled.
    """
    size, step = np.array(patch, dtype=float), np.array(spacing, dtype=float)
    pooled = size >= 2 * SMALLEST_FEATURE_MAP
    if not pooled.any():
        raise UserError(
            "the patch is too small for a U-Net",
            given=f"patch of {list(patch)} voxels",
            legal=f"at least {2 * SMALLEST_FEATURE_MAP} voxels along one axis",
            fix="enlarge patch.size or patch.voxels (volumes smaller than the patch are padded)",
        )
    thick = np.full(3, True)
    kernels: list[Shape3] = []
    strides: list[Shape3] = [(1, 1, 1)]
    while True:
        thick &= step >= POOL_TOGETHER * step[pooled].min()
        kernels.append(as_shape(np.where(thick | (size == 1), 1, 3)))
        fits = size >= 2 * SMALLEST_FEATURE_MAP
        if not fits.any() or len(kernels) == most_levels:
            return kernels, strides
        pool = fits & (step < POOL_TOGETHER * step[fits].min())
        strides.append(as_shape(np.where(pool, 2, 1)))
        size, step = np.where(pool, size / 2, size), np.where(pool, 2 * step, step)


def as_shape(values: np.ndarray | Sequence[int]) -> Shape3:
    x, y, z = (math.floor(value) for value in values)
    return x, y, z
