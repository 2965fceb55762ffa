"""What some voxels contribute to the losses, and its slopes; those without a label nothing."""

from __future__ import annotations

import torch
from torch import Tensor

IGNORE = -1


def sums(scores: Tensor, labels: Tensor, focal: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sums over the labelled voxels, with p = softmax(scores) and the one-hot reference r.

    Args:
        scores: `(K, voxels)`.
        labels: `(voxels,)` class numbers or `IGNORE`.
        focal: γ.

    Returns, all `(K,)`:
        overlap: of p·r.
        predicted: of p.
        reference: of r.
        entropy: of -(1 - p)^γ log p, in the class of the reference.
    """
    r, labelled = _one_hot(labels, scores)
    logs = scores.log_softmax(0, dtype=r.dtype)
    entropy = _of_reference(logs, labels).neg_()
    if focal:
        entropy.mul_(entropy.neg().expm1_().neg_().pow_(focal))
    p = logs.exp_().mul_(labelled)
    predicted = p.sum(1)
    return p.mul_(r).sum(1), predicted, r.sum(1), r.mul_(entropy).sum(1)


def gradient(
    scores: Tensor,
    labels: Tensor,
    focal: float,
    by_overlap: Tensor,
    by_predicted: Tensor,
    by_entropy: Tensor,
) -> Tensor:
    """Gradient with respect to the scores `(K, voxels)` from those with respect to the sums."""
    by_voxel = by_entropy[labels.clamp(min=0)]
    if focal:
        logs = _of_reference(scores.log_softmax(0, dtype=by_voxel.dtype), labels)
        by_voxel.mul_(_focal_slope(logs, focal))
    r, labelled = _one_hot(labels, scores)
    # Where there is no label, p = r = 0 makes all that follows 0.
    p = scores.softmax(0, dtype=r.dtype).mul_(labelled)
    by_p = torch.addcmul(by_predicted[:, None], by_overlap[:, None], r)
    by_scores = by_p.sub_((p * by_p).sum(0)).mul_(p)
    return by_scores.add_(p.sub_(r).mul_(by_voxel))


def _of_reference(logs: Tensor, labels: Tensor) -> Tensor:
    """Of `(K, voxels)`, that of each voxel's reference class; 0 where there is no label."""
    return logs.gather(0, labels.clamp(min=0)[None])[0].where(labels != IGNORE, 0)


def _focal_slope(logs: Tensor, focal: float) -> Tensor:
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
