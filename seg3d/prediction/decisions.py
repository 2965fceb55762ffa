"""From what a network finds of every voxel to its label and its class probabilities."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from seg3d.plan import Plan


class Decision:
    """What a plan makes of `(K, ...)` of a slab on the file's grid.

    Without rules of nnU-Net these are class probabilities, with them scores. The scores of regions
    are taken by themselves, as by the sigmoid function: one above 0 is one half or more.

    Args:
        plan: of the network.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    @property
    def dtype(self) -> np.dtype:
        """The smallest common integer type that holds all label values."""
        return self._values.dtype

    @cached_property
    def _values(self) -> np.ndarray:
        """The label value of every number that `best_classes` or `last_regions` give."""
        regions = self._plan.regions
        values = [one.values[0] for one in self._plan.classes] if regions is None else [0, *regions]
        for kind in (np.uint8, np.int16, np.int32):
            if np.iinfo(kind).min <= min(values) and max(values) <= np.iinfo(kind).max:
                break
        return np.array(values, dtype=kind)

    def labels(self, found: Tensor) -> np.ndarray:
        """Label values `(...)`."""
        if self._plan.nnunet is not None:
            # nnU-Net holds scores in float16, and of equal ones takes the first.
            found = found.half().float()
        numbers = best_classes(found) if self._plan.regions is None else last_regions(found)
        return self.values(numbers.cpu().numpy())

    def values(self, numbers: np.ndarray) -> np.ndarray:
        """The values of the training labels that stand for class numbers."""
        return self._values[numbers]

    def probabilities(self, found: Tensor) -> np.ndarray:
        """Of each class, or region, `(K, ...)` float32."""
        if self._plan.nnunet is not None:
            found = found.softmax(0) if self._plan.regions is None else found.sigmoid()
        return found.cpu().numpy()

    @property
    def outside(self) -> np.ndarray:
        """Probabilities `(K,)` of voxels that are background because they were cropped away."""
        outside = np.zeros(len(self._plan.classes), np.float32)
        if self._plan.regions is None:
            outside[0] = 1
        return outside


def best_classes(scores: Tensor) -> Tensor:
    """The number of the class with the highest score, the first of equals.

    ``argmax`` along an axis whose elements lie far apart is many times slower on a CPU.

    Args:
        scores: `(K, ...)`, of at most 256 classes.

    Returns:
        `(...)` uint8.
    """
    best, *others = scores
    best, numbers = best.clone(), torch.zeros_like(best, dtype=torch.uint8)
    for number, score in enumerate(others, 1):
        numbers.masked_fill_(score > best, number)
        torch.maximum(best, score, out=best)
    return numbers


def last_regions(scores: Tensor) -> Tensor:
    """One more than the number of the last region whose score is above 0, or 0.

    Args:
        scores: `(K, ...)`, of at most 255 regions.

    Returns:
        `(...)` uint8.
    """
    numbers = torch.zeros_like(scores[0], dtype=torch.uint8)
    for number, score in enumerate(scores, 1):
        numbers.masked_fill_(score > 0, number)
    return numbers
