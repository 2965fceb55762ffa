"""Choosing bits: the measured noise is the true one, and enough bits bring it under the limit."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from seg3d.common.errors import UserError
from seg3d.networks import UNet3d
from seg3d.probing import (
    BITS,
    ProbedConv3d,
    ProbedInstanceNorm3d,
    choose_bits,
    first_bits,
    gradient_noise,
    set_bits,
    set_probe_step,
)
from seg3d.probing.bits import error_energy, rotated_layers, summary


def small_network() -> nn.Sequential:
    torch.manual_seed(0)
    first = ProbedConv3d(2, 3, 3, padding=1, sketch="exact")
    norm = ProbedInstanceNorm3d(3, affine=True)
    norm.activate(slope=0.1, inplace=True)
    return nn.Sequential(first, norm, ProbedConv3d(3, 4, 3, padding=1))


def runs(network: nn.Module, volumes: list[Tensor]) -> list[Callable[[], None]]:
    weights = torch.randn(4, 1, 1, 1, generator=torch.Generator().manual_seed(1))

    def backward(x: Tensor) -> None:
        (network(x) * weights).square().mean().backward()

    return [partial(backward, volume) for volume in volumes]


def volumes(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [
        torch.randn(1, 2, 8, 8, 8, generator=generator).cumsum(2) * (1 + torch.rand(1))
        for _ in range(count)
    ]


def test_noise_agrees_with_many_draws() -> None:
    network = small_network()
    set_bits(network, 1)
    data = volumes(3)
    passes = runs(network, data)
    estimates = [gradient_noise(network, passes, seed)["2"] for seed in range(60)]
    means, variances = [], []
    for run in passes:
        draws = []
        for step in range(200):
            network.zero_grad()
            set_probe_step(network, 77, step)
            run()
            draws.append(network[2].weight.grad.flatten().double().clone())
        stacked = torch.stack(draws)
        means.append(stacked.mean(0))
        variances.append(stacked.var(0).sum().item())
    sketch = torch.tensor([one.sketch for one in estimates])
    error = sketch.std() / len(estimates) ** 0.5
    assert abs(sketch.mean() - sum(variances) / 3) < 4 * error
    minibatch = torch.tensor([one.minibatch for one in estimates])
    expected = torch.stack(means).var(0).sum().item() - sum(variances) / 3 / 200
    error = minibatch.std() / len(estimates) ** 0.5
    assert abs(minibatch.mean() - expected) < 4 * error


def test_without_sketches_there_is_no_noise() -> None:
    network = small_network()
    set_bits(network, "exact")
    noise = gradient_noise(network, runs(network, volumes(3)))
    assert {one.sketch for one in noise.values()} == {0.0}
    assert all(one.minibatch > 0 and one.ratio == 0 for one in noise.values())


def test_chosen_bits_keep_the_noise_low() -> None:
    torch.manual_seed(0)
    network = UNet3d(2, 3, (4, 6, 8))
    data = volumes(4)

    def backward(x: Tensor) -> None:
        output = network(x)
        assert isinstance(output, Tensor)
        output.square().mean().backward()

    passes = [partial(backward, x) for x in data]
    set_bits(network, 0.125)
    before = gradient_noise(network, passes, seed=5)
    bits = choose_bits(network, passes, limit=0.1, seed=3).bits
    assert bits == {name: layer.bits for name, layer in rotated_layers(network).items()}
    after = gradient_noise(network, passes, seed=5)
    assert max(one.ratio for one in before.values()) > 0.3
    # Another draw than the one that was chosen by: near the limit there is some scatter.
    assert max(one.ratio for one in after.values()) < 0.15
    assert len(set(bits.values())) > 1
    assert network.encoder[0][0].conv.sketch == "exact"  # type: ignore[index, union-attr]


@pytest.mark.parametrize(("edge", "least"), [(16, 1), (24, 0.125)])
def test_norms_of_small_volumes_get_no_fractions(edge: int, least: float) -> None:
    network = small_network()
    generator = torch.Generator().manual_seed(2)
    shape = (1, 2, edge, edge, edge)
    passes = runs(network, [torch.randn(shape, generator=generator) for _ in range(2)])
    assert choose_bits(network, passes, limit=1e6).bits["1"] == least


def saved(network: nn.Module, bits: float | None = None) -> float:
    """Bits of all sketches, or what they would be with so many a voxel."""
    return sum(
        layer.sketched.shape.numel() * (bits or float(layer.bits if layer.bits != "exact" else 32))
        for layer in rotated_layers(network).values()
        if layer.sketched
    )


def test_bits_before_anything_is_measured() -> None:
    """The fewer voxels, the more bits, within what one bit in every layer takes."""
    network = UNet3d(1, 2, (4, 8, 16))

    def run() -> None:
        network(torch.randn(1, 1, 32, 32, 32))

    assert {
        first_bits(network, run)[name] for name in ("encoder.0.0.norm", "encoder.2.0.norm")
    } == {"exact"}
    bits = first_bits(network, run, little=0)
    norms = [bits[f"encoder.{level}.1.norm"] for level in range(3)]
    assert norms == sorted(norms, key=BITS.index) and norms[0] != norms[2]
    assert bits["encoder.0.1.norm"] == bits["decoder.0.1.norm"]
    assert 0.5 * saved(network, 1) < saved(network) <= saved(network, 1)


def test_no_more_bytes_than_one_bit_takes() -> None:
    """Volumes that are all alike have no noise of their own: no sketch is good enough for them."""
    torch.manual_seed(0)
    network = UNet3d(2, 3, (4, 6, 8))
    x = torch.randn(1, 2, 24, 24, 24)

    def backward() -> None:
        output = network(x)
        assert isinstance(output, Tensor)
        output.square().mean().backward()

    bits = choose_bits(network, [backward] * 3, little=0).bits
    assert 0.5 * saved(network, 1) < saved(network) <= saved(network, 1)
    assert len(set(bits.values())) > 1


def test_the_choice_is_reproducible_and_leaves_the_global_generator_alone() -> None:
    chosen = []
    for _ in range(2):
        network = small_network()
        passes = runs(network, volumes(3))
        torch.manual_seed(4)
        chosen.append(choose_bits(network, passes, seed=1))
        assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.manual_seed(4)))
        assert all(parameter.grad is None for parameter in network.parameters())
    assert chosen[0] == chosen[1]


def test_error_energies() -> None:
    energies = [error_energy(bits) for bits in (0.125, 0.25, 0.5, 1, 2, 4, "exact")]
    assert energies == sorted(energies, reverse=True)
    assert energies[0] == pytest.approx(11.57, abs=0.01)
    assert energies[-1] == 0


def test_bits_by_hand() -> None:
    network = UNet3d(1, 2, (3, 4))
    set_bits(network, {"encoder.0.*": 4, "*.norm": "exact", "*": 0.25})
    assert network.encoder[0][0].norm.bits == 4  # type: ignore[index, union-attr]
    assert network.encoder[1][0].norm.bits == "exact"  # type: ignore[index, union-attr]
    assert network.up[0].bits == 0.25
    with pytest.raises(UserError, match=r"(?s)not there.*given: middle.*encoder.0.0.norm"):
        set_bits(network, {"middle": 1})
    with pytest.raises(UserError, match="no sketch of so many bits"):
        set_bits(network, 3)


def test_summary() -> None:
    assert summary({"a": 1, "b": "exact", "c": 1}) == "2 layers 1, 1 layers exact"
