"""Inference in place, without concatenation and in slabs computes what the ordinary layers do."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from monai.networks.nets import AttentionUnet, BasicUNet, DynUNet, SegResNet, UNet, VNet
from torch import Tensor, nn

from seg3d.losses import heads
from seg3d.networks import UNet3d
from seg3d.probing import ProbedConv3d, probe_model

from .foreign import plain_conv_unet, residual_encoder_unet

WIDTHS = (8, 12, 16)
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "UNet3d": lambda: UNet3d(2, 3, WIDTHS, deep_supervision=True),
    "UNet3d, exact": lambda: UNet3d(2, 3, WIDTHS, "exact"),
    "UNet3d, published probes": lambda: UNet3d(2, 3, WIDTHS, "orthogonal"),
    "UNet3d, thick slices": lambda: UNet3d(
        2, 3, WIDTHS, kernels=[(1, 3, 3), (3, 3, 3), (3, 3, 3)],
        strides=[(1, 1, 1), (1, 2, 2), (2, 2, 2)],
    ),
    "DynUNet": lambda: DynUNet(3, 2, 3, [3] * 3, [1, 2, 2], [2] * 2, filters=WIDTHS),
    "DynUNet, residual, batch norm": lambda: DynUNet(
        3, 2, 3, [3] * 3, [1, 2, 2], [2] * 2, filters=WIDTHS, res_block=True, norm_name="batch"
    ),
    "UNet": lambda: UNet(3, 2, 3, WIDTHS, (2, 2), num_res_units=2),
    "UNet, group norm, ReLU": lambda: UNet(
        3, 2, 3, WIDTHS, (2, 2), norm=("group", {"num_groups": 2}), act="relu"
    ),
    "SegResNet": lambda: SegResNet(3, 8, 2, 3),
    "BasicUNet": lambda: BasicUNet(3, 2, 3, (8, 8, 12, 16, 16, 8)),
    "PlainConvUNet": lambda: plain_conv_unet(WIDTHS, 2),
    "ResidualEncoderUNet": lambda: residual_encoder_unet(WIDTHS, channels=2),
    "AttentionUnet": lambda: AttentionUnet(3, 2, 3, WIDTHS, (2, 2)),
    "VNet": lambda: VNet(3, 2, 3),
}  # fmt: skip


@pytest.fixture(autouse=True)
def many_slabs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Volumes of a test's size are cut too."""
    for module in ("slab_convolutions", "upsampled"):
        monkeypatch.setattr(f"seg3d.probing.{module}.slab_elements", lambda x: 1 << 14)
    monkeypatch.setattr("seg3d.probing.slabs.LEAST_ROWS", 2)
    monkeypatch.setattr("seg3d.probing.work_sizes.lot_elements", lambda x, total: 1 << 13)
    yield


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("size", [(32, 32, 48), (16, 48, 32)])
def test_scores_are_the_ordinary_ones_to_rounding(name: str, size: tuple[int, int, int]) -> None:
    network = trained(NETWORKS[name]()).eval()
    probe_if_foreign(network)
    image = torch.randn(2, 2, *size)
    before = image.clone()
    ordinary = heads(network(image))[0].detach()
    for without_gradients in (torch.no_grad, torch.inference_mode):
        with without_gradients():
            found = heads(network(image))[0]
        assert torch.equal(image, before)
        assert found.dtype == ordinary.dtype
        assert (found - ordinary).abs().max() <= 1e-5 * (ordinary.max() - ordinary.min())


@pytest.mark.parametrize("name", ["UNet3d", "DynUNet", "BasicUNet"])
def test_scores_under_autocast_are_as_near_as_its_rounding(name: str) -> None:
    network = trained(NETWORKS[name]()).eval()
    probe_if_foreign(network)
    image = torch.randn(1, 2, 32, 32, 32)
    exact = heads(network(image))[0].detach()
    with torch.autocast("cpu", torch.bfloat16):
        ordinary = heads(network(image))[0].detach()
        with torch.no_grad():
            found = heads(network(image))[0]
    assert found.dtype == ordinary.dtype
    assert (found - exact).square().mean() < 1.5 * (ordinary - exact).square().mean()


def test_who_looks_on_sees_what_it_would_have_seen() -> None:
    """Hooks keep what a layer puts out: nothing of it may be written over."""
    network = trained(UNet3d(2, 3, WIDTHS)).eval()
    image = torch.randn(1, 2, 32, 32, 32)
    seen: dict[str, list[Tensor]] = {}
    for name, module in network.named_modules():
        if isinstance(module, ProbedConv3d):
            module.register_forward_pre_hook(
                lambda module, inputs, name=name: seen.setdefault(name, []).append(inputs[0])
            )
    network(image)
    with torch.no_grad():
        network(image)
    twice = [pair for pair in seen.values() if len(pair) == 2]
    assert len(twice) > len(seen) / 2
    for ordinary, found in twice:
        torch.testing.assert_close(found, ordinary, rtol=1e-3, atol=1e-4)


def test_layers_alone_leave_their_input_as_it_is() -> None:
    convolution = ProbedConv3d(4, 4, 3, padding=1).eval()
    x = torch.randn(1, 4, 20, 16, 16)
    before = x.clone()
    with torch.no_grad():
        convolution(x)
    assert torch.equal(x, before)


def test_a_traced_network_takes_other_sizes() -> None:
    """What is traced is the ordinary layer, not its slabs."""
    network = UNet3d(1, 2, (4, 8)).eval()
    with torch.no_grad():
        traced = torch.jit.trace(network, torch.randn(1, 1, 16, 16, 16))
        other = torch.randn(1, 1, 32, 16, 48)
        torch.testing.assert_close(traced(other), network(other), rtol=1e-4, atol=1e-5)


def trained(network: nn.Module) -> nn.Module:
    """With weights and statistics that no layer leaves out."""
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
        for own in ("weight", "bias"):
            values = getattr(module, own, None)
            if isinstance(values, nn.Parameter) and values.dim() == 1:
                values.data.add_(0.2 * torch.randn(values.shape, generator=generator))
    return network


def probe_if_foreign(network: nn.Module) -> None:
    if not isinstance(network, UNet3d):
        probe_model(network)
