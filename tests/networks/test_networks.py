"""Networks: shapes, deep supervision, exchange of weights, MONAI's by name."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from seg3d.common.errors import UserError
from seg3d.config import MONAI_NETWORKS
from seg3d.losses import DiceCrossEntropy, heads
from seg3d.networks import UNet3d
from seg3d.plan import ChannelIntensity, Plan, build_network
from seg3d.probing import SKETCHES, ProbedConv3d
from tests.plans import small_config, small_plan

ANISOTROPIC: dict[str, Any] = {
    "channels": (3, 4, 6),
    "kernels": [(3, 3, 1), (3, 3, 3), (1, 3, 3)],
    "strides": [(1, 1, 1), (2, 2, 1), (1, 2, 2)],
}


def image(channels: int, *size: int) -> Tensor:
    return torch.randn(2, channels, *size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("sketch", SKETCHES)
def test_shapes_with_anisotropic_kernels_and_strides(sketch: str) -> None:
    network = UNet3d(2, 5, probing=sketch, deep_supervision=True, rank=4, **ANISOTROPIC)
    scores = network(image(2, 6, 8, 10))
    assert [tuple(one.shape) for one in scores] == [(2, 5, 6, 8, 10), (2, 5, 3, 4, 10)]
    sum(one.square().mean() for one in scores).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        # An instance norm takes back whatever the bias before it adds.
        assert parameter.grad.abs().max() > 0, name


def test_a_network_of_monais_is_not_streamed() -> None:
    settings = small_config(network={"name": "monai.SegResNet"}, probing={"streamed": True})
    with pytest.raises(UserError, match="only for seg3d's own network"):
        build_network(settings, small_plan())


def test_one_tensor_unless_training_with_deep_supervision() -> None:
    x = image(1, 8, 8, 8)
    for deep_supervision in (True, False):
        network = UNet3d(1, 2, (3, 4, 5), deep_supervision=deep_supervision)
        assert isinstance(network.train()(x), list) == deep_supervision
        output = network.eval()(x)
        assert isinstance(output, Tensor) and output.shape == (2, 2, 8, 8, 8)
        assert isinstance(network.train()(x), list) == deep_supervision


def test_weights_are_exchanged_between_sketches_and_outputs_are_the_same() -> None:
    torch.manual_seed(0)
    exact = UNet3d(1, 3, probing="exact", deep_supervision=True, **ANISOTROPIC)
    x = image(1, 8, 8, 4)
    for sketch in SKETCHES:
        other = UNet3d(1, 3, probing=sketch, deep_supervision=True, rank=4, **ANISOTROPIC)
        other.load_state_dict(exact.state_dict())
        for one, two in zip(exact(x), other(x), strict=True):
            # Training puts the decoder's sums together in another order.
            torch.testing.assert_close(one, two)
        assert torch.equal(exact.eval()(x), other.eval()(x))
        exact.load_state_dict(other.state_dict())
        exact.train()


def unet_parameters(
    c_in: int, c_out: int, channels: tuple[int, ...], kernel: int, deep_supervision: bool
) -> int:
    """nnU-Net's PlainConvUNet: two blocks of conv (bias), norm (affine) per stage; strides of 2."""

    def block(a: int, b: int) -> int:
        return a * b * kernel + b + 2 * b

    total, above = 0, c_in
    for width in channels:
        total += block(above, width) + block(width, width)
        above = width
    for level in range(len(channels) - 1):
        fine, coarse = channels[level], channels[level + 1]
        total += coarse * fine * 8 + fine + block(2 * fine, fine) + block(fine, fine)
        if level == 0 or deep_supervision:
            total += fine * c_out + c_out
    return total


@pytest.mark.parametrize("deep_supervision", [True, False])
def test_number_of_parameters_is_that_of_nnunets_plain_unet(deep_supervision: bool) -> None:
    with torch.device("meta"):
        network = UNet3d(1, 3, deep_supervision=deep_supervision)
    count = sum(parameter.numel() for parameter in network.parameters())
    channels = (32, 64, 128, 256, 320, 320)
    assert count == unet_parameters(1, 3, channels, 27, deep_supervision)
    assert 30e6 < count < 32e6


