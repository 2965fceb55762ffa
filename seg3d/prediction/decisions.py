"""From class scores to probabilities, and from these to what a voxel is labelled as."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from seg3d.plan import Plan

# A voxel is in a region that is more probable than not.
PROBABLE = 0.5


@dataclass(frozen=True)
class Decision:
    """What a network's scores mean.

    Of classes one is the most probable. Regions may overlap: a voxel gets the value of the last
    one, in the order of the plan, that it is in (nnU-Net's ``regions_class_order``).

    What is resampled to the grid of the file are probabilities; by the rules of nnU-Net scores, as
    precise as float16. Either is called found here.

    Attributes:
        plan: of the run that trained the network.
    """

    plan: Plan

    def make_ready(self, scores: Tensor) -> None:
        """Put what is to be resampled in place of scores, `(K, ...)`."""
        scores.copy_(scores.half() if self.plan.nnunet is not None else self._probable(scores))

    def labels(self, found: Tensor) -> np.ndarray:
        """Label values `(...)` from what has been resampled, `(K, ...)`."""
        if self.plan.nnunet is not None:
            # Of scores that are equal then, nnU-Net takes the first.
            numbers = self.of_scores(found.half().float())
        else:
            numbers = self._numbers(found, PROBABLE)
        return self.values[numbers.cpu().numpy()]

    def probabilities(self, found: Tensor) -> np.ndarray:
        """Of each class, or region, `(K, ...)` float32, from what has been resampled."""
        return (found if self.plan.nnunet is None else self._probable(found)).cpu().numpy()

    @property
    def outside(self) -> np.ndarray:
        """Probabilities `(K,)` of voxels that are background because they were cropped away."""
        outside = np.zeros(len(self.plan.classes), np.float32)
        if self.plan.regions is None:
            outside[0] = 1
        return outside

    def of_scores(self, scores: Tensor) -> Tensor:
        """Numbers of the plan's parts, `(...)` uint8, from scores `(K, ...)`."""
        return self._numbers(scores, 0.0)

    def _probable(self, scores: Tensor) -> Tensor:
        return scores.softmax(0) if self.plan.regions is None else scores.sigmoid()

    def _numbers(self, found: Tensor, least: float) -> Tensor:
        if self.plan.regions is None:
            return best_classes(found)
        numbers = torch.zeros_like(found[0], dtype=torch.uint8)
        for of_region, written in zip(found, self._written, strict=True):
            numbers.masked_fill_(of_region > least, written)
        return numbers

    @cached_property
    def _written(self) -> list[int]:
        """Of every region, the number of the part that is written."""
        values = [one.values[0] for one in self.plan.parts]
        return [values.index(value) for value in self.plan.regions or ()]

    @cached_property
    def values(self) -> np.ndarray:
        """The label value of every part, in the smallest common integer type that holds them."""
        values = [one.values[0] for one in self.plan.parts]
        for kind in (np.uint8, np.int16, np.int32):
            if np.iinfo(kind).min <= min(values) and max(values) <= np.iinfo(kind).max:
                break
        return np.array(values, dtype=kind)


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
