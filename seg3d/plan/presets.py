"""nnU-Net's presets: the blocks of the encoder, and what the patch is planned for.

Isensee et al., "nnU-Net Revisited", MICCAI 2024 (arXiv 2404.09556). The residual encoder is the
same in M, L and XL. nnU-Net plans them for 8, 24 and 40 GB, which come to these voxels in volumes
of cubic voxels that are large enough, with a batch of two.
"""

from __future__ import annotations

from seg3d.config import Config, UNet3dConfig
from seg3d.plan.plan import Plan

RESIDUAL_BLOCKS = (1, 3, 4, 6)  # and 6 in every level below
VOXELS = {
    "plain": 128**3,
    "auto": 128**3,
    "resenc-m": 128**3,
    "resenc-l": 192**3,
    "resenc-xl": 224 * 224 * 256,
}


def blocks_of(config: Config, levels: int) -> list[int] | None:
    """Residual blocks of the U-Net's encoder per level; None if it has none, or none yet."""
    return None if _preset(config) in ("plain", "auto") else _residual_blocks(levels)


def with_residual_encoder(config: Config, plan: Plan) -> Plan | None:
    """A plan with the larger network, if the config leaves the preset to the memory."""
    if _preset(config) != "auto" or config.probing.streamed:
        return None
    return plan.model_copy(update={"blocks": _residual_blocks(len(plan.strides))})


def _residual_blocks(levels: int) -> list[int]:
    return [*RESIDUAL_BLOCKS, *[RESIDUAL_BLOCKS[-1]] * levels][:levels]


def voxels_of(config: Config) -> int:
    """Most voxels of a patch that is planned."""
    voxels = config.patch.voxels
    return VOXELS[_preset(config)] if voxels == "auto" else voxels


def _preset(config: Config) -> str:
    return config.network.preset if isinstance(config.network, UNet3dConfig) else "plain"