def test_initialisation_keeps_the_scale_of_the_signal() -> None:
    torch.manual_seed(0)
    network = UNet3d(1, 4, (8, 16, 32))
    with torch.no_grad():
        assert 0.2 < network(image(1, 16, 16, 16)).std() < 5
    biases = [one.bias for one in network.modules() if isinstance(one, ProbedConv3d)]
    assert all(bias is not None and (bias == 0).all() for bias in biases)


@pytest.mark.parametrize("size", [(7, 8, 8), (8, 6, 8), (8, 8, 9)])
def test_sizes_that_do_not_fit(size: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"multiples of \[4, 4, 4\]"):
        UNet3d(1, 2, (2, 3, 4))(image(1, *size))


@pytest.mark.parametrize(
    "changes",
    [
        {"channels": (4,)},
        {"kernels": [(3, 3, 3)]},
        {"strides": [(1, 1, 1), (2, 2, 2)]},
        {"blocks": (1, 3)},
    ],
)
def test_numbers_of_levels_that_disagree(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="one entry for each"):
        UNet3d(1, 2, **{"channels": (2, 3, 4)} | changes)


def test_heads_of_every_kind_of_output() -> None:
    one = torch.zeros(2, 3, 4, 4, 4)
    assert [head.shape for head in heads(one)] == [one.shape]
    assert len(heads([one, one])) == 2 and len(heads((one, one))) == 2
    assert [head.shape for head in heads(torch.zeros(2, 5, 3, 4, 4, 4))] == [one.shape] * 5


# --- from a plan -------------------------------------------------------------------------------


def plan_for(**changes: Any) -> Plan:
    two = [ChannelIntensity(name=one, kind="none") for one in ("T1", "T2")]
    given: dict[str, Any] = {
        "channels": two,
        "patch_size": (16, 16, 16),
        "features": [4, 8, 8],
        "kernels": [(3, 3, 3)] * 3,
        "strides": [(1, 1, 1), (2, 2, 2), (2, 2, 2)],
    }
    return small_plan(**given | changes)


def training_step(network: nn.Module, plan: Plan) -> list[Tensor]:
    torch.manual_seed(1)
    scores = heads(network(image(len(plan.channels), *plan.patch_size)))
    target = torch.randint(-1, len(plan.classes), (2, 1, *plan.patch_size))
    DiceCrossEntropy()(scores, target)["loss"].backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name
    with_gradient = [one for one in network.parameters() if one.grad is not None]
    assert sum(one.numel() for one in with_gradient) > 0.8 * sum(
        one.numel() for one in network.parameters()
    )
    return scores


def test_unet3d_from_a_plan() -> None:
    plan = plan_for()
    config = small_config(probing={"sketch": "orthogonal", "rank": 3})
    network = build_network(config, plan)
    assert isinstance(network, UNet3d) and network.deep_supervision
    probed = [one for one in network.modules() if isinstance(one, ProbedConv3d)]
    assert [one.sketch for one in probed].count("exact") == 1
    assert {one.rank for one in probed} == {3}
    training_step(network, plan)


def test_residual_blocks_under_autocast_on_a_cpu() -> None:
    """Where PyTorch has no means over windows in bf16; trained and not."""
    torch.manual_seed(0)
    network = UNet3d(1, 2, (4, 8), blocks=(1, 1))
    x = torch.randn(1, 1, 16, 16, 16)
    for mode in (network.train, network.eval):
        mode()
        with torch.autocast("cpu", torch.bfloat16):
            scores = heads(network(x))[0]
        scores.float().square().mean().backward()
        with torch.no_grad():
            torch.testing.assert_close(scores.float(), heads(network(x))[0], rtol=0.1, atol=0.1)
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_the_plan_has_the_residual_blocks() -> None:
    """Not the config: what is stored with the weights is the plan."""
    plan = plan_for(blocks=[2, 1, 1])
    network = build_network(small_config(), Plan.model_validate(plan.model_dump(mode="json")))
    kinds = [[type(block).__name__ for block in stage] for stage in network.encoder]
    residual = "ResidualBlock"
    assert kinds == [["ConvBlock", residual, residual], [residual], [residual]]
    training_step(network, plan)


