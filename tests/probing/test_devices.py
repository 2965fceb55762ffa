"""Devices that no test machine has: what the engine asks of them, and which way it takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from seg3d.losses import DiceCrossEntropy, unscored_heads
from seg3d.networks import UNet3d
from seg3d.probing import ProbeKey, kernels, set_probe_step
from tests.probing.helpers import PROBING, probed_copy

META = torch.device("meta")


class NoFloat64(TorchDispatchMode):
    """Fail where a tensor of float64 is made on a device that stands for an Apple GPU."""

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for one in tree_leaves(made):
            if isinstance(one, Tensor) and one.device == META:
                assert one.dtype != torch.float64, func
        return made


@pytest.fixture
def meta_like_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors without values take part in everything but autocast and drawing."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)
    monkeypatch.setattr(ProbeKey, "generator", lambda *_: None)


def network(sketch: str) -> nn.Module:
    """Convolutions, norms, pools, upsampling and skips, with running means in float32."""
    layers = UNet3d(1, 3, (4, 8), probing="exact")
    averaged = nn.Sequential(
        layers, nn.Conv3d(3, 4, 3, padding=1), nn.BatchNorm3d(4, momentum=None), nn.LeakyReLU(),
        nn.Conv3d(4, 3, 1),
    )  # fmt: skip
    return probed_copy(averaged, sketch)


# Orthogonal probes are made orthogonal in float64, on the CPU.
@pytest.mark.parametrize("sketch", [name for name in PROBING if name != "orthogonal"])
@pytest.mark.usefixtures("meta_like_a_gpu")
def test_a_training_step_asks_the_device_for_no_float64(sketch: str) -> None:
    step = network(sketch).to(META)
    set_probe_step(step, seed=1, step=1)
    image = torch.empty(2, 1, 16, 16, 16, device=META)
    target = torch.empty(2, 1, 16, 16, 16, dtype=torch.int16, device=META)
    with NoFloat64():
        DiceCrossEntropy()(unscored_heads(step, image), target)["loss"].backward()
    assert all(one.grad is not None and one.grad.device == META for one in step.parameters())


def test_amd_gpus_take_the_torch_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """There PyTorch calls them ``cuda``; the kernels were written for NVIDIA's."""
    gpu = torch.device("cuda", 0)
    asked: list[torch.device] = []

    def capability(device: torch.device) -> tuple[int, int]:
        asked.append(device)
        return 7, 5

    monkeypatch.setattr(torch.cuda, "get_device_capability", capability)
    for version, looks in (("6.4.43482", []), (None, [gpu])):
        monkeypatch.setattr(torch.version, "hip", version)
        assert not kernels._passes_on.__wrapped__(gpu)
        assert asked == looks
