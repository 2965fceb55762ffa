"""Networks of MONAI and nnU-Net as the tests build them."""

from __future__ import annotations

from typing import Any

from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from dynamic_network_architectures.building_blocks.residual import BottleneckD
from monai.networks.nets import DynUNet, UNet
from torch import nn

NNUNET_WIDTHS = (32, 64, 128, 256, 320, 320)


def dynunet(widths: tuple[int, ...], residual: bool = False) -> nn.Module:
    levels = len(widths)
    return DynUNet(
        3,
        1,
        3,
        [3] * levels,
        [1] + [2] * (levels - 1),
        [2] * (levels - 1),
        filters=widths,
        deep_supervision=True,
        deep_supr_num=levels - 2,
        res_block=residual,
    )


def nnunet(
    kind: type[nn.Module], widths: tuple[int, ...], channels: int = 1, **blocks: Any
) -> nn.Module:
    levels = len(widths)
    return kind(
        channels,
        levels,
        widths,
        nn.Conv3d,
        3,
        [1] + [2] * (levels - 1),
        num_classes=3,
        conv_bias=True,
        norm_op=nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        deep_supervision=True,
        **blocks,
    )


def plain_conv_unet(widths: tuple[int, ...], channels: int = 1) -> nn.Module:
    blocks = {"n_conv_per_stage": 2, "n_conv_per_stage_decoder": 2}
    return nnunet(PlainConvUNet, widths, channels, **blocks)


def residual_encoder_unet(widths: tuple[int, ...], blocks: int = 2, **more: Any) -> nn.Module:
    return nnunet(
        ResidualEncoderUNet,
        widths,
        n_blocks_per_stage=blocks,
        n_conv_per_stage_decoder=1,
        **more,
    )


def bottleneck_unet(widths: tuple[int, ...]) -> nn.Module:
    narrow = [width // 2 for width in widths]
    return residual_encoder_unet(widths, block=BottleneckD, bottleneck_channels=narrow)


def monai_unet(widths: tuple[int, ...], residual_units: int) -> nn.Module:
    return UNet(3, 1, 3, widths, [2] * (len(widths) - 1), num_res_units=residual_units)
