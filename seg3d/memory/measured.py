"""Memory that was taken, as PyTorch and the system count it."""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import psutil
import torch
from torch import nn

from seg3d.common.sizes import GIB
from seg3d.losses import DiceCrossEntropy
from seg3d.memory.step import Loss, batch, loss_of


def peak_gib(device: torch.device) -> float:
    """Peak memory in GiB: tensors allocated on a GPU, or the resident size of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    return _peak_resident() / GIB


def _peak_resident() -> int:
    try:
        import resource
    except ImportError:
        # Windows has no such module, but keeps count of the peak elsewhere.
        return int(psutil.Process().memory_info()._asdict()["peak_wset"])
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@dataclass(frozen=True)
class MeasuredMemory:
    """Peaks of a training step on a GPU, in bytes.

    Attributes:
        allocated: tensors, workspaces of operators included.
        reserved: what PyTorch took from the GPU to hold them.
    """

    allocated: int
    reserved: int


def measured_training_memory(
    network: nn.Module,
    input_shape: Sequence[int],
    dtype: torch.dtype = torch.float32,
    *,
    loss: Loss | None = None,
    amp: bool = False,
    target_dtype: torch.dtype = torch.int16,
    device: torch.device | str = "cuda",
) -> MeasuredMemory:
    """Measure the third of three training steps on a GPU.

    Call it in a fresh process, with the network on the CPU or on ``meta``: whatever else the
    process holds on the GPU is in the peaks. Arguments and errors are as for
    :func:`training_memory`, whose prediction ``allocated`` should be near to.
    """
    stored = torch.float32 if amp else dtype
    device = torch.device(device)
    # Memory does not depend on values, so those of a network on meta may be anything.
    move = nn.Module.to_empty if _is_meta(network) else nn.Module.to
    real = move(copy.deepcopy(network), device=device).to(stored).train()
    image, target = batch(input_shape, stored, target_dtype, device)
    image.normal_()
    target.zero_()
    for step in range(3):
        if step == 2:
            torch.cuda.reset_peak_memory_stats(device)
        loss_of(real, image, target, loss or DiceCrossEntropy(), amp, dtype).backward()
        real.zero_grad(set_to_none=True)
    return MeasuredMemory(
        torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)
    )


def _is_meta(network: nn.Module) -> bool:
    return any(parameter.is_meta for parameter in network.parameters())
