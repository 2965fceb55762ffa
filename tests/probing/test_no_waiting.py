"""A training step never waits for its GPU: meta tensors have no values that one could wait for."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from monai.networks.nets import SegResNet
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from seg3d.losses import DiceCrossEntropy, unscored_heads
from seg3d.networks import UNet3d
from seg3d.probing import kernels, probe_model, set_bits, set_probe_step
from seg3d.probing.kernels import shapes

# Operators whose result the CPU has to know, or has to have the size of.
WAITING = {
    "_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "masked_select", "_unique2",
    "unique_dim", "unique_consecutive", "bincount", "repeat_interleave",
}  # fmt: skip
META = torch.device("meta")


@pytest.fixture(autouse=True)
def without_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which there is none of for meta tensors."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)


class Refusing(TorchDispatchMode):
    """Raises where a step on a GPU would have to wait for it."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        on_device = [x for x in args if isinstance(x, Tensor) and x.is_meta]
        assert not (name in WAITING and on_device), f"{name} waits"
        if name in ("_to_copy", "copy_"):
            source = args[name == "copy_"]
            target = kwargs.get("device", args[0].device)
            crossing = torch.device(target or source.device).type != source.device.type
            # Numbers that are not pinned are copied when all before is done.
            assert not crossing or kwargs.get("non_blocking"), f"{name} from {source.device} waits"
        return func(*args, **kwargs)


def run(network: nn.Module, size: int = 32) -> None:
    """Two steps; what is made once for all may take its time in the first."""
    network.to(META).train()
    image = torch.empty(2, 1, *[size] * 3, device=META)
    target = torch.empty(2, 1, *[size] * 3, device=META, dtype=torch.int16)
    for step in range(2):
        set_probe_step(network, 0, step)
        with Refusing() if step else torch.enable_grad():
            loss = DiceCrossEntropy()(unscored_heads(network, image), target)["loss"]
            loss.backward()


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("bits", [0.125, 1, 4])
def test_unet(bits: float, fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the kernels, which do no more than allocate here, and without them."""
    monkeypatch.setattr(kernels, "_passes_on", lambda device: shapes)
    monkeypatch.setattr(kernels, "enabled", fused)
    network = UNet3d(1, 3, (4, 8, 8), deep_supervision=True)
    set_bits(network, bits)
    run(network)


@pytest.mark.parametrize("norm", ["batch", ("group", {"num_groups": 2}), "instance"])
def test_other_networks(norm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Residual blocks, upsampling and running statistics."""
    monkeypatch.setattr(kernels, "_passes_on", lambda device: shapes)
    network = SegResNet(3, 4, 1, 3, norm=norm, blocks_down=(1, 1), blocks_up=(1,))
    probe_model(network)
    run(network)


def test_that_waiting_is_noticed() -> None:
    x = torch.empty(3, device=META)
    with pytest.raises(AssertionError, match="nonzero waits"), Refusing():
        x.nonzero()
    with pytest.raises(AssertionError, match="_to_copy from cpu waits"), Refusing():
        torch.ones(3).to(META)
    with Refusing():
        torch.ones(3).to(META, non_blocking=True)
