"""What can only be seen on a CUDA device; skipped without one."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from seg3d.losses import heads
from seg3d.networks import UNet3d
from seg3d.probing import SKETCHES, ProbedConv3d, kernels, probe_model, set_bits, set_probe_step
from seg3d.probing.kernels import kernels_for
from tests.conftest import Cli

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture(autouse=True)
def all_of_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """TF32 has 10 bits of mantissa, whose rounding would hide differences of the kernels."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


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


@pytest.mark.parametrize("bits", [0.125, 1, 4])
@pytest.mark.parametrize("amp", [False, True])
def test_kernels_and_torch_path_take_the_same_step(
    bits: float, amp: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Output and gradients of a network; tests/probing/test_kernels.py compares pass by pass."""
    network = UNet3d(1, 3, (16, 32, 64)).cuda()
    set_bits(network, bits)
    x = torch.randn(2, 1, 32, 40, 48, device="cuda")
    assert kernels_for(None, x) is not None
    results = []
    for enabled in (True, False):
        monkeypatch.setattr(kernels, "enabled", enabled)
        used = copy.deepcopy(network)
        set_probe_step(used, seed=1, step=2)
        with torch.autocast("cuda", torch.bfloat16, enabled=amp):
            scores = heads(used(x))[0]
        scores.float().square().mean().backward()
        results.append((scores, [p.grad for p in used.parameters() if p.grad is not None]))
    (fused, fused_gradients), (plain, plain_gradients) = results
    rounding = 0.05 if amp else 2e-4
    torch.testing.assert_close(fused, plain, rtol=rounding, atol=rounding)
    # Of a bias in front of a norm the gradient is zero, but for rounding.
    nothing = 1e-3 * max(gradient.norm() for gradient in plain_gradients)
    for one, other in zip(fused_gradients, plain_gradients, strict=True):
        # Codes next to a threshold may differ.
        assert (one - other).norm() <= (0.2 if amp else 0.02) * other.norm() + nothing


def test_demo_on_the_gpu(tmp_path: Path, cli: Cli) -> None:
    done = cli("demo", "--run", tmp_path / "run", "--device", "cuda")
    assert "foreground mean" in done.stdout
    assert (tmp_path / "run" / "prediction.png").is_file()
