"""UNet3d beside nnU-Net's own networks: the same function, weight by weight."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from torch import Tensor, nn

from seg3d.losses import heads
from seg3d.networks import UNet3d
from seg3d.nnunet.network import Shape, their_name
from seg3d.probing import set_bits

CHANNELS = (3, 4, 6)
BLOCKS = (1, 3, 2)
SHAPES: dict[str, dict[str, Any]] = {
    "isotropic": {"kernels": [(3, 3, 3)] * 3, "strides": [(1, 1, 1), (2, 2, 2), (2, 2, 2)]},
    "anisotropic": {
        "kernels": [(1, 3, 3), (3, 3, 3), (3, 1, 3)],
        "strides": [(1, 1, 1), (1, 2, 2), (2, 2, 1)],
    },
    # Channels that change where no stride is.
    "flat": {"kernels": [(3, 3, 3)] * 3, "strides": [(1, 1, 1), (1, 1, 1), (2, 2, 2)]},
}


def theirs(residual: bool, kernels: list[Any], strides: list[Any]) -> nn.Module:
    blocks = (
        {"n_blocks_per_stage": BLOCKS, "n_conv_per_stage_decoder": 1}
        if residual
        else {"n_conv_per_stage": 2, "n_conv_per_stage_decoder": 2}
    )
    return (ResidualEncoderUNet if residual else PlainConvUNet)(
        2,
        len(CHANNELS),
        CHANNELS,
        nn.Conv3d,
        kernels,
        strides,
        num_classes=3,
        conv_bias=True,
        norm_op=nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        deep_supervision=True,
        **blocks,
    )


def named(residual: bool, shape: str) -> Shape:
    return Shape(
        list(CHANNELS),
        SHAPES[shape]["kernels"],
        SHAPES[shape]["strides"],
        list(BLOCKS) if residual else None,
    )


def pair(residual: bool, shape: str, bits: Any = 1) -> tuple[nn.Module, UNet3d, dict[str, str]]:
    """Theirs and ours with the same random weights in float64, and their names for ours."""
    torch.manual_seed(3)
    other = theirs(residual, **SHAPES[shape]).double()
    for weight in other.parameters():
        nn.init.normal_(weight, std=0.5)
    blocks = BLOCKS if residual else None
    network = UNet3d(2, 3, CHANNELS, deep_supervision=True, blocks=blocks, **SHAPES[shape])
    set_bits(network.double(), bits)
    names = {name: their_name(name, named(residual, shape)) for name in network.state_dict()}
    state = other.state_dict()
    network.load_state_dict({name: state[names[name]] for name in names})
    assert len(names) == len(set(names.values())) == len(list(other.parameters()))
    return other, network, names


def image() -> Tensor:
    return torch.randn(2, 2, 8, 16, 12, dtype=torch.float64)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("residual", [False, True], ids=["plain", "residual"])
def test_scores_are_those_of_nnunet(residual: bool, shape: str) -> None:
    other, network, _ = pair(residual, shape)
    x = image()
    ours, expected = heads(network(x)), heads(other(x))
    assert len(ours) == len(expected) == 2
    for one, two in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-10)
    network.eval(), other.eval()
    torch.testing.assert_close(network(x), expected[0], rtol=1e-10, atol=1e-10)
    with torch.no_grad():
        torch.testing.assert_close(network(x), expected[0], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("residual", [False, True], ids=["plain", "residual"])
def test_with_exact_bits_gradients_are_those_of_nnunet(residual: bool, shape: str) -> None:
    other, network, names = pair(residual, shape, "exact")
    x = image()
    gradients = []
    for one in (network, other):
        given = x.clone().requires_grad_()
        sum(scores.square().mean() + scores.sin().mean() for scores in heads(one(given))).backward()  # type: ignore[union-attr]
        gradients.append(given.grad)
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-10)
    expected = dict(other.named_parameters())
    for name, weight in network.named_parameters():
        # The gradients of biases in front of a norm are nothing but rounding.
        torch.testing.assert_close(weight.grad, expected[names[name]].grad, rtol=1e-8, atol=1e-10)


def test_untrained_blocks_are_what_goes_past_them_as_in_nnunet() -> None:
    other = theirs(True, **SHAPES["isotropic"])
    other.apply(other.initialize)
    network = UNet3d(2, 3, CHANNELS, deep_supervision=True, blocks=BLOCKS)
    state, zeros = other.state_dict(), 0
    for name, weight in network.state_dict().items():
        expected = state[their_name(name, named(True, "isotropic"))]
        if "norm" in name:
            assert torch.equal(weight, expected), name
            zeros += name.endswith("second.norm.weight") and bool((weight == 0).all())
        elif name.endswith("weight") and weight.numel() > 100:
            assert weight.std().item() == pytest.approx(expected.std().item(), rel=0.3)
    assert zeros == sum(BLOCKS)
