"""The residual encoder: a training step beside the plain one, and beside nnU-Net's own network.

nnU-Net's widths and blocks, a bit per voxel in every layer. The 102 million weights and their
gradients are 0.76 GiB however large the cube is, so that the share falls with its size.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet
from torch import nn

from seg3d.benchmarks.baselines import CHANNELS
from seg3d.memory import inference_memory, step_memory
from seg3d.networks import UNet3d
from seg3d.probing import probe_model

BLOCKS = (1, 3, 4, 6, 6, 6)
CLASSES = 3
# The part of each limit by which a figure may be above it.
TOLERANCE = 0.05


@dataclass(frozen=True)
class Shares:
    """Limits of the peak of training, as parts of other peaks.

    Attributes:
        training: of plain training.
        without_weights: of the same, both without the weights and their gradients.
        converted: of training with nnU-Net's own network and probed layers.
        inference: of plain inference.
    """

    dtype: torch.dtype
    training: float
    without_weights: float
    converted: float
    inference: float


SHARES = [
    Shares(torch.float32, 0.195, 0.126, 0.93, 0.65),
    # 0.134 of it are the weights and their gradients.
    Shares(torch.bfloat16, 0.27, 0.146, 0.82, 0.78),
]


def ours(sketch: str = "rotated") -> nn.Module:
    with torch.device("meta"):
        return UNet3d(1, CLASSES, CHANNELS, sketch, blocks=BLOCKS)


def theirs() -> nn.Module:
    with torch.device("meta"):
        return ResidualEncoderUNet(
            1,
            len(CHANNELS),
            CHANNELS,
            nn.Conv3d,
            3,
            [1, *[2] * (len(CHANNELS) - 1)],
            BLOCKS,
            CLASSES,
            1,
            conv_bias=True,
            norm_op=nn.InstanceNorm3d,
            norm_op_kwargs={"eps": 1e-5, "affine": True},
            nonlin=nn.LeakyReLU,
            nonlin_kwargs={"inplace": True},
        )


def assert_at_most(limit: float, measured: int, reference: int) -> None:
    ratio = measured / reference
    assert ratio <= limit * (1 + TOLERANCE), f"{ratio:.4f} instead of at most {limit:.4f}"


@pytest.mark.parametrize("shares", SHARES, ids=lambda shares: str(shares.dtype))
def test_a_step_beside_others(shares: Shares) -> None:
    shape, amp = (2, 1, 128, 128, 128), shares.dtype != torch.float32
    step = step_memory(ours(), shape, shares.dtype, amp=amp)
    plain = step_memory(ours("exact"), shape, shares.dtype, amp=amp)
    network = theirs()
    inference = inference_memory(network, shape, shares.dtype, amp=amp)
    probe_model(network)
    converted = step_memory(network, shape, shares.dtype, amp=amp)
    assert_at_most(shares.training, step.peak, plain.peak)
    # The plain step's peak is at its beginning, when there are no gradients yet.
    without = step.peak - 2 * step.parameters, plain.peak - plain.parameters
    assert_at_most(shares.without_weights, *without)
    assert_at_most(shares.converted, step.peak, converted.peak)
    assert_at_most(shares.inference, step.peak, inference)
    assert_at_most(1 / 10, step.saved, plain.saved)


def test_a_fifth_of_plain_training_on_the_patch_of_resenc_l() -> None:
    peaks = [
        step_memory(network, (2, 1, 192, 192, 192), torch.bfloat16, amp=True).peak
        for network in (ours(), ours("exact"))
    ]
    assert_at_most(0.18, *peaks)


def test_the_plain_network_takes_what_nnunets_takes() -> None:
    shape = (2, 1, 128, 128, 128)
    peaks = [step_memory(network, shape).peak for network in (ours("exact"), theirs())]
    assert peaks[0] == pytest.approx(peaks[1], rel=0.001)
