"""How much is done at a time: what fits a CPU's cache, or what keeps a GPU busy."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from seg3d.common.device import is_on_cpu, telling
from seg3d.probing.bricks import BrickGrid, Where

MIB = 1 << 20  # bytes
# A GPU should work on a slab for as long as the CPU takes to ask for it, some tenths of a
# millisecond. With 32 MiB the two were about even on an H100 at 320³, and more would cost memory
# in small volumes. In large ones what else is there is so much that a 32nd of a tensor costs
# none; it keeps the number of slabs, and what Python has to do, from growing with the volume.
GPU_SLAB = 32 * MIB
MOST_SLABS = 32
CHUNKS_OF_SLAB = 4
# A convolution in float32 on a CPU takes ten times as long if batch × channels × depth × height
# is no more than this (ATen's Convolution.cpp, use_mkldnn; torch 2.13).
SLOWLY_CONVOLVED = 20480
# Lots are of float32, several at a time. They are for GPUs without the fused kernels.
GPU_LOT = (1 << 20, 1 << 21)


def lot_elements(x: Tensor, total: int) -> int:
    """Elements of a lot of bricks, of which there are a few copies at a time.

    Args:
        x: tells the device.
        total: elements of all lots.
    """
    least, most = GPU_LOT
    return 1 << 20 if is_on_cpu(x) else min(most, max(least, total // 32))


def rows_of_a_lot(x: Tensor) -> int:
    """Rows along depth of ``x``, ``(B, C, D, H, W)``, that are a lot."""
    return max(1, lot_elements(x, x.numel()) * x.shape[2] // max(1, x[0].numel()))


def slab_elements(x: Tensor) -> int:
    """Elements of a slab of a convolution on ``x``."""
    if is_on_cpu(x):
        return 1 << 22
    return max(GPU_SLAB // x.element_size(), x.numel() // MOST_SLABS)


def chunk_elements(x: Tensor) -> int:
    """Elements of a chunk of a stream on ``x``, of which about twenty are there at a time."""
    slab = slab_elements(x) if is_on_cpu(x) else GPU_SLAB // x.element_size()
    return slab // CHUNKS_OF_SLAB


def least_rows(x: Tensor, channels: int, dtype: torch.dtype) -> int:
    """Rows of so many channels, as high as those of x, that PyTorch does not convolve slowly."""
    if not is_on_cpu(x) or dtype != torch.float32:
        return 1
    return SLOWLY_CONVOLVED // (channels * x.shape[3]) + 1


def bricks_of(
    grid: BrickGrid, x: Tensor, samples: slice | None = None, layers: slice | None = None
) -> Iterator[tuple[Where, slice]]:
    """The lots of ``grid`` in which work on ``x`` is best done; see :meth:`BrickGrid.lots`."""
    elements = lot_elements(x, grid.bricks * grid.voxels)
    return telling(grid.lots(elements, samples, layers), x)
