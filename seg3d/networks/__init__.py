"""Networks: seg3d's own U-Net, and MONAI's by name."""

from seg3d.networks.factory import build_network, heads
from seg3d.networks.unet3d import UNet3d

__all__ = ["UNet3d", "build_network", "heads"]
