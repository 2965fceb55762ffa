"""The sums over voxels of which the losses are made, and their gradients, slab by slab.

Left to autograd, softmax, log-softmax and the one-hot reference would each be kept at the size of
the scores. Here the backward pass computes the probabilities again; and the scores themselves too,
where the loss is given what they are made of (:class:`Unscored`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from seg3d.common.private import is_private_though_saved
from seg3d.losses.heads import Scores, Unscored
from seg3d.losses.of_voxels import OfVoxels, Sums, precision
from seg3d.losses.slabs import slabs


def sums_over_voxels(scores: Scores, target: Tensor, of_voxels: OfVoxels) -> Sums:
    """What the losses need to know of a head.

    Args:
        scores: `(B, K, D', H', W')`.
        target: `(B, 1, D, H, W)`.
        of_voxels: what the losses are made of.

    Returns:
        Per sample and class, `(B, K)` each, all of them differentiable but what is of the reference
        alone.
    """
    if isinstance(scores, Unscored):
        parts = scores.features, scores.weight, scores.bias
        return Sums(*_SumsOfUnscored.apply(*parts, target, of_voxels))
    return Sums(*_SumsOfScores.apply(scores, target, of_voxels))


class _SumsOfScores(torch.autograd.Function):
    """The gradient is written over the scores, if nobody else holds them."""

    @staticmethod
    def forward(
        ctx: Any, scores: Tensor, target: Tensor, of_voxels: OfVoxels
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(scores, target)
        ctx.of_voxels = of_voxels
        total = _no_sums(len(scores), scores.shape[1], scores)
        for place, labels in slabs(scores.shape[2:], scores.shape[1], target):
            _add(total, place[0], of_voxels.sums(scores[place].flatten(1), labels))
        ctx.mark_non_differentiable(total.reference, total.counted)
        return tuple(total)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *by_sums: Tensor) -> tuple[Tensor | None, ...]:
        scores, target = ctx.saved_tensors
        dscores = scores if is_private_though_saved(scores) else torch.empty_like(scores)
        for place, labels in slabs(scores.shape[2:], scores.shape[1], target):
            by = _of_sample(by_sums, place[0])
            slab = dscores[place]
            found = ctx.of_voxels.gradient(scores[place].flatten(1), labels, *by)
            slab.copy_(found.view(slab.shape))
            del found  # which need not be there beside the next
        return dscores, None, None


class _SumsOfUnscored(torch.autograd.Function):
    """The gradient with respect to the features is written over them, likewise."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        target: Tensor,
        of_voxels: OfVoxels,
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(features, weight, bias, target)
        ctx.of_voxels = of_voxels
        layer = _layer(weight, bias, features)
        total = _no_sums(len(features), len(weight), features)
        for place, labels in slabs(features.shape[2:], len(weight), target, features.shape[1]):
            scores = _scored(features[place].flatten(1), layer)
            _add(total, place[0], of_voxels.sums(scores, labels))
            del scores
        ctx.mark_non_differentiable(total.reference, total.counted)
        return tuple(total)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *by_sums: Tensor) -> tuple[Tensor | None, ...]:
        features, weight, bias, target = ctx.saved_tensors
        layer = _layer(weight, bias, features)
        dfeatures = features if is_private_though_saved(features) else torch.empty_like(features)
        exact = precision(features)
        dweight = weight.new_zeros(weight.shape[:2], dtype=exact)
        dbias = weight.new_zeros(len(weight), dtype=exact)
        for place, labels in slabs(features.shape[2:], len(weight), target, features.shape[1]):
            x = features[place].flatten(1)
            by = _of_sample(by_sums, place[0])
            dscores = ctx.of_voxels.gradient(_scored(x, layer), labels, *by)
            dbias += dscores.sum(1)
            dscores = dscores.to(x.dtype)
            dweight += dscores @ x.T
            slab = dfeatures[place]
            slab.copy_((layer[0].T @ dscores).view(slab.shape))
            del x, dscores, slab  # which need not be there beside the next
        return (
            dfeatures,
            dweight.view(weight.shape).to(weight.dtype),
            None if bias is None else dbias.to(bias.dtype),
            None,
            None,
        )


def _layer(weight: Tensor, bias: Tensor | None, features: Tensor) -> tuple[Tensor, Tensor | None]:
    """Weight `(K, C)` and bias `(K, 1)` in the features' type."""
    matrix = weight.flatten(1).to(features.dtype)
    return matrix, None if bias is None else bias[:, None].to(features.dtype)


def _scored(x: Tensor, layer: tuple[Tensor, Tensor | None]) -> Tensor:
    """`(K, voxels)` from `(C, voxels)`."""
    matrix, bias = layer
    return matrix @ x if bias is None else torch.addmm(bias, matrix, x)


def _no_sums(batch: int, classes: int, like: Tensor) -> Sums:
    shape = len(Sums._fields), batch, classes
    return Sums(*torch.zeros(shape, dtype=precision(like), device=like.device).unbind())


def _add(total: Sums, sample: int, parts: Iterable[Tensor]) -> None:
    for one, part in zip(total, parts, strict=True):
        one[sample].add_(part)


def _of_sample(by_sums: Sequence[Tensor], sample: int) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients with respect to overlap, predicted and entropy."""
    by = Sums(*(one[sample] for one in by_sums))
    return by.overlap, by.predicted, by.entropy
