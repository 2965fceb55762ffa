"""Frozen weights: nothing is kept for them, and the other gradients are what they were."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
import torch
from torch import Tensor, nn

from seg3d.losses import DiceCrossEntropy, unscored_heads
from seg3d.memory import training_memory
from seg3d.networks import UNet3d
from seg3d.probing import ProbedConv3d, probe_model, set_bits, set_probe_step
from seg3d.probing.records import NoRecord

CHANNELS = (4, 8, 8)


def freeze(network: nn.Module, *patterns: str) -> None:
    for name, parameter in network.named_parameters():
        if any(fnmatchcase(name, pattern) for pattern in patterns):
            parameter.requires_grad_(False)


def build(sketch: str, blocks: tuple[int, ...] | None = None) -> UNet3d:
    torch.manual_seed(0)
    network = UNet3d(1, 3, CHANNELS, sketch, deep_supervision=True, blocks=blocks)
    for parameter in network.parameters():
        # So that the residual blocks, which begin with zeros, add something.
        torch.nn.init.normal_(parameter, std=0.2)
    if sketch == "rotated":
        set_bits(network, "exact")
    return network.double()


def gradients(network: nn.Module, shape: tuple[int, ...]) -> tuple[Tensor, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(shape, generator=generator, dtype=torch.float64)
    target = torch.randint(3, (shape[0], 1, *shape[2:]), generator=generator)
    set_probe_step(network, 0, 0)
    loss = DiceCrossEntropy()(unscored_heads(network.train(), image), target)["loss"]
    loss.backward()
    found = {name: one.grad for name, one in network.named_parameters() if one.grad is not None}
    return loss.detach(), found


PATTERNS = [
    ["encoder.*"],
    ["encoder.0.*"],
    ["encoder.1.*", "decoder.0.*"],
    ["decoder.*", "up.*"],
    ["up.0.*", "decoder.0.0.*"],
    ["up.0.*"],
    ["decoder.0.0.conv.*"],
    ["*.conv.weight"],
    ["*.norm.*"],
    ["heads.*"],
    ["encoder.0.0.conv.*"],
]


@pytest.mark.parametrize("patterns", PATTERNS, ids=" ".join)
@pytest.mark.parametrize("blocks", [None, (1, 1, 1)])
def test_the_other_gradients_are_exact(
    patterns: list[str], blocks: tuple[int, ...] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything kept: what the ordinary network finds; in slabs too."""
    for room in ("seg3d.probing.upsampled", "seg3d.probing.slab_convolutions"):
        monkeypatch.setattr(f"{room}.slab_elements", lambda x: 4096)
    plain, probed = build("exact", blocks), build("rotated", blocks)
    for network in (plain, probed):
        freeze(network, *patterns)
    loss, expected = gradients(plain, (2, 1, 16, 12, 8))
    same, found = gradients(probed, (2, 1, 16, 12, 8))
    assert same.item() == pytest.approx(loss.item(), rel=1e-10)
    assert found.keys() == expected.keys()
    assert 0 < len(found) < len([*probed.parameters()])
    largest = max(one.abs().max() for one in expected.values())
    for name, one in expected.items():
        torch.testing.assert_close(found[name], one, rtol=1e-7, atol=1e-9 * float(largest))


def saved(network: UNet3d) -> dict[str, int]:
    found = training_memory(network, (1, 1, 64, 64, 64), loss=DiceCrossEntropy())
    return {name: size for name, size in found.saved_by_layer.items() if name != "loss"}


@pytest.mark.parametrize("blocks", [None, (1, 2, 2)])
def test_a_frozen_encoder_keeps_nothing(blocks: tuple[int, ...] | None) -> None:
    network = UNet3d(1, 3, (16, 32, 64), deep_supervision=True, blocks=blocks)
    before, whole = saved(network), training_memory(network, (1, 1, 64, 64, 64))
    freeze(network, "encoder.*")
    after, lean = saved(network), training_memory(network, (1, 1, 64, 64, 64))
    assert sum(size for name, size in before.items() if name.startswith("encoder")) > 0
    assert sum(size for name, size in after.items() if name.startswith("encoder")) == 0
    # The decoder keeps a sketch of every skip connection, which was the encoder's before.
    assert lean.saved < whole.saved
    assert lean.peak < whole.peak


def test_a_convolution_that_gradients_pass_keeps_nothing_and_torchs_keeps_its_input() -> None:
    x = torch.randn(2, 4, 8, 8, 8, requires_grad=True)
    kept: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    def bytes_kept(layer: nn.Module) -> int:
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            layer(x).sum()
        own = {one.data_ptr() for one in layer.parameters()}
        return sum(one.nbytes for one in kept if one.data_ptr() not in own)

    layer = nn.Conv3d(4, 4, 3, padding=1).requires_grad_(False)
    assert bytes_kept(layer) == x.nbytes
    assert probe_model(layer).converted == {"": "rotated"}
    assert bytes_kept(layer) == 0
    (exact,) = torch.autograd.grad(nn.Conv3d.forward(layer, x).square().sum(), x)
    (found,) = torch.autograd.grad(layer(x).square().sum(), x)
    torch.testing.assert_close(found, exact)


def test_nothing_is_drawn_for_what_is_frozen() -> None:
    layer = ProbedConv3d(2, 2, 3).requires_grad_(False)
    before = layer.probe_key
    y = layer(torch.randn(1, 2, 8, 8, 8, requires_grad=True))
    y.sum().backward()
    assert layer.probe_key == before and layer.sketched is None
    assert NoRecord().tensors == ()


def test_a_network_of_frozen_layers_alone_has_no_graph() -> None:
    network = UNet3d(1, 2, CHANNELS).requires_grad_(False)
    x = torch.randn(1, 1, 16, 16, 16)
    with torch.no_grad():
        expected = network.eval()(x)
    found = network.train()(x)
    assert not found.requires_grad
    torch.testing.assert_close(found, expected)


def test_running_statistics_go_on() -> None:
    """As torch's do: to freeze is to keep weights, not statistics."""
    plain, probed = (
        nn.Sequential(nn.Conv3d(1, 3, 3), nn.BatchNorm3d(3), nn.ReLU()) for _ in range(2)
    )
    probed.load_state_dict(plain.state_dict())
    probe_model(probed)
    x = torch.randn(2, 1, 8, 8, 8)
    outputs = [one.requires_grad_(False).train()(x) for one in (plain, probed)]
    torch.testing.assert_close(outputs[1], outputs[0])
    torch.testing.assert_close(probed[1].running_mean, plain[1].running_mean)
    torch.testing.assert_close(probed[1].running_var, plain[1].running_var)
    assert probed[1].num_batches_tracked == 1
