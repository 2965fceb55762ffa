"""A network whose finest level goes in slabs: the same scores, records and gradients."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from seg3d.losses import DiceCrossEntropy, unscored_heads
from seg3d.networks import UNet3d
from seg3d.networks.streamed import FinestLevel
from seg3d.probing import ProbedInstanceNorm3d, choose_bits, set_bits, set_probe_step
from seg3d.probing.probed_layer import ProbedLayer

CHANNELS = (9, 5, 6)
# Kernels, strides and size. Planes of more than 128 voxels, and of less, which share bricks.
SHAPES: list[tuple[Any, Any, tuple[int, int, int]]] = [
    (None, None, (8, 16, 12)),
    ([(3, 3, 1), (3, 3, 3), (1, 3, 3)], [(1, 1, 1), (2, 2, 1), (1, 2, 2)], (10, 8, 6)),
    ([(1, 3, 3), (3, 3, 3), (3, 3, 3)], [(1, 1, 1), (1, 2, 2), (2, 2, 2)], (6, 12, 12)),
    ([(5, 1, 3), (1, 1, 1), (3, 3, 3)], [(1, 1, 1), (3, 2, 2), (2, 1, 1)], (18, 6, 8)),
]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seg3d.probing.streams.chunk_elements", lambda x: 4000)


def both(bits: Any, **arguments: Any) -> tuple[UNet3d, UNet3d]:
    """An ordinary network and a streamed one, of equal weights, that keep the same."""
    made = []
    for streamed in (False, True):
        torch.manual_seed(0)
        network = UNet3d(2, 2, CHANNELS, streamed=streamed, **arguments).double()
        for norm in network.modules():
            if isinstance(norm, ProbedInstanceNorm3d):
                nn.init.uniform_(norm.weight, 0.5, 1.5)
                nn.init.uniform_(norm.bias, -0.5, 0.5)
        # The encoder of a streamed level is made once more from the image, and so is exact.
        set_bits(network, {"encoder.0.*": "exact", "*": bits})
        set_probe_step(network, seed=1, step=2)
        made.append(network)
    return made[0], made[1]


def batch(size: tuple[int, ...], dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    image = torch.randn(2, 2, *size, dtype=dtype)
    return image, torch.randint(0, 2, (2, 1, *size))


def trained(network: UNet3d, size: tuple[int, ...]) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Scores, and the gradients of all parameters."""
    image, target = batch(size)
    scores = unscored_heads(network, image)
    assert all(isinstance(one, Tensor) for one in scores)
    values = [one.detach().clone() for one in scores if isinstance(one, Tensor)]
    loss = DiceCrossEntropy()(scores, target)["loss"]
    del scores
    loss.backward()
    return values, {
        name: parameter.grad
        for name, parameter in network.named_parameters()
        if parameter.grad is not None
    }


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-8, atol=1e-11, msg=name)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize(("bits", "deep_supervision"), [("exact", True), (1, False), (0.25, True)])
@pytest.mark.parametrize(("kernels", "strides", "size"), SHAPES)
def test_training_is_the_same(
    kernels: Any,
    strides: Any,
    size: tuple[int, ...],
    bits: Any,
    deep_supervision: bool,
    rows: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    elements = rows * CHANNELS[0] * size[1] * size[2]
    monkeypatch.setattr("seg3d.probing.streams.chunk_elements", lambda x: elements)
    networks = both(bits, kernels=kernels, strides=strides, deep_supervision=deep_supervision)
    expected, found = (trained(network, size) for network in networks)
    for ours, whole in zip(found[0], expected[0], strict=True):
        torch.testing.assert_close(ours, whole, rtol=1e-10, atol=1e-11)
    assert_same(found[1], expected[1])
    # Whoever goes on with either of them draws the same.
    keys = (
        [one.probe_key for one in net.modules() if isinstance(one, ProbedLayer)] for net in networks
    )
    assert next(keys) == next(keys)


def test_its_layers_are_not_asked_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the comparisons here would say nothing."""
    asked: list[str] = []
    for network in both(1):
        for name, layer in network.named_modules():
            if isinstance(layer, ProbedInstanceNorm3d):
                called = partial(_noting, asked, name, layer._scale_and_offset)
                monkeypatch.setattr(layer, "_scale_and_offset", called)
        trained(network, (8, 16, 12))
        of_finest = [name for name in asked if name.split(".")[1] == "0"]
        assert len(of_finest) == (0 if network.streamed else 4)
        assert len(asked) - len(of_finest) == 6
        asked.clear()


def _noting(asked: list[str], name: str, method: Any, *arguments: Any) -> Any:
    asked.append(name)
    return method(*arguments)


def test_prediction_is_the_same() -> None:
    whole, streamed = (network.eval() for network in both(1))
    image, _ = batch((8, 16, 12))
    with torch.no_grad():
        torch.testing.assert_close(streamed(image), whole(image))
    # With gradients in eval mode the layers are the ordinary ones.
    assert torch.equal(streamed(image), whole(image))


def test_a_coarse_loss_alone() -> None:
    """Then the decoder's backward pass does not run, and the encoder's does."""
    gradients = []
    for network in both(1, deep_supervision=True):
        image, _ = batch((8, 16, 12))
        network(image)[1].sin().sum().backward()
        gradients.append(
            {name: one.grad for name, one in network.named_parameters() if one.grad is not None}
        )
    whole, streamed = gradients
    assert_same({name: one for name, one in streamed.items() if name in whole}, whole)
    assert "decoder.0.0.conv.weight" not in streamed


def test_a_graph_that_is_kept_serves_twice() -> None:
    _, network = both(1)
    image, _ = batch((8, 16, 12))
    total = network(image).sin().sum()
    first = torch.autograd.grad(total, [*network.parameters()], retain_graph=True)
    for one, other in zip(first, torch.autograd.grad(total, [*network.parameters()]), strict=True):
        assert torch.equal(one, other)


def test_what_is_saved_is_let_go_by_the_backward_pass() -> None:
    _, network = both(1)
    image, _ = batch((8, 16, 12))
    total = network(image).sin().sum()
    total.backward()
    with pytest.raises(RuntimeError, match="second time"):
        total.backward()


def test_bits_are_chosen_for_what_is_kept() -> None:
    _, network = both(1)
    image, _ = batch((8, 16, 12))
    bits = choose_bits(network, [lambda: network(image).sin().sum().backward()] * 2).bits
    kept = {
        name
        for name, layer in network.named_modules()
        if isinstance(layer, ProbedLayer) and layer.sketched
    }
    assert {name for name in bits if "norm" in name} - kept == {
        "encoder.0.0.norm",
        "encoder.0.1.norm",
    }
    sources = [*network.up[0].sources, *network.heads[0].sources]
    layers = [name for name, one in network.named_modules() if isinstance(one, ProbedLayer)]
    assert [layers[number] for number in sources] == ["decoder.1.1.norm", "decoder.0.1.norm"]


def test_autocast() -> None:
    losses, gradients = [], []
    for network in both(1):
        network.float()
        image, target = batch((8, 16, 16), torch.float32)
        with torch.autocast("cpu", torch.bfloat16):
            scores = unscored_heads(network, image)
        assert isinstance(scores[0], Tensor) and scores[0].dtype == torch.bfloat16
        loss = DiceCrossEntropy()(scores, target)["loss"]
        del scores
        loss.backward()
        losses.append(loss.detach())
        gradients.append(torch.cat([one.grad.flatten() for one in network.parameters()]))
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-3, atol=0)
    whole, streamed = gradients
    # Roundings to 8 bits, and codes of values next to a threshold.
    assert (streamed - whole).norm() < 0.1 * whole.norm()


@pytest.mark.parametrize("watching", ["hook", "frozen", "image"])
def test_who_watches_the_level_sees_it_as_a_whole(
    watching: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, network = both(1)
    image, _ = batch((8, 16, 12))
    if watching == "hook":
        network.encoder[0].register_forward_hook(lambda *_: None)
    elif watching == "frozen":
        network.heads[0].weight.requires_grad_(False)
    else:
        image.requires_grad_()
    monkeypatch.setattr(FinestLevel, "descend", lambda *_: pytest.fail("goes in slabs"))
    network(image).sum().backward()


@pytest.mark.parametrize("sketch", ["exact", "independent"])
def test_sketches_that_see_whole_tensors_are_refused(sketch: str) -> None:
    with pytest.raises(ValueError, match="streamed"):
        UNet3d(1, 2, CHANNELS, sketch, streamed=True)
