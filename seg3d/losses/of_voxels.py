"""What some voxels contribute to the losses, and its slopes; those without a label nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

IGNORE = -1


class Sums(NamedTuple):
    """Sums over the labelled voxels, with the probability p and the reference r, 0 or 1.

    Attributes, all of them `(K,)`, or `(B, K)` of a batch:
        overlap: of p·r.
        predicted: of p.
        reference: of r.
        entropy: of the cross-entropy, or of the focal loss.
        counted: of the voxels over which the mean of that is taken.
    """

    overlap: Tensor
    predicted: Tensor
    reference: Tensor
    entropy: Tensor
    counted: Tensor


class OfVoxels(Protocol):
    """What the losses of a kind of reference are made of."""

    def sums(self, scores: Tensor, labels: Tensor) -> Sums:
        """Sums over the labelled voxels.

        Args:
            scores: `(K, voxels)`.
            labels: `(voxels,)` numbers or `IGNORE`.
        """

    def gradient(
        self,
        scores: Tensor,
        labels: Tensor,
        by_overlap: Tensor,
        by_predicted: Tensor,
        by_entropy: Tensor,
    ) -> Tensor:
        """Gradient with respect to the scores `(K, voxels)` from those with respect to the sums."""


@dataclass(frozen=True)
class OfClasses:
    """Every voxel is of one class: p = softmax(scores), and r is one-hot.

    The cross-entropy is -(1 - p)^γ log p, in the class of the reference.

    Attributes:
        focal: γ.
    """

    focal: float

    def sums(self, scores: Tensor, labels: Tensor) -> Sums:
        r, labelled = _one_hot(labels, scores)
        logs = scores.log_softmax(0, dtype=r.dtype)
        entropy = _of_reference(logs, labels).neg_()
        if self.focal:
            entropy.mul_(entropy.neg().expm1_().neg_().pow_(self.focal))
        p = logs.exp_().mul_(labelled)
        predicted, reference = p.sum(1), r.sum(1)
        return Sums(p.mul_(r).sum(1), predicted, reference, r.mul_(entropy).sum(1), reference)

    def gradient(
        self,
        scores: Tensor,
        labels: Tensor,
        by_overlap: Tensor,
        by_predicted: Tensor,
        by_entropy: Tensor,
    ) -> Tensor:
        by_voxel = by_entropy[labels.clamp(min=0)]
        if self.focal:
            logs = _of_reference(scores.log_softmax(0, dtype=by_voxel.dtype), labels)
            by_voxel.mul_(focal_slope(logs, self.focal))
        r, labelled = _one_hot(labels, scores)
        # Where there is no label, p = r = 0 makes all that follows 0.
        p = scores.softmax(0, dtype=r.dtype).mul_(labelled)
        by_p = torch.addcmul(by_predicted[:, None], by_overlap[:, None], r)
        by_scores = by_p.sub_((p * by_p).sum(0)).mul_(p)
        return by_scores.add_(p.sub_(r).mul_(by_voxel))


def _of_reference(logs: Tensor, labels: Tensor) -> Tensor:
    """Of `(K, voxels)`, that of each voxel's reference class; 0 where there is no label."""
    return logs.gather(0, labels.clamp(min=0)[None])[0].where(labels != IGNORE, 0)


def focal_slope(logs: Tensor, focal: float) -> Tensor:
    """How many times steeper than that of -log p the slope of -(1 - p)^γ log p is, from log p.

    (1 - p)^γ - γ p log p (1 - p)^(γ - 1), finite at p = 1.
    """
    rest = logs.expm1().neg_()
    near_one = rest.clamp(min=torch.finfo(rest.dtype).tiny)
    return rest.pow(focal) - focal * logs.exp() * logs * near_one.pow(focal - 1)


def _one_hot(labels: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """`(K, voxels)`, all 0 where there is no label; and `(voxels,)`, 1 where there is one."""
    classes, voxels = scores.shape
    ignore_first = torch.zeros(
        classes + 1, voxels, dtype=precision(scores), device=scores.device
    ).scatter_(0, labels[None] - IGNORE, 1)
    return ignore_first[1:], 1 - ignore_first[0]


def precision(scores: Tensor) -> torch.dtype:
    return torch.promote_types(scores.dtype, torch.float32)
