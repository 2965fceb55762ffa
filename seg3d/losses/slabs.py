"""Class scores in slabs, with the labels that belong to them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

from seg3d.common.device import is_on_cpu, telling

# Scores that are worked on at a time: about what fits into a CPU's cache, or keeps a GPU busy.
SLAB = 2**19
GPU_SLAB = 2**22
# Features take this part of the room that scores take, in which the computation is done.
ROOM_OF_FEATURE = 1 / 4

Place = tuple[int, slice, slice]


def slabs(
    size: torch.Size, classes: int, target: Tensor, features: int = 0
) -> Iterator[tuple[Place, Tensor]]:
    """Cut scores into ranges of depth rows of one sample.

    Args:
        size: of the scores, `(D', H', W')`.
        classes: K.
        target: `(B, 1, D, H, W)`.
        features: channels of what the scores are made of, if they are made slab by slab.

    Yields:
        Where the slab lies in the scores, beginning with the sample, and its labels `(voxels,)`.
    """
    room = max(classes, features * ROOM_OF_FEATURE) * size[1:].numel()
    rows = max(1, int(slab_elements(target) // room))
    for sample, start in telling(product(range(len(target)), range(0, size[0], rows)), target):
        part = slice(start, start + rows)
        yield (sample, slice(None), part), _nearest_labels(target[sample, 0], part, size)


def slab_elements(target: Tensor) -> int:
    """Scores of a slab."""
    return SLAB if is_on_cpu(target) else GPU_SLAB


def _nearest_labels(target: Tensor, rows: slice, size: torch.Size) -> Tensor:
    """Some rows of the target `(D, H, W)` at another resolution, ``size``, as `(voxels,)`."""
    if target.shape == size:
        return target[rows].flatten().long()
    z, y, x = (
        _nearest(full, wanted, target.device)
        for full, wanted in zip(target.shape, size, strict=True)
    )
    return target[z[rows, None, None], y[:, None], x].flatten().long()


def _nearest(full: int, wanted: int, device: torch.device) -> Tensor:
    """Which of ``full`` voxels in a row lies nearest to each of ``wanted``."""
    # Interpolating the voxels' numbers leaves the arithmetic, with its rounding, to torch.
    numbers = torch.arange(full, dtype=torch.float32, device=device)[None, None]
    return F.interpolate(numbers, size=wanted, mode="nearest-exact").flatten().long()
