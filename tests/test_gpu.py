"""What can only be seen on a CUDA device; skipped without one."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from seg3d.probing import SKETCHES, ProbedConv3d, probe_model, set_probe_step
from tests.conftest import Cli

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("sketch", SKETCHES)
def test_probed_layer_on_the_gpu(sketch: str) -> None:
    """Output and input gradient are torch's own, the draw repeats, the global generator rests."""
    x = torch.randn(2, 4, 12, 10, 14, device="cuda")
    exact = nn.Conv3d(4, 6, 3, stride=2, padding=1, device="cuda")
    probed = ProbedConv3d(4, 6, 3, stride=2, padding=1, sketch=sketch).cuda()
    probed.load_state_dict(exact.state_dict())
    inputs, gradients = [], []
    state = torch.cuda.get_rng_state()
    for layer in (exact, probed, probed):
        set_probe_step(layer, seed=1, step=2)
        inputs.append(x.clone().requires_grad_())
        layer(inputs[-1]).square().sum().backward()
        gradients.append(layer.weight.grad.clone())
        layer.weight.grad = None
    torch.testing.assert_close(inputs[1].grad, inputs[0].grad)
    torch.testing.assert_close(gradients[1], gradients[2])
    assert torch.isfinite(gradients[1]).all()
    assert torch.equal(torch.cuda.get_rng_state(), state)


@pytest.mark.parametrize("norm", [nn.InstanceNorm3d(4), nn.GroupNorm(2, 4), nn.BatchNorm3d(4)])
def test_number_types_of_norms_under_autocast_are_torchs(norm: nn.Module) -> None:
    network = nn.Sequential(nn.Conv3d(2, 4, 3), norm, nn.ReLU(), nn.Conv3d(4, 2, 3)).cuda()
    x = torch.randn(2, 2, 10, 10, 14, device="cuda")
    results = []
    for used in (network, copy.deepcopy(network)):
        if used is not network:
            probe_model(used)
        with torch.autocast("cuda", torch.bfloat16):
            results.append([used[:stop](x) for stop in range(1, 5)])
        results[-1][-1].float().square().mean().backward()
    for one, other in zip(*results, strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(other, one, rtol=0.05, atol=0.05)


def test_demo_on_the_gpu(tmp_path: Path, cli: Cli) -> None:
    done = cli("demo", "--run", tmp_path / "run", "--device", "cuda")
    assert "foreground mean" in done.stdout
    assert (tmp_path / "run" / "prediction.png").is_file()
