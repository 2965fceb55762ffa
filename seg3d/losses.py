"""Soft Dice plus cross-entropy, and their relatives for rare classes; blind to unlabelled voxels.

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

from seg3d.common.device import is_on_cpu

IGNORE = -1

# Scores that are worked on at a time: about what fits into a CPU's cache, or keeps a GPU busy.
SLAB = 2**19
GPU_SLAB = 2**22


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

    For the backward pass the scores and the target are kept, and no copy of either. The losses can
    be differentiated once.

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
            sums = _SumsOverVoxels.apply(score, target, self.focal)
            overlap, predicted, reference, entropy = sums
            size = self._size(overlap, predicted, reference)
            dice = dice + weight * _dice_loss(overlap, size, self.batch_dice)
            cross_entropy = cross_entropy + weight * self._mean(entropy, reference)
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


def heads(output: Any) -> list[Tensor]:
    """The class scores of a network as a list, finest first.

    Args:
        output: one tensor `(B, K, D, H, W)`, a list of such, or MONAI's stack
            `(B, heads, K, D, H, W)`.
    """
    if isinstance(output, Tensor):
        return list(output.unbind(1)) if output.ndim == 6 else [output]
    return list(output)


def _dice_loss(overlap: Tensor, size: Tensor, batch_dice: bool) -> Tensor:
    """One minus the mean soft Dice of the foreground classes.

    A class that is absent from the reference and gets no probability counts as perfect.

    Args:
        overlap: of prediction and reference, `(B, K)`.
        size: of both together, `(B, K)`, or what takes its place.
        batch_dice: sum over the batch before the ratio is taken.
    """
    if batch_dice:
        overlap, size = overlap.sum(0), size.sum(0)
    tiny = 1e-5
    dice = (2 * overlap + tiny) / (size + tiny)
    return 1 - dice[..., 1:].mean()


class _SumsOverVoxels(torch.autograd.Function):
    """What the losses need to know of the scores `(B, K, D', H', W')`; see :func:`_sums`.

    Returns, per sample, overlap, predicted, reference and entropy, all `(B, K)`.
    """

    @staticmethod
    def forward(ctx: Any, scores: Tensor, target: Tensor, focal: float) -> tuple[Tensor, ...]:
        ctx.save_for_backward(scores, target)
        ctx.focal = focal
        totals = torch.zeros(
            4, *scores.shape[:2], dtype=_precision(scores), device=scores.device
        ).unbind()
        for place, labels in _slabs(scores, target):
            parts = _sums(scores[place].flatten(1), labels, focal)
            for total, part in zip(totals, parts, strict=True):
                total[place[0]] += part
        ctx.mark_non_differentiable(totals[2])
        return totals

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, by_overlap: Tensor, by_predicted: Tensor, _: Tensor, by_entropy: Tensor
    ) -> tuple[Tensor, None, None]:
        scores, target = ctx.saved_tensors
        gradient = torch.empty_like(scores)
        for place, labels in _slabs(scores, target):
            by = (slopes[place[0]] for slopes in (by_overlap, by_predicted, by_entropy))
            slab = gradient[place]
            own = scores[place].flatten(1)
            slab.copy_(_gradient(own, labels, ctx.focal, *by).view(slab.shape))
        return gradient, None, None


def _slabs(scores: Tensor, target: Tensor) -> Iterator[tuple[tuple[int, slice, slice], Tensor]]:
    """Cut the scores into ranges of depth rows of one sample.

    Yields:
        Where the slab lies in the scores, beginning with the sample, and its labels `(voxels,)`.
    """
    size = scores.shape[2:]
    rows = max(1, _slab_elements(scores) // scores[0, :, 0].numel())
    for sample in range(len(scores)):
        for start in range(0, size[0], rows):
            part = slice(start, start + rows)
            yield (sample, slice(None), part), _nearest_labels(target[sample, 0], part, size)


def _slab_elements(scores: Tensor) -> int:
    return SLAB if is_on_cpu(scores) else GPU_SLAB


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


def _sums(scores: Tensor, labels: Tensor, focal: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
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


def _gradient(
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
        classes + 1, voxels, dtype=_precision(scores), device=scores.device
    ).scatter_(0, labels[None] - IGNORE, 1)
    return ignore_first[1:], 1 - ignore_first[0]


def _precision(scores: Tensor) -> torch.dtype:
    return torch.promote_types(scores.dtype, torch.float32)
