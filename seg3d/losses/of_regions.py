"""What some voxels contribute to the losses of regions, of which a voxel may be in several."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from seg3d.losses.of_voxels import IGNORE, Sums, focal_slope, precision


@dataclass(frozen=True)
class OfRegions:
    """A voxel is in a region or not, whatever the others: p = sigmoid(score), of each by itself.

    The cross-entropy is -(1 - q)^γ log q, q being p in the region and 1 - p outside.

    Attributes:
        focal: γ.
        members: `(K, labels)` bool: which labels are in which region.
    """

    focal: float
    members: Tensor

    def sums(self, scores: Tensor, labels: Tensor) -> Sums:
        r, labelled = self._reference(labels, scores)
        logs = self._log_of_right(scores, r)
        right = logs.neg() if not self.focal else -logs * logs.expm1().neg_().pow_(self.focal)
        entropy = right.mul_(labelled).sum(1)
        p = scores.to(r.dtype).sigmoid().mul_(labelled)
        predicted, reference = p.sum(1), r.sum(1)
        counted = labelled.sum().expand_as(reference)
        return Sums(p.mul_(r).sum(1), predicted, reference, entropy, counted)

    def gradient(
        self,
        scores: Tensor,
        labels: Tensor,
        by_overlap: Tensor,
        by_predicted: Tensor,
        by_entropy: Tensor,
    ) -> Tensor:
        r, labelled = self._reference(labels, scores)
        p = scores.to(r.dtype).sigmoid()
        by_scores = torch.addcmul(by_predicted[:, None], by_overlap[:, None], r)
        by_scores.mul_(p).mul_(1 - p)
        slope = p.sub_(r).mul_(by_entropy[:, None])
        if self.focal:
            slope.mul_(focal_slope(self._log_of_right(scores, r), self.focal))
        return by_scores.add_(slope).mul_(labelled)

    def _reference(self, labels: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """`(K, voxels)` and `(voxels,)`: what is in each region, and what has a label."""
        known = labels != IGNORE
        r = self.members.to(precision(scores)).index_select(1, labels.clamp(min=0))
        labelled = known.to(r.dtype)
        return r.mul_(labelled), labelled

    def _log_of_right(self, scores: Tensor, r: Tensor) -> Tensor:
        """log q, `(K, voxels)`."""
        return F.logsigmoid(scores.to(r.dtype) * r.mul(2).sub_(1))
