"""What can only be seen on a CUDA device; skipped without one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from seg3d.probing import SKETCHES, ProbedConv3d, set_probe_step
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


def test_demo_on_the_gpu(tmp_path: Path, cli: Cli) -> None:
    done = cli("demo", "--run", tmp_path / "run", "--device", "cuda")
    assert "foreground mean" in done.stdout
    assert (tmp_path / "run" / "prediction.png").is_file()
