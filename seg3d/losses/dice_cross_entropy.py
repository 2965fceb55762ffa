"""Soft Dice plus cross-entropy and relatives for rare classes, blind to unlabelled voxels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, distributed, nn

from seg3d.losses.heads import Scores
from seg3d.losses.of_regions import OfRegions
from seg3d.losses.of_voxels import OfClasses, OfVoxels, Sums
from seg3d.losses.over_processes import sum_over_processes
from seg3d.losses.voxel_sums import sums_over_voxels


class DiceCrossEntropy(nn.Module):
    """Weighted sum of the soft Dice loss and the cross-entropy over all heads of a network.

    Dice follows Milletari et al. (V-Net, 3DV 2016) in the form of nnU-Net: over foreground classes,
    over softmax probabilities, without squares; or over regions, over sigmoid ones. Heads at lower
    resolutions count half as much from one level to the next, and the weights sum to one.

    With α or β other than ½ the Dice term is that of the Tversky index, TP / (TP + α FP + β FN) of
    every foreground class, where TP, FP and FN are the sums over voxels of p·r, p·(1 - r) and
    (1 - p)·r, p being the class's probability and r its reference (Salehi et al., MLMI 2017):
    β > α counts misses more than false alarms.

    The cross-entropy is the mean of -w (1 - p)^γ log p over the voxels, where p is the probability
    of the voxel's own class and w the weight of that class; the mean is over the sum of w. With
    γ > 0 it is the focal loss (Lin et al., ICCV 2017, equation 5): the larger γ, the less a voxel
    counts that is right already. Of regions it is the binary one: the mean is over voxels and
    regions, p the probability of being in the region or outside, as the voxel is, and w the weight
    of the region.

    For the backward pass the scores, or what they are to be made of, and the target are kept, and
    no copy of either. The losses can be differentiated once.

    Args:
        dice: weight of the Dice term.
        cross_entropy: weight of the cross-entropy term.
        batch_dice: one Dice per class over the whole batch instead of one per patch.
        tversky: α and β, the weights of false alarms and of misses; both ½ are Dice.
        focal: γ of the focal loss, not negative; 0 is the cross-entropy.
        class_weights: of the K classes in the cross-entropy, background first; None for 1 each.
        regions: the K classes are regions that may overlap, without background: for each of them,
            of every number in the target, whether it is in it. None if no two classes overlap.
    """

    def __init__(
        self,
        dice: float = 1.0,
        cross_entropy: float = 1.0,
        batch_dice: bool = True,
        *,
        tversky: tuple[float, float] = (0.5, 0.5),
        focal: float = 0.0,
        class_weights: Sequence[float] | None = None,
        regions: Sequence[Sequence[bool]] | None = None,
    ) -> None:
        super().__init__()
        self.dice = dice
        self.cross_entropy = cross_entropy
        self.batch_dice = batch_dice
        self.tversky = tversky
        self.focal = focal
        self.class_weights = class_weights
        self.regions = regions

    def forward(
        self,
        scores: Sequence[Scores],
        target: Tensor,
        group: distributed.ProcessGroup | None = None,
    ) -> dict[str, Tensor]:
        """Losses of a batch.

        Args:
            scores: per head `(B, K, D', H', W')`, finest first.
            target: `(B, 1, D, H, W)` class numbers, `IGNORE` where there is no label.
            group: of processes each of which has as large a part of the batch. The losses are those
                of the whole batch, on every process, and the mean of the processes' gradients, as
                `DistributedDataParallel` takes it, is the gradient of the whole batch.

        Returns:
            The scalars ``loss`` (to be minimised), ``dice`` and ``cross_entropy``, all of them
            differentiable; float32, or float64 if the scores are.
        """
        weights = [0.5**level for level in range(len(scores))]
        weights = [weight / sum(weights) for weight in weights]
        dice = cross_entropy = target.new_zeros((), dtype=torch.float32)
        of_voxels = self._of_voxels(target)
        for weight, score in zip(weights, scores, strict=True):
            sums = torch.stack(sums_over_voxels(score, target, of_voxels))
            total = sums.sum(1, keepdim=True)
            if group is not None:
                total = sum_over_processes(total, group)
            of_head = self._dice_loss(Sums(*(total if self.batch_dice else sums)))
            if group is not None and not self.batch_dice:
                of_head = sum_over_processes(of_head, group) / group.size()
            dice = dice + weight * of_head
            cross_entropy = cross_entropy + weight * self._mean(Sums(*total))
        loss = self.dice * dice + self.cross_entropy * cross_entropy
        return {"loss": loss, "dice": dice, "cross_entropy": cross_entropy}

    def _of_voxels(self, target: Tensor) -> OfVoxels:
        if self.regions is None:
            return OfClasses(self.focal)
        return OfRegions(self.focal, target.new_tensor(self.regions, dtype=torch.bool))

    def _dice_loss(self, sums: Sums) -> Tensor:
        """One minus the mean soft Dice of all regions, or of all classes but background.

        A class that is absent from the reference and gets no probability counts as perfect.

        Args:
            sums: `(B, K)` each, or `(1, K)` of the whole batch.
        """
        alpha, beta = self.tversky
        overlap, tiny = sums.overlap, 1e-5
        # Twice the denominator of the Tversky index; of Dice, the size of both together.
        size = 2 * ((1 - alpha - beta) * overlap + alpha * sums.predicted + beta * sums.reference)
        dice = (2 * overlap + tiny) / (size + tiny)
        return 1 - (dice[..., 1:] if self.regions is None else dice).mean()

    def _mean(self, sums: Sums) -> Tensor:
        """Weighted mean over the labelled voxels, from sums `(B, K)`; 0 if there are none."""
        entropy, counted = sums.entropy, sums.counted
        if self.class_weights is not None:
            weights = entropy.new_tensor(self.class_weights)
            entropy, counted = weights * entropy, weights * counted
        voxels = counted.sum()
        return entropy.sum() / voxels.where(voxels > 0, 1)
