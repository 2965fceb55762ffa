"""Soft Dice plus cross-entropy and relatives for rare classes, blind to unlabelled voxels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, distributed, nn

from seg3d.losses.heads import Scores
from seg3d.losses.over_processes import sum_over_processes
from seg3d.losses.voxel_sums import sums_over_voxels


class DiceCrossEntropy(nn.Module):
    """Weighted sum of the soft Dice loss and the cross-entropy over all heads of a network.

    Dice follows Milletari et al. (V-Net, 3DV 2016) in the form of nnU-Net: over foreground classes,
    over softmax probabilities, without squares. Heads at lower resolutions count half as much from
    one level to the next, and the weights sum to one.

    With α or β other than ½ the Dice term is that of the Tversky index, TP / (TP + α FP + β FN) of
    every foreground class, where TP, FP and FN are the sums over voxels of p·r, p·(1 - r) and
    (1 - p)·r, p being the class's probability and r its reference (Salehi et al., MLMI 2017):
    β > α counts misses more than false alarms.

    The cross-entropy is the mean of -w (1 - p)^γ log p over the voxels, where p is the probability
    of the voxel's own class and w the weight of that class; the mean is over the sum of w. With
    γ > 0 it is the focal loss (Lin et al., ICCV 2017, equation 5): the larger γ, the less a voxel
    counts that is right already.

    For the backward pass the scores, or what they are to be made of, and the target are kept, and
    no copy of either. The losses can be differentiated once.

    Args:
        dice: weight of the Dice term.
        cross_entropy: weight of the cross-entropy term.
        batch_dice: one Dice per class over the whole batch instead of one per patch.
        tversky: α and β, the weights of false alarms and of misses; both ½ are Dice.
        focal: γ of the focal loss, not negative; 0 is the cross-entropy.
        class_weights: of the K classes in the cross-entropy, background first; None for 1 each.
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
    ) -> None:
        super().__init__()
        self.dice = dice
        self.cross_entropy = cross_entropy
        self.batch_dice = batch_dice
        self.tversky = tversky
        self.focal = focal
        self.class_weights = class_weights

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
        for weight, score in zip(weights, scores, strict=True):
            sums = torch.stack(sums_over_voxels(score, target, self.focal))
            total = sums.sum(1, keepdim=True)
            if group is not None:
                total = sum_over_processes(total, group)
            overlap, predicted, reference, _ = total if self.batch_dice else sums
            of_head = _dice_loss(overlap, self._size(overlap, predicted, reference))
            if group is not None and not self.batch_dice:
                of_head = sum_over_processes(of_head, group) / group.size()
            dice = dice + weight * of_head
            cross_entropy = cross_entropy + weight * self._mean(total[3], total[2])
        loss = self.dice * dice + self.cross_entropy * cross_entropy
        return {"loss": loss, "dice": dice, "cross_entropy": cross_entropy}

    def _size(self, overlap: Tensor, predicted: Tensor, reference: Tensor) -> Tensor:
        """Twice the denominator of the Tversky index; of Dice, the size of both together."""
        alpha, beta = self.tversky
        return 2 * ((1 - alpha - beta) * overlap + alpha * predicted + beta * reference)

    def _mean(self, entropy: Tensor, reference: Tensor) -> Tensor:
        """Weighted mean over the labelled voxels, from sums `(B, K)`; 0 if there are none."""
        if self.class_weights is not None:
            weights = entropy.new_tensor(self.class_weights)
            entropy, reference = weights * entropy, weights * reference
        voxels = reference.sum()
        return entropy.sum() / voxels.where(voxels > 0, 1)


def _dice_loss(overlap: Tensor, size: Tensor) -> Tensor:
    """One minus the mean soft Dice of the foreground classes.

    A class that is absent from the reference and gets no probability counts as perfect.

    Args:
        overlap: of prediction and reference, `(B, K)`, or `(1, K)` of the whole batch.
        size: of both together, or what takes its place, likewise.
    """
    tiny = 1e-5
    dice = (2 * overlap + tiny) / (size + tiny)
    return 1 - dice[..., 1:].mean()
