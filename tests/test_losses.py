"""The loss against double-precision arithmetic by hand, and against MONAI's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.losses import DiceCELoss
from torch import Tensor
from torch.nn import functional as F

from seg3d.losses import IGNORE, DiceCrossEntropy, masked_cross_entropy, soft_dice_loss


def draw(
    shape: tuple[int, int, int, int, int] = (2, 4, 5, 6, 7), unlabelled: float = 0.3, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Scores and a target of which some voxels have no label."""
    generator = torch.Generator().manual_seed(seed)
    batch, classes, *size = shape
    scores = 2 * torch.randn(shape, generator=generator, dtype=torch.float64)
    target = torch.randint(classes, (batch, 1, *size), generator=generator)
    hidden = torch.rand(target.shape, generator=generator) < unlabelled
    return scores, target.masked_fill(hidden, IGNORE).short()


def by_hand(scores: Tensor, target: Tensor, batch_dice: bool) -> tuple[float, float]:
    """Dice loss and cross-entropy, voxel by voxel and class by class."""
    values, labels = scores.double().numpy(), target.numpy()[:, 0]
    batch, classes = values.shape[:2]
    exponentials = np.exp(values - values.max(1, keepdims=True))
    probabilities = exponentials / exponentials.sum(1, keepdims=True)
    entropies, dices = [], []
    for groups in [range(batch)] if batch_dice else [[one] for one in range(batch)]:
        for number in range(1, classes):
            overlap = size = 0.0
            for one in groups:
                known = labels[one] >= 0
                predicted, reference = probabilities[one, number], labels[one] == number
                overlap += (predicted * reference)[known].sum()
                size += predicted[known].sum() + reference[known].sum()
            dices.append((2 * overlap + 1e-5) / (size + 1e-5))
    for one in range(batch):
        for place in np.argwhere(labels[one] >= 0):
            number = labels[(one, *place)]
            entropies.append(-np.log(probabilities[(one, number, *place)]))
    return 1 - np.mean(dices), np.mean(entropies)


