"""The keys under ``network``: those of the U-Net, or of a network of MONAI's."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from seg3d.config.section import Section
from seg3d.config.values import Channels

MONAI_NETWORKS = (
    "monai.AttentionUnet",
    "monai.BasicUNet",
    "monai.DynUNet",
    "monai.SegResNet",
    "monai.UNet",
    "monai.VNet",
)
PRESETS = ("plain", "resenc-m", "resenc-l", "resenc-xl", "auto")
_NETWORKS = ", ".join(("UNet3d", *MONAI_NETWORKS))


class UNet3dConfig(Section):
    name: Annotated[Literal["UNet3d"], _NETWORKS] = Field(
        "UNet3d", description="or one of MONAI's, see above"
    )
    preset: Literal[PRESETS] = Field(  # type: ignore[valid-type]
        "plain",
        description="plain convolutions, or nnU-Net's residual encoder, whose m, l and xl differ "
        "only in what patch.voxels: auto is; auto is the residual encoder where plan.memory has "
        "room for it beside the patches, else plain",
    )
    channels: Literal["auto"] | Channels = Field(
        "auto", description="per level; auto is 32, 64, 128, 256, 320, 320 for as many as fit"
    )
    deep_supervision: bool = Field(True, description="losses at the lower resolutions too")


class MonaiNetworkConfig(BaseModel):
    """A network of MONAI's; further keys are the arguments of its class."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: Annotated[Literal[MONAI_NETWORKS], _NETWORKS]  # type: ignore[valid-type]

    @property
    def arguments(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


def _network_kind(value: Any) -> str:
    name = value.get("name", "UNet3d") if isinstance(value, dict) else getattr(value, "name", "")
    return "monai" if str(name).startswith("monai.") else "UNet3d"


NetworkConfig = Annotated[
    Annotated[UNet3dConfig, Tag("UNet3d")] | Annotated[MonaiNetworkConfig, Tag("monai")],
    Discriminator(_network_kind),
]
