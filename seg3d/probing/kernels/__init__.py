"""Fused passes over tensors: what the torch functions do, each in one go.

Wherever the engine goes through a tensor lot by lot it asks :func:`kernels_for` first. On a GPU
they are launched by Triton, on a CPU compiled by numba.
"""

from __future__ import annotations

import os
import warnings
from functools import cache
from importlib.util import find_spec
from types import ModuleType

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from seg3d.probing.bricks import BrickGrid

BRICK_VOXELS = range(8, 129)
AMPERE = (8, 0)  # compute capability: the first with bfloat16 in its tensor cores

enabled = os.environ.get("SEG3D_KERNELS", "1") != "0"


def kernels_for(grid: BrickGrid | None, *tensors: Tensor) -> ModuleType | None:
    """The module with the fused passes, if all ``tensors`` and the ``grid`` suit them, or None.

    Tensors suit that are on an NVIDIA GPU since Ampere, in float32, bfloat16 or float16, or on a
    CPU, in float32 or bfloat16, every channel contiguous and, if there are several tensors, all
    with the same strides. For fake tensors, which stand for such, the passes do no more than
    allocate.

    Args:
        grid: of the bricks; None for passes that know no bricks.
        tensors: of shape ``(B, C, D, H, W)``.
    """
    alike = len({x.stride() for x in tensors}) == 1 and all(map(_suits, tensors))
    if not (enabled and alike) or (grid is not None and grid.voxels not in BRICK_VOXELS):
        return None
    fake = isinstance(tensors[0], FakeTensor)
    passes = _shapes() if fake else _passes_on(tensors[0].device)
    return passes if passes and all(x.dtype in passes.DTYPES for x in tensors) else None


def _suits(x: Tensor) -> bool:
    # Other kinds stand for tensors too, to be traced or compiled: there is no memory to work on.
    if type(x) not in (Tensor, nn.Parameter, FakeTensor):
        return False
    _, _, depth, height, width = x.shape
    # Within a channel they count in 32 bits.
    fits = 0 < depth * height * width < 2**31 and x.numel() > 0
    return fits and x.stride()[2:] == (height * width, width, 1)


def _shapes() -> ModuleType:
    from seg3d.probing.kernels import shapes

    return shapes


@cache
def _passes_on(device: torch.device) -> ModuleType | None:
    # Neither Triton nor numba need be installed, and both take a while to import.
    if device.type == "cpu":
        if find_spec("numba") is None:
            return None
        from seg3d.probing.kernels.cpu import passes as cpu_passes

        return cpu_passes
    if device.type != "cuda" or torch.version.hip or find_spec("triton") is None:
        return None
    if torch.cuda.get_device_capability(device) < AMPERE:
        return None
    try:
        from seg3d.probing.kernels import passes

        passes.moments(torch.ones(1, 1, 1, 1, 1, device=device))
    except Exception as error:
        # Triton wants a C compiler, a writable cache and a driver of its taste, and says so by
        # exceptions of any type. Without it there is the torch path.
        warnings.warn(f"no fused GPU kernels, training is slower: {error}", stacklevel=2)
        return None
    return passes


def lacks_numba() -> bool:
    """Whether kernels for CPUs are wanted and cannot be had."""
    return enabled and find_spec("numba") is None


def are_to_be_compiled() -> bool:
    """Whether training on this CPU begins with compiling the kernels, which is done once."""
    if not enabled or lacks_numba():
        return False
    from seg3d.probing.kernels.cpu.compiler import is_new

    return is_new()
