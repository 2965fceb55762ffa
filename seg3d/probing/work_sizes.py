"""How much is done at a time: what fits a CPU's cache, or what keeps a GPU busy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from seg3d.probing.bricks import BrickGrid, Where

Part = TypeVar("Part")


# On a GPU a part shrinks with the tensor, lest it be the larger of the two, down to this.
LEAST_ELEMENTS = 1 << 17


def lot_elements(x: Tensor, total: int) -> int:
    """Elements of a lot of bricks, of which there are a few copies at a time.

    Args:
        x: tells the device.
        total: elements of all lots.
    """
    return 1 << 20 if _on_cpu(x) else min(1 << 21, max(LEAST_ELEMENTS, total // 32))


def slab_elements(x: Tensor) -> int:
    """Elements of a slab of a convolution on ``x``."""
    return 1 << 22 if _on_cpu(x) else min(1 << 23, max(LEAST_ELEMENTS, x.numel() // 8))


def bricks_of(
    grid: BrickGrid, x: Tensor, samples: slice | None = None, layers: slice | None = None
) -> Iterator[tuple[Where, slice]]:
    """The lots of ``grid`` in which work on ``x`` is best done; see :meth:`BrickGrid.lots`."""
    elements = lot_elements(x, grid.bricks * grid.voxels)
    return telling(grid.lots(elements, samples, layers), x)


def telling(parts: Iterable[Part], x: Tensor) -> Iterator[Part]:
    """All parts of the work on ``x``; of a fake tensor the first three and the last.

    Fake tensors, with which memory is measured, have no values, and a part takes the memory
    of the one before.
    """
    if not isinstance(x, FakeTensor):
        yield from parts
        return
    last = None
    for index, part in enumerate(parts):
        last = None if index < 3 else part
        if index < 3:
            yield part
    if last is not None:
        yield last


def _on_cpu(x: Tensor) -> bool:
    """Whether ``x`` is really there, and on a CPU; fake tensors stand for those on a GPU."""
    return x.device.type == "cpu" and not isinstance(x, FakeTensor)