@pytest.mark.parametrize("name", MONAI_NETWORKS)
@pytest.mark.parametrize("anisotropic", [False, True])
def test_monai_networks_from_a_plan(name: str, anisotropic: bool) -> None:
    # BasicUNet halves four times, and its norm needs more than one voxel at the end.
    size = (32, 16, 16) if name == "monai.BasicUNet" else (16, 16, 16)
    plan = plan_for(patch_size=size)
    if anisotropic and name in ("monai.DynUNet", "monai.UNet", "monai.AttentionUnet"):
        plan = plan_for(
            patch_size=(16, 16, 6),
            kernels=[(3, 3, 1), (3, 3, 3), (3, 3, 3)],
            strides=[(1, 1, 1), (2, 2, 1), (2, 2, 2)],
        )
    config = small_config(network={"name": name})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        network = build_network(config, plan)
    scores = training_step(network, plan)
    assert scores[0].shape == (2, 3, *plan.patch_size)
    probed = [one for one in network.modules() if isinstance(one, ProbedConv3d)]
    assert probed and {one.sketch for one in probed} == {"rotated"}
    network.eval()
    with torch.inference_mode():
        assert heads(network(image(2, *plan.patch_size)))[0].shape == scores[0].shape


def test_building_a_monai_network_draws_its_weights_only() -> None:
    """The trial with the patch size takes no random numbers: the seed alone gives the weights."""
    from monai.networks.nets import SegResNet

    plan = plan_for()
    torch.manual_seed(3)
    ours = build_network(small_config(network={"name": "monai.SegResNet"}), plan)
    torch.manual_seed(3)
    theirs = SegResNet(spatial_dims=3, in_channels=2, out_channels=3)
    for one, two in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one, two)


def test_dynunet_with_deep_supervision() -> None:
    plan = plan_for(
        kernels=[(3, 3, 3)] * 4, strides=[(1, 1, 1)] + [(2, 2, 2)] * 3, features=[4, 8, 8, 8]
    )
    config = small_config(
        network={"name": "monai.DynUNet", "deep_supervision": True, "deep_supr_num": 2}
    )
    network = build_network(config, plan)
    scores = training_step(network, plan)
    assert [tuple(one.shape) for one in scores] == [(2, 3, 16, 16, 16)] * 3
    assert len(heads(network.eval()(image(2, 16, 16, 16)))) == 1


def test_arguments_reach_the_network() -> None:
    config = small_config(network={"name": "monai.SegResNet", "init_filters": 16})
    assert build_network(config, plan_for()).init_filters == 16


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({"name": "monai.SegResNet", "filters": 16}, "network.filters is not an argument"),
        ({"name": "monai.SegResNet", "in_channels": 1}, "network.in_channels is not an argument"),
        ({"name": "monai.SegResNet", "norm": "NOTHING"}, "change patch.size or the arguments"),
        ({"name": "monai.SegResNet", "init_filters": "many"}, "monai.SegResNet cannot be built"),
        ({"name": "monai.UNet", "channels": [4, 8, 8, 8]}, "monai.UNet cannot be built"),
    ],
)
def test_arguments_that_do_not_fit(network: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_network(small_config(network=network), plan_for())


@pytest.mark.parametrize("name", MONAI_NETWORKS)
def test_patch_sizes_that_do_not_fit(name: str) -> None:
    """Either the network takes 15 voxels, and gives back 15, or the message names patch.size."""
    plan = plan_for(patch_size=(15, 16, 17))
    config = small_config(network={"name": name})
    try:
        network = build_network(config, plan)
    except UserError as error:
        assert "patch.size" in str(error) and name in str(error)
    else:
        with torch.no_grad():
            assert heads(network(image(2, 15, 16, 17)))[0].shape[2:] == (15, 16, 17)
