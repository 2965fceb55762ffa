"""probe_model on MONAI's networks, and on everything that it must leave alone."""

from __future__ import annotations

import copy

import pytest
import torch
from monai.networks.nets import BasicUNet, DynUNet, SegResNet, UNet
from torch import nn
from torch.nn.utils import parametrizations, weight_norm

from seg3d.errors import UserError
from seg3d.probing import ProbedConv3d, ProbedConvTranspose3d, probe_model, set_probe_step

NETWORKS = {
    "BasicUNet": lambda: BasicUNet(3, 1, 2, features=(4, 4, 4, 8, 8, 4)),
    "SegResNet": lambda: SegResNet(
        init_filters=8, out_channels=2, blocks_down=(1, 1), blocks_up=(1,)
    ),
    "UNet": lambda: UNet(3, 1, 2, channels=(4, 8), strides=(2,), num_res_units=1),
    "DynUNet": lambda: DynUNet(
        3, 1, 2, [3, 3, 3], [1, 2, 2], [2, 2], filters=[4, 8, 8], deep_supervision=True
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_monai_networks(name: str) -> None:
    network = NETWORKS[name]()
    probed = copy.deepcopy(network)
    report = probe_model(probed)
    convolutions = [
        key for key, m in network.named_modules() if type(m) in (nn.Conv3d, nn.ConvTranspose3d)
    ]
    assert list(report.converted) == convolutions
    assert not report.left
    assert list(probed.state_dict()) == list(network.state_dict())
    probed.load_state_dict(network.state_dict())
    network.load_state_dict(probed.state_dict())

    x = torch.randn(1, 1, 16, 16, 32)
    outputs = [net.train()(x) for net in (network, probed)]
    assert torch.equal(outputs[0], outputs[1])
    for output in outputs:
        output.square().mean().backward()
    pairs = zip(network.parameters(), probed.parameters(), strict=True)
    for exact, estimate in pairs:
        assert (exact.grad is None) == (estimate.grad is None)
        assert estimate.grad is None or estimate.grad.isfinite().all()
    with torch.no_grad():
        assert torch.equal(network.eval()(x), probed.eval()(x))


def test_layers_keep_everything_they_had() -> None:
    network = nn.Sequential(nn.Conv3d(1, 2, 3, dtype=torch.float64), nn.ConvTranspose3d(2, 1, 2))
    first, second = network
    parameters = list(network.parameters())
    called = []
    first.register_forward_hook(lambda *_: called.append("hook"))
    second.eval()
    report = probe_model(network, "multichannel", rank=7)
    assert report.converted == {"0": "multichannel", "1": "multichannel"}
    assert network[0] is first and network[1] is second
    assert type(first) is ProbedConv3d and type(second) is ProbedConvTranspose3d
    assert first.rank == 7
    assert first.training and not second.training
    assert all(a is b for a, b in zip(parameters, network.parameters(), strict=True))
    first(torch.randn(1, 1, 3, 4, 5, dtype=torch.float64))
    assert called == ["hook"]


def test_what_is_left_is_reported_with_the_reason() -> None:
    class Strange(nn.Conv3d):
        pass

    frozen = nn.Conv3d(1, 1, 1)
    frozen.weight.requires_grad_(False)
    left = {
        "subclass": Strange(1, 1, 1),
        "parametrized": parametrizations.weight_norm(nn.Conv3d(1, 1, 1)),
        "normed": weight_norm(nn.Conv3d(1, 1, 1)),
        "frozen": frozen,
        "flat": nn.Conv2d(1, 1, 1),
        "line": nn.ConvTranspose1d(1, 1, 1),
        "linear": nn.Linear(1, 1),
        "lazy": nn.LazyConv3d(1, 1),
    }
    network = nn.ModuleDict({**left, "good": nn.Conv3d(1, 1, 1), "norm": nn.InstanceNorm3d(1)})
    classes = {name: type(layer) for name, layer in left.items()}
    report = probe_model(network)
    assert report.converted == {"good": "onebit"}
    assert {name: type(network[name]) for name in left} == classes
    assert set(report.left) == set(left)
    for name, word in (
        ("subclass", "unknown kind"),
        ("parametrized", "computed from other"),
        ("normed", "computed from other"),
        ("frozen", "frozen"),
        ("flat", "Conv2d is not 3D"),
        ("line", "ConvTranspose1d is not 3D"),
        ("linear", "Linear is not 3D"),
        ("lazy", "forward pass first"),
    ):
        assert word in report.left[name]
    table = str(report)
    assert table.startswith("1 layers probed, 8 left as they were\n")
    assert "\ngood          probed  onebit\n" in table


def test_a_layer_under_two_names_stays_one_layer() -> None:
    shared = nn.Conv3d(1, 1, 3, padding=1)
    network = nn.Sequential(shared, nn.ReLU(), shared)
    report = probe_model(network)
    assert network[0] is network[2]
    assert report.converted == {"0": "onebit"}
    network(torch.randn(1, 1, 3, 4, 5)).sum().backward()
    assert network[0].probe_key.call == 2


def test_a_single_layer_and_a_change_of_mind() -> None:
    layer = nn.Conv3d(1, 1, 3)
    assert probe_model(layer).converted == {"": "onebit"}
    assert probe_model(layer, "independent", 5).converted == {"": "independent"}
    assert type(layer) is ProbedConv3d
    assert (layer.sketch, layer.rank) == ("independent", 5)
    assert probe_model(layer, "exact").converted == {"": "exact"}
    x = torch.randn(1, 1, 4, 4, 4)
    before = layer.probe_key
    layer(x).sum().backward()
    assert layer.probe_key == before


def test_a_bad_name_changes_nothing() -> None:
    network = nn.Sequential(nn.Conv3d(1, 1, 1))
    with pytest.raises(UserError, match="(?s)given: hadamard.*legal: rotated, onebit, 2bit"):
        probe_model(network, "hadamard")
    assert type(network[0]) is nn.Conv3d


def test_set_probe_step_numbers_the_layers() -> None:
    network = nn.Sequential(nn.Conv3d(1, 1, 1), nn.ReLU(), nn.Sequential(nn.Conv3d(1, 1, 1)))
    probe_model(network)
    set_probe_step(network, seed=2**64 + 5, step=9)
    keys = [layer.probe_key for layer in (network[0], network[2][0])]
    assert [(key.seed, key.step, key.layer, key.call) for key in keys] == [
        (5, 9, 0, 0),
        (5, 9, 1, 0),
    ]
