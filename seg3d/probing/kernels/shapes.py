"""What the passes allocate, and nothing else: for fake tensors, which have shapes but no values.

The memory of a step is predicted with them, for a GPU that has the kernels. One that has none
needs a few lots of bricks more, some tens of MiB.
"""

from __future__ import annotations

import torch
from torch import Tensor

from seg3d.probing.coder import Coder

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def moments(y: Tensor) -> tuple[Tensor, Tensor]:
    """See :func:`seg3d.probing.kernels.passes.moments`."""
    mean, variance = y.new_empty(2, *y.shape[:2], dtype=torch.float32)
    return mean, variance


def sketch(encoder: Coder, x: Tensor) -> None:
    """See :func:`seg3d.probing.kernels.passes.sketch`."""


def normalise(encoder: Coder, y: Tensor, z: Tensor, columns: Tensor) -> None:
    """See :func:`seg3d.probing.kernels.passes.normalise`."""


def sums(decoder: Coder, dz: Tensor, columns: Tensor) -> Tensor:
    """See :func:`seg3d.probing.kernels.passes.sums`."""
    return dz.new_empty(sums_shape(decoder), dtype=torch.float32).sum((2, 4))


def gradient(decoder: Coder, dz: Tensor, dy: Tensor, columns: Tensor) -> None:
    """See :func:`seg3d.probing.kernels.passes.gradient`."""


def fill(decoder: Coder, out: Tensor, columns: Tensor, samples: slice, layers: slice) -> None:
    """See :func:`seg3d.probing.kernels.passes.fill`."""


def sums_shape(decoder: Coder) -> tuple[int, ...]:
    """Three sums for every brick: ``(3, B, layers, C, runs)``."""
    grid = decoder.grid
    return 3, grid.batch, grid.layers, grid.channels, grid.runs
