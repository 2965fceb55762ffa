"""What the tests of probing share: drawing gradients, and judging whether a mean is right."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from seg3d.probing import ProbeKey, Sketch, probe_model, set_probe_step

PROBING = ("onebit", "2bit", "4bit", "independent", "multichannel", "orthogonal")


def probed_copy(network: nn.Module, sketch: str, rank: int = 64) -> nn.Module:
    """A probed copy of an ordinary network, with equal weights."""
    probed = copy.deepcopy(network)
    probe_model(probed, sketch, rank)
    return probed


def gradients(network: nn.Module, x: Tensor, dy: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
    """The output, and the gradients with respect to input and parameters."""
    network.zero_grad()
    x = x.detach().requires_grad_()
    y = network(x)
    y.backward(dy)
    parameters = [p.grad.clone() for p in network.parameters() if p.grad is not None]
    return y.detach(), x.grad, parameters


def weight_gradient_draws(layer: nn.Module, x: Tensor, dy: Tensor, draws: int) -> Tensor:
    """Weight gradients of many steps, ``(draws, numbers)`` in float64."""
    rows = []
    for step in range(draws):
        set_probe_step(layer, seed=7, step=step)
        rows.append(gradients(layer, x, dy)[2][0].flatten().double())
    return torch.stack(rows)


def surrogate_draws(sketch: Sketch, x: Tensor, draws: int) -> Tensor:
    """Surrogates of many steps, ``(draws, numbers)`` in float64."""
    rows = []
    for step in range(draws):
        key = ProbeKey(seed=11, step=step)
        rows.append(sketch.surrogate(sketch.compress(x, key), x.shape, x.dtype, key).flatten())
    return torch.stack(rows).double()


def assert_mean_is(draws: Tensor, expected: Tensor) -> None:
    """Every mean within 4.5 of its standard errors, and all together no further than chance."""
    error = draws.mean(0) - expected.flatten().double()
    standard_error = draws.std(0) / len(draws) ** 0.5
    still = standard_error < 1e-7 * expected.abs().max()
    assert torch.all(error[still].abs() < 1e-5 * expected.abs().max())
    z = error[~still] / standard_error[~still]
    assert z.abs().max() < 4.5
    assert z.square().mean() < 1.7
