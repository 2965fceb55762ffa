"""Networks: seg3d's own U-Net, and MONAI's by name."""

from seg3d.networks.monai import monai_network
from seg3d.networks.unet3d import UNet3d

__all__ = ["UNet3d", "monai_network"]
