"""The convolution of an upsampled tensor that is never there as a whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from seg3d.probing import ProbedConv3d, ProbedConvTranspose3d, ProbedInstanceNorm3d, set_probe_step
from seg3d.probing.upsampled import Upsampled

from .helpers import assert_mean_is

Triple = tuple[int, int, int]


@contextmanager
def slabs_of(elements: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module in ("slab_convolutions", "upsampled"):
            patch.setattr(f"seg3d.probing.{module}.slab_elements", lambda x: elements)
        patch.setattr("seg3d.probing.slabs.LEAST_ROWS", 1)
        yield


class Joining(nn.Module):
    """Norm and convolution of a skip connection and what comes from below."""

    def __init__(self, bits: Any, stride: Triple, groups: int, bias: bool, kernel: Triple) -> None:
        super().__init__()
        own = {"sketch": "rotated", "bits": bits, "dtype": torch.float64}
        self.norm = ProbedInstanceNorm3d(4, affine=True, **own)
        self.norm.activate(0.01, inplace=False)
        self.up = ProbedConvTranspose3d(4, 6, stride, stride, groups=groups, bias=bias, **own)
        padding = tuple(size // 2 for size in kernel)
        self.conv = ProbedConv3d(3 + 6, 4, kernel, padding=padding, bias=bias, **own)

    def forward(self, skip: Tensor, below: Tensor) -> Tensor:
        skip, below = skip.tanh(), self.norm(below)
        parts: list[Callable[[], Tensor]] = [lambda: self.up(below), lambda: skip]
        return self.conv.of_parts(parts)


class JoiningInSlabs(Joining):
    def forward(self, skip: Tensor, below: Tensor) -> Tensor:
        held = [skip.tanh(), self.norm(below)]
        return self.conv.of_parts([Upsampled(self.up, held.pop), lambda: held.pop(0)])


def of_both(bits: Any, *shape: Any) -> tuple[Joining, Joining]:
    torch.manual_seed(0)
    networks = Joining(bits, *shape), JoiningInSlabs(bits, *shape)
    networks[1].load_state_dict(networks[0].state_dict())
    return networks


def gradients(network: Joining, stride: Triple) -> list[Tensor]:
    torch.manual_seed(1)
    below = torch.randn(2, 4, 5, 3, 4, dtype=torch.float64, requires_grad=True)
    edges = [edge * step for edge, step in zip((5, 3, 4), stride, strict=True)]
    skip = torch.randn(2, 3, *edges, dtype=torch.float64, requires_grad=True)
    y = network(skip, below)
    return [y, *torch.autograd.grad(y.sin().sum(), [skip, below, *network.parameters()])]


@pytest.mark.parametrize("elements", [100, 2**22])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("stride", "groups", "kernel"),
    [
        ((2, 2, 2), 1, (3, 3, 3)),
        ((1, 2, 2), 2, (1, 3, 3)),
        ((3, 1, 2), 1, (5, 1, 3)),
        ((4, 2, 2), 1, (3, 3, 3)),
    ],
)
def test_all_gradients_are_those_of_the_tensor_as_a_whole(
    stride: Triple, groups: int, kernel: Triple, bias: bool, elements: int
) -> None:
    whole, in_slabs = of_both("exact", stride, groups, bias, kernel)
    with slabs_of(elements):
        found = gradients(in_slabs, stride)
    for ours, expected in zip(found, gradients(whole, stride), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-10)
    # One record serves both layers.
    assert in_slabs.up.sources == in_slabs.conv.sources[1:] == (in_slabs.norm.probe_key.layer,)


def test_gradients_are_unbiased() -> None:
    stride = (2, 2, 2)
    networks = [of_both(bits, stride, 1, True, (3, 3, 3))[1] for bits in ("exact", 1)]
    networks[1].norm.bits = "exact"  # a small volume's norm is biased; not so the convolutions
    networks[1].norm.register_forward_hook(lambda norm, inputs, z: z + 0)  # without a record

    def weights(network: Joining) -> Tensor:
        found = gradients(network, stride)
        return torch.cat([gradient.flatten() for gradient in found[1:]])

    draws = []
    for step in range(200):
        set_probe_step(networks[1], seed=2, step=step)
        draws.append(weights(networks[1]))
    assert_mean_is(torch.stack(draws), weights(networks[0]))
