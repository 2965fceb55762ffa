"""Soft Dice plus cross-entropy, blind to voxels that carry no label.

Left to autograd, softmax, log-softmax and the one-hot reference would each be kept at the size of
the scores. Here both losses come from a few sums over voxels, taken slab by slab, and the backward
pass computes the probabilities again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

IGNORE = -1

# Scores that are worked on at a time: about what fits into a CPU's cache.
SLAB = 2**19


class DiceCrossEntropy(nn.Module):
    """Weighted sum of the soft Dice loss and the cross-entropy over all heads of a network.

    Dice follows Milletari et al. (V-Net, 3DV 2016) in the form of nnU-Net: over foreground classes,
    over softmax probabilities, without squares. Heads at lower resolutions count half as much from
    one level to the next, and the weights sum to one.

    For the backward pass the scores and the target are kept, and no copy of either. The losses can
    be differentiated once.

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
            The scalars ``loss`` (to be minimised), ``dice`` and ``cross_entropy``, all of them
            differentiable; float32, or float64 if the scores are.
        """
        weights = [0.5**level for level in range(len(scores))]
        weights = [weight / sum(weights) for weight in weights]
        dice = cross_entropy = scores[0].new_zeros((), dtype=torch.float32)
        for weight, score in zip(weights, scores, strict=True):
            overlap, predicted, reference, entropy = _SumsOverVoxels.apply(score, target)
            dice = dice + weight * _dice_loss(overlap, predicted + reference, self.batch_dice)
            # Mean over the labelled voxels; 0 if there are none.
            cross_entropy = cross_entropy + weight * entropy.sum() / reference.sum().clamp(min=1)
        loss = self.dice * dice + self.cross_entropy * cross_entropy
        return {"loss": loss, "dice": dice, "cross_entropy": cross_entropy}


def _dice_loss(overlap: Tensor, size: Tensor, batch_dice: bool) -> Tensor:
    """One minus the mean soft Dice of the foreground classes.

    A class that is absent from the reference and gets no probability counts as perfect.

    Args:
        overlap: of prediction and reference, `(B, K)`.
        size: of both together, `(B, K)`.
        batch_dice: sum over the batch before the ratio is taken.
    """
    if batch_dice:
        overlap, size = overlap.sum(0), size.sum(0)
    tiny = 1e-5
    dice = (2 * overlap + tiny) / (size + tiny)
    return 1 - dice[..., 1:].mean()


class _SumsOverVoxels(torch.autograd.Function):
    """What the losses need to know of the scores `(B, K, D', H', W')`; see :func:`_sums`.

    Returns, per sample, overlap `(B, K)`, predicted `(B, K)`, reference `(B, K)` and
    entropy `(B,)`.
    """

    @staticmethod
    def forward(ctx: Any, scores: Tensor, target: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(scores, target)
        entropy = torch.zeros(len(scores), dtype=_precision(scores), device=scores.device)
        overlap, predicted, reference = entropy.new_zeros(3, *scores.shape[:2])
        for place, labels in _slabs(scores, target):
            parts = _sums(scores[place].flatten(1), labels)
            for total, part in zip((overlap, predicted, reference, entropy), parts, strict=True):
                total[place[0]] += part
        ctx.mark_non_differentiable(reference)
        return overlap, predicted, reference, entropy

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, by_overlap: Tensor, by_predicted: Tensor, _: Tensor, by_entropy: Tensor
    ) -> tuple[Tensor, None]:
        scores, target = ctx.saved_tensors
        gradient = torch.empty_like(scores)
        for place, labels in _slabs(scores, target):
            by = (slopes[place[0]] for slopes in (by_overlap, by_predicted, by_entropy))
            slab = gradient[place]
            slab.copy_(_gradient(scores[place].flatten(1), labels, *by).view(slab.shape))
        return gradient, None


def _slabs(scores: Tensor, target: Tensor) -> Iterator[tuple[tuple[int, slice, slice], Tensor]]:
    """Cut the scores into ranges of depth rows of one sample.

    Yields:
        Where the slab lies in the scores, beginning with the sample, and its labels `(voxels,)`.
    """
    size = scores.shape[2:]
    rows = max(1, SLAB // scores[0, :, 0].numel())
    for sample in range(len(scores)):
        for start in range(0, size[0], rows):
            part = slice(start, start + rows)
            yield (sample, slice(None), part), _nearest_labels(target[sample, 0], part, size)


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


def _sums(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sums over the labelled voxels, with p = softmax(scores) and the one-hot reference r.

    Args:
        scores: `(K, voxels)`.
        labels: `(voxels,)` class numbers or `IGNORE`.

    Returns:
        overlap: `(K,)`, of p·r.
        predicted: `(K,)`, of p.
        reference: `(K,)`, of r.
        entropy: scalar, of -log p of the reference class.
    """
    r, labelled = _one_hot(labels, scores)
    logs = scores.log_softmax(0, dtype=r.dtype)
    logs_of_reference = logs.gather(0, labels.clamp(min=0)[None])[0]
    entropy = -logs_of_reference.where(labels != IGNORE, 0).sum()
    p = logs.exp_().mul_(labelled)
    predicted = p.sum(1)
    return p.mul_(r).sum(1), predicted, r.sum(1), entropy


def _gradient(
    scores: Tensor, labels: Tensor, by_overlap: Tensor, by_predicted: Tensor, by_entropy: Tensor
) -> Tensor:
    """Gradient with respect to the scores `(K, voxels)` from those with respect to the sums."""
    r, labelled = _one_hot(labels, scores)
    # Where there is no label, p = r = 0 makes all that follows 0.
    p = scores.softmax(0, dtype=r.dtype).mul_(labelled)
    by_p = torch.addcmul(by_predicted[:, None], by_overlap[:, None], r)
    by_scores = by_p.sub_((p * by_p).sum(0)).mul_(p)
    return by_scores.add_(p.sub_(r).mul_(by_entropy))


def _one_hot(labels: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """`(K, voxels)`, all 0 where there is no label; and `(voxels,)`, 1 where there is one."""
    classes, voxels = scores.shape
    ignore_first = torch.zeros(
        classes + 1, voxels, dtype=_precision(scores), device=scores.device
    ).scatter_(0, labels[None] - IGNORE, 1)
    return ignore_first[1:], 1 - ignore_first[0]


def _precision(scores: Tensor) -> torch.dtype:
    return torch.promote_types(scores.dtype, torch.float32)
