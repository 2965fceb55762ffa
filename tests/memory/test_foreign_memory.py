"""What probe_model makes of the memory of other networks, a bit per voxel in every layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from monai.networks.nets import AttentionUnet, BasicUNet, SegResNet
from torch import nn

from seg3d.memory import TrainingMemory, training_memory
from seg3d.probing import probe_model
from tests.probing.foreign import (
    NNUNET_WIDTHS,
    dynunet,
    monai_unet,
    plain_conv_unet,
    residual_encoder_unet,
)

SHAPE = (2, 1, 128, 128, 128)
MONAI_WIDTHS = (16, 32, 64, 128, 256)
# The part of each limit by which a figure may be above it.
TOLERANCE = 0.05


@dataclass(frozen=True)
class Case:
    """Shares of plain training, in float32 and bf16 by autocast, and of plain inference."""

    make: Callable[[], nn.Module]
    training: tuple[float, float]
    inference: tuple[float, float]


CASES = {
    "PlainConvUNet": Case(lambda: plain_conv_unet(NNUNET_WIDTHS), (0.13, 0.17), (0.25, 0.29)),
    "ResidualEncoderUNet": Case(
        lambda: residual_encoder_unet(NNUNET_WIDTHS), (0.16, 0.23), (0.42, 0.64)
    ),
    "DynUNet": Case(lambda: dynunet(NNUNET_WIDTHS), (0.13, 0.17), (0.31, 0.35)),
    "DynUNet, residual": Case(lambda: dynunet(NNUNET_WIDTHS, True), (0.15, 0.18), (0.41, 0.44)),
    # Here the weights, and slabs of 32 MiB that keep a GPU busy, are a large part.
    "UNet": Case(lambda: monai_unet(NNUNET_WIDTHS, 2), (0.297, 0.373), (0.68, 0.67)),
    # And these slabs are as large as the largest tensors.
    "UNet of MONAI's widths": Case(lambda: monai_unet(MONAI_WIDTHS, 0), (0.44, 0.54), (0.81, 0.88)),
    "BasicUNet": Case(lambda: BasicUNet(3, 1, 3), (0.18, 0.19), (0.34, 0.37)),
    "SegResNet": Case(lambda: SegResNet(3, 8, 1, 3), (0.22, 0.26), (0.60, 0.71)),
    "AttentionUnet": Case(
        lambda: AttentionUnet(3, 1, 3, MONAI_WIDTHS, (2, 2, 2, 2)), (0.33, 0.36), (0.39, 0.41)
    ),
}
# Those whose training takes no more than their own plain inference.
BELOW_INFERENCE = {"PlainConvUNet", "ResidualEncoderUNet", "DynUNet", "DynUNet, residual", "UNet"}


@pytest.mark.parametrize("amp", [False, True], ids=["float32", "bfloat16 by autocast"])
@pytest.mark.parametrize("name", CASES)
def test_memory(name: str, amp: bool) -> None:
    case = CASES[name]
    plain, probed = measured(case.make, amp, False), measured(case.make, amp, True)
    assert_at_most(case.training[amp], probed.peak, plain.peak)
    assert_at_most(case.inference[amp], probed.inference_peak, plain.inference_peak)
    if name in BELOW_INFERENCE:
        assert_at_most(1, probed.peak, plain.inference_peak)


def measured(make: Callable[[], nn.Module], amp: bool, probing: bool) -> TrainingMemory:
    with torch.device("meta"):
        network = make()
    if probing:
        probe_model(network, bits=1)
    dtype = torch.bfloat16 if amp else torch.float32
    return training_memory(network, SHAPE, dtype, amp=amp)


def assert_at_most(limit: float, measured: int, reference: int) -> None:
    ratio = measured / reference
    assert ratio <= limit * (1 + TOLERANCE), f"{ratio:.4f} instead of at most {limit:.4f}"
