"""torch.compile: training goes on as without it, and what runs without probing is one graph."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from seg3d.losses import heads
from seg3d.networks import UNet3d
from seg3d.probing import probe_model, set_probe_step
from seg3d.probing.names import Bits

from .foreign import residual_encoder_unet

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "nested": lambda: nn.Sequential(
        nn.Conv3d(1, 4, 3, padding=1),
        nn.InstanceNorm3d(4, affine=True),
        nn.Sequential(nn.LeakyReLU(0.1), nn.MaxPool3d(2)),
        nn.ConvTranspose3d(4, 4, 2, stride=2),
        nn.GroupNorm(2, 4),
        nn.PReLU(),
        nn.Conv3d(4, 2, 1),
    ),
    "UNet3d": lambda: UNet3d(1, 2, (4, 8), deep_supervision=True),
    "ResidualEncoderUNet": lambda: residual_encoder_unet((4, 8), blocks=1),
}


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def loss(output: Any) -> Tensor:
    return sum((y.square().mean() for y in heads(output)), torch.zeros(()))


@pytest.mark.parametrize("bits", [1, "exact"])
@pytest.mark.parametrize("name", NETWORKS)
def test_training_is_that_of_the_network_itself(name: str, bits: Bits) -> None:
    network = NETWORKS[name]()
    probe_model(network, bits=bits)
    twin = copy.deepcopy(network)
    operations: list[str] = []

    def backend(graph: GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        operations.extend(node.name for node in graph.graph.nodes if node.op.startswith("call"))
        return graph

    compiled = torch.compile(twin, backend=backend)
    x = torch.randn(2, 1, 8, 8, 8)
    for step in range(2):
        for used, trained in ((network, network), (compiled, twin)):
            set_probe_step(trained, seed=1, step=step)
            trained.zero_grad()
            loss(used(x)).backward()
        for ours, expected in zip(twin.parameters(), network.parameters(), strict=True):
            assert torch.equal(ours.grad, expected.grad)
    assert not operations, "the probed layers stay outside, and there is nothing else"


@pytest.mark.parametrize("name", NETWORKS)
def test_one_graph_where_nothing_is_probed(name: str) -> None:
    network = NETWORKS[name]()
    probe_model(network)
    network.eval()
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    x = torch.randn(2, 1, 8, 8, 8)
    for ours, expected in zip(heads(compiled(x)), heads(network(x)), strict=True):
        assert torch.equal(ours, expected)
    probe_model(network.train(), "exact")
    for ours, expected in zip(heads(compiled(x)), heads(network(x)), strict=True):
        assert torch.equal(ours, expected)