@pytest.mark.parametrize("batch_dice", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_against_arithmetic_by_hand(batch_dice: bool, dtype: torch.dtype) -> None:
    scores, target = draw()
    scores = scores.to(dtype)
    parts = DiceCrossEntropy(0.7, 1.3, batch_dice)([scores], target)
    dice, cross_entropy = by_hand(scores, target, batch_dice)
    assert all(value.dtype == torch.float32 and value.shape == () for value in parts.values())
    assert parts["dice"].item() == pytest.approx(dice, rel=1e-5)
    assert parts["cross_entropy"].item() == pytest.approx(cross_entropy, rel=1e-5)
    assert parts["loss"].item() == pytest.approx(0.7 * dice + 1.3 * cross_entropy, rel=1e-5)


@pytest.mark.parametrize("batch_dice", [True, False])
def test_against_monai_where_all_is_labelled(batch_dice: bool) -> None:
    scores, target = draw(unlabelled=0.0)
    monai = DiceCELoss(
        include_background=False, to_onehot_y=True, softmax=True, batch=batch_dice,
        smooth_nr=1e-5, smooth_dr=1e-5, lambda_dice=0.4, lambda_ce=0.0,
    )(scores, target)  # fmt: skip
    entropy = F.cross_entropy(scores, target[:, 0].long())
    parts = DiceCrossEntropy(0.4, 2.0, batch_dice)([scores], target)
    assert 0.4 * parts["dice"].item() == pytest.approx(monai.item(), rel=1e-6)
    assert parts["loss"].item() == pytest.approx(monai.item() + 2 * entropy.item(), rel=1e-6)


def test_voxels_without_label_have_no_influence_and_no_gradient() -> None:
    scores, target = draw()
    known = target != IGNORE
    other = torch.where(known, scores, -5 * scores + 1).requires_grad_()
    loss = DiceCrossEntropy()
    first, second = loss([scores], target)["loss"], loss([other], target)["loss"]
    assert first.item() == second.item()
    second.backward()
    assert other.grad is not None
    assert (other.grad[~known.expand_as(other)] == 0).all()
    assert (other.grad[known.expand_as(other)] != 0).all()


@pytest.mark.parametrize("batch_dice", [True, False])
@pytest.mark.parametrize("every", [True, False])
def test_patches_without_any_label(batch_dice: bool, every: bool) -> None:
    scores, target = draw()
    target[: 2 if every else 1] = IGNORE
    scores.requires_grad_()
    parts = DiceCrossEntropy(batch_dice=batch_dice)([scores], target)
    parts["loss"].backward()
    assert scores.grad is not None
    assert parts["loss"].isfinite() and scores.grad.isfinite().all()
    assert (scores.grad[0] == 0).all()
    assert every == bool((scores.grad[1] == 0).all())
    if every:
        assert parts["loss"].item() == 0


def test_classes_that_are_absent() -> None:
    """Perfect if not predicted; else as bad as can be, and pushed down."""
    target = torch.zeros(1, 1, 4, 4, 4, dtype=torch.int16)
    target[0, 0, 0] = 1
    scores = torch.full((1, 4, 4, 4, 4), -80.0)
    scores.scatter_(1, target.long(), 80.0)
    parts = DiceCrossEntropy()([scores], target)
    assert parts["dice"].item() == pytest.approx(0, abs=1e-6)
    assert parts["cross_entropy"].item() == pytest.approx(0, abs=1e-6)
    wrong = torch.zeros(1, 4, 4, 4, 4, requires_grad=True)
    dice = DiceCrossEntropy(cross_entropy=0.0)([wrong], target)
    # Class 1: 2 × 16/4 / (16/4 × 4 + 16); classes 2 and 3: nothing to overlap with.
    assert dice["dice"].item() == pytest.approx(1 - (2 * 4 / 32) / 3, abs=1e-5)
    dice["loss"].backward()
    assert wrong.grad is not None and (wrong.grad[:, 1, 0] < 0).all()


def test_heads_count_half_as_much_from_level_to_level() -> None:
    scores, target = draw((2, 3, 8, 12, 4))
    coarse = [scores, scores[:, :, ::2, ::2, ::2], scores[:, :, ::4, ::4, ::2]]
    loss = DiceCrossEntropy()
    together = loss(coarse, target)
    alone = []
    for score in coarse:
        # Nearest voxel: of every 2 (4) voxels the one behind the middle.
        picks = [
            torch.arange(n) * (full // n) + full // n // 2
            for n, full in zip(score.shape[2:], target.shape[2:], strict=True)
        ]
        small = target[:, :, picks[0]][:, :, :, picks[1]][..., picks[2]]
        alone.append(loss([score], small))
    for part in ("dice", "cross_entropy", "loss"):
        expected = sum(
            weight * one[part] for weight, one in zip((4 / 7, 2 / 7, 1 / 7), alone, strict=True)
        )
        assert together[part].item() == pytest.approx(float(expected), rel=1e-6)


def test_a_term_of_weight_zero_is_left_out() -> None:
    scores, target = draw()
    loss = DiceCrossEntropy()([scores], target)
    only_dice = DiceCrossEntropy(cross_entropy=0.0)([scores], target)
    only_entropy = DiceCrossEntropy(dice=0.0)([scores], target)
    assert only_dice["loss"] == loss["dice"] and only_entropy["loss"] == loss["cross_entropy"]


@pytest.mark.parametrize("batch_dice", [True, False])
def test_gradients(batch_dice: bool) -> None:
    scores, target = draw((2, 3, 2, 3, 2))
    labels = target[:, 0].long()
    scores.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: masked_cross_entropy(x, labels), scores)
    assert torch.autograd.gradcheck(
        lambda x: soft_dice_loss(x.softmax(1), labels, batch_dice), scores
    )


def test_half_precision_scores_of_a_whole_patch_do_not_overflow() -> None:
    """A sum over more than 65504 voxels, and scores near the end of the range."""
    scores = torch.zeros(1, 2, 48, 48, 48, dtype=torch.float16)
    scores[:, 1] = 30000
    target = torch.ones(1, 1, 48, 48, 48, dtype=torch.int16)
    parts = DiceCrossEntropy()([scores], target)
    assert parts["loss"].item() == pytest.approx(0, abs=1e-6)
    parts = DiceCrossEntropy()([scores.flip(1)], target)
    assert parts["cross_entropy"].item() == pytest.approx(30000, rel=1e-6)


def test_sums_over_many_voxels_are_precise() -> None:
    scores, target = draw((1, 3, 64, 64, 64))
    parts = DiceCrossEntropy()([scores.float()], target)
    labels = target[:, 0].long()
    assert parts["cross_entropy"].item() == pytest.approx(
        masked_cross_entropy(scores, labels).item(), rel=1e-5
    )
    assert parts["dice"].item() == pytest.approx(
        soft_dice_loss(scores.softmax(1), labels, True).item(), rel=1e-5
    )
