"""Soft Dice plus cross-entropy, blind to voxels that carry no label."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

IGNORE = -1


class DiceCrossEntropy(nn.Module):
    """Weighted sum of the soft Dice loss and the cross-entropy over all heads of a network.

    Dice follows Milletari et al. (V-Net, 3DV 2016) in the form of nnU-Net: over foreground classes,
    over softmax probabilities, without squares. Heads at lower resolutions count half as much from
    one level to the next, and the weights sum to one.

    Args:
        dice: weight of the Dice term.
        cross_entropy: weight of the cross-entropy term.
        batch_dice: one Dice per class over the whole batch instead of one per patch.
    """

    def __init__(
        self, dice: float = 1.0, cross_entropy: float = 1.0, batch_dice: bool = True
    ) -> None:
        super().__init__()
        self.dice = dice
        self.cross_entropy = cross_entropy
        self.batch_dice = batch_dice

    def forward(self, scores: Sequence[Tensor], target: Tensor) -> dict[str, Tensor]:
        """Losses of a batch.

        Args:
            scores: per head `(B, K, D', H', W')`, finest first.
            target: `(B, 1, D, H, W)` class numbers, `IGNORE` where there is no label.

        Returns:
            The scalars ``loss`` (to be minimised), ``dice`` and ``cross_entropy``.
        """
        weights = [0.5**level for level in range(len(scores))]
        weights = [weight / sum(weights) for weight in weights]
        parts = {"dice": scores[0].new_zeros((), dtype=torch.float32)}
        parts["cross_entropy"] = parts["dice"]
        for weight, score in zip(weights, scores, strict=True):
            labels = _at_resolution(target, score.shape[2:])
            score = score.float()
            if self.cross_entropy:
                cross_entropy = masked_cross_entropy(score, labels)
                parts["cross_entropy"] = parts["cross_entropy"] + weight * cross_entropy
            if self.dice:
                dice = soft_dice_loss(score.softmax(1), labels, self.batch_dice)
                parts["dice"] = parts["dice"] + weight * dice
        parts["loss"] = self.dice * parts["dice"] + self.cross_entropy * parts["cross_entropy"]
        return parts


def masked_cross_entropy(scores: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy over the labelled voxels; 0 if there are none.

    Args:
        scores: `(B, K, D, H, W)` before softmax.
        target: `(B, D, H, W)` class numbers or `IGNORE`.
    """
    total = F.cross_entropy(scores, target, ignore_index=IGNORE, reduction="sum")
    return total / (target != IGNORE).sum().clamp(min=1)


def soft_dice_loss(probabilities: Tensor, target: Tensor, batch_dice: bool) -> Tensor:
    """One minus the mean soft Dice of the foreground classes.

    A class that is absent from the reference and gets no probability counts as perfect.

    Args:
        probabilities: `(B, K, D, H, W)`.
        target: `(B, D, H, W)` class numbers or `IGNORE`.
        batch_dice: sum over the batch before the ratio is taken.
    """
    labelled = (target != IGNORE).unsqueeze(1)
    classes = target.clamp(min=0).unsqueeze(1)
    reference = torch.zeros_like(probabilities).scatter_(1, classes, 1) * labelled
    axes = [0, 2, 3, 4] if batch_dice else [2, 3, 4]
    overlap = (probabilities * reference).sum(axes)
    size = (probabilities * labelled).sum(axes) + reference.sum(axes)
    tiny = 1e-5
    dice = (2 * overlap + tiny) / (size + tiny)
    return 1 - dice[..., 1:].mean()


def _at_resolution(target: Tensor, size: torch.Size) -> Tensor:
    if target.shape[2:] != size:
        target = F.interpolate(target.float(), size=size, mode="nearest-exact")
    return target[:, 0].long()
