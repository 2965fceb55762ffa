"""The losses of regions that overlap: those of a plain reference, in slabs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.losses import DiceLoss, FocalLoss
from torch import Tensor
from torch.autograd import grad
from torch.nn import functional as F

from seg3d.config import LossConfig
from seg3d.losses import IGNORE, DiceCrossEntropy, Unscored, slabs
from seg3d.memory import training_memory
from seg3d.networks import UNet3d
from seg3d.plan import LabelClass, build_loss
from tests.plans import small_plan

# Of labels 0 to 3: whole, core and enhancing, as of a tumour.
REGIONS = [[False, True, True, True], [False, False, True, True], [False, False, False, True]]


def draw(
    shape: tuple[int, ...] = (2, 3, 5, 6, 7), unlabelled: float = 0.3, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Scores, and a target of which some voxels have no label."""
    generator = torch.Generator().manual_seed(seed)
    batch, _, *size = shape
    scores = 2 * torch.randn(shape, generator=generator, dtype=torch.float64)
    target = torch.randint(4, (batch, 1, *size), generator=generator)
    hidden = torch.rand(target.shape, generator=generator) < unlabelled
    return scores, target.masked_fill(hidden, IGNORE).short()


def plain(
    scores: list[Tensor],
    target: Tensor,
    batch_dice: bool = True,
    tversky: tuple[float, float] = (0.5, 0.5),
    focal: float = 0.0,
    class_weights: list[float] | None = None,
) -> dict[str, Tensor]:
    """The same losses, left to autograd, in double precision."""
    members = torch.tensor(REGIONS, dtype=torch.float64)
    weights = torch.tensor(class_weights or [1.0] * 3, dtype=torch.float64).view(3, 1, 1, 1)
    dice = entropy = torch.zeros((), dtype=torch.float64)
    levels = [0.5**level for level in range(len(scores))]
    for level, head in zip(levels, scores, strict=True):
        labels = F.interpolate(target.float(), size=head.shape[2:], mode="nearest-exact").long()
        known = (labels != IGNORE).double()
        r = members[:, labels[:, 0].clamp(min=0)].movedim(0, 1) * known
        p = head.double().sigmoid()
        axes = [0, 2, 3, 4] if batch_dice else [2, 3, 4]
        hits, alarms, misses = (
            (one * known).sum(axes) for one in (p * r, p * (1 - r), (1 - p) * r)
        )
        whole = hits + tversky[0] * alarms + tversky[1] * misses
        loss = F.binary_cross_entropy_with_logits(head.double(), r, reduction="none")
        loss = (1 - (-loss).exp()) ** focal * loss * known * weights
        share = level / sum(levels)
        dice = dice + share * (1 - ((hits + 5e-6) / (whole + 5e-6)).mean())
        counted = (known * weights).sum()
        entropy = entropy + share * loss.sum() / counted.clamp(min=1e-300)
    return {"loss": dice + entropy, "dice": dice, "cross_entropy": entropy}


@settings(max_examples=40, deadline=None)
@given(
    batch_dice=st.booleans(),
    beta=st.sampled_from([0.5, 0.7]),
    focal=st.sampled_from([0.0, 1.0, 2.0]),
    weights=st.sampled_from([None, [1.0, 2.0, 0.5]]),
    unlabelled=st.sampled_from([0.0, 0.4, 1.0]),
    slab=st.sampled_from([1, 200, 10**6]),
    seed=st.integers(0, 10**6),
)
def test_losses_and_gradients_of_several_heads(
    batch_dice: bool, beta: float, focal: float, weights: Any, unlabelled: float, slab: int,
    seed: int,
) -> None:  # fmt: skip
    fine, target = draw(unlabelled=unlabelled, seed=seed)
    coarse = draw((2, 3, 3, 3, 4), seed=seed + 1)[0]
    how = {"tversky": (1 - beta, beta), "focal": focal, "class_weights": weights}
    heads = [one.requires_grad_() for one in (fine, coarse)]
    expected = plain(heads, target, batch_dice, **how)
    loss = DiceCrossEntropy(batch_dice=batch_dice, regions=REGIONS, **how)
    before, slabs.SLAB = slabs.SLAB, slab
    try:
        found = loss([one * 1 for one in heads], target)
        ours = grad(found["loss"], heads)
    finally:
        slabs.SLAB = before
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value.item(), rel=1e-9, abs=1e-12)
    for one, other in zip(ours, grad(expected["loss"], heads), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-12)


def test_they_are_monais_where_all_is_labelled() -> None:
    scores, target = draw(unlabelled=0)
    r = torch.tensor(REGIONS)[:, target[:, 0].long()].movedim(0, 1).double()
    found = DiceCrossEntropy(focal=2.0, regions=REGIONS)([scores], target)
    dice = DiceLoss(sigmoid=True, batch=True, smooth_nr=1e-5, smooth_dr=1e-5)(scores, r)
    assert found["dice"].item() == pytest.approx(dice.item(), rel=1e-6)
    focal = FocalLoss(use_softmax=False, gamma=2.0)(scores, r)
    assert found["cross_entropy"].item() == pytest.approx(focal.item(), rel=1e-6)


def test_regions_that_do_not_overlap_are_independent() -> None:
    """What the score of one region is does not change the gradient of another."""
    scores, target = draw()
    loss = DiceCrossEntropy(regions=REGIONS)
    one, other = scores.clone().requires_grad_(), scores.clone()
    other[:, 0] += 5
    other.requires_grad_()
    (first,) = grad(loss([one * 1], target)["loss"], one)
    (second,) = grad(loss([other * 1], target)["loss"], other)
    assert not torch.allclose(first[:, 0], second[:, 0])
    torch.testing.assert_close(first[:, 1:], second[:, 1:])


def test_scores_that_are_made_by_the_loss() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 5, 5, 6, 7, generator=generator, dtype=torch.float64)
    weight = torch.randn(3, 5, 1, 1, 1, generator=generator, dtype=torch.float64)
    bias = torch.randn(3, generator=generator, dtype=torch.float64)
    leaves = [one.requires_grad_() for one in (features, weight, bias)]
    target = draw()[1]
    expected = plain([F.conv3d(*leaves)], target)["loss"]
    loss = DiceCrossEntropy(regions=REGIONS)
    found = loss([Unscored(leaves[0] * 1, weight, bias)], target)["loss"]
    assert found.item() == pytest.approx(expected.item(), rel=1e-9)
    for one, other in zip(grad(found, leaves), grad(expected, leaves), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-12)


def test_scores_far_from_zero_have_finite_losses() -> None:
    target = torch.tensor([0, 3]).view(1, 1, 1, 1, 2)
    scores = torch.tensor([[-200.0, 200.0]] * 3).view(1, 3, 1, 1, 2).requires_grad_()
    for sign in (1, -1):
        found = DiceCrossEntropy(focal=2.0, regions=REGIONS)([sign * scores], target)
        (slope,) = grad(found["loss"], scores)
        assert found["loss"].isfinite() and slope.isfinite().all()
    assert found["cross_entropy"].item() == pytest.approx(200)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_with_regions_takes_the_memory_of_one_with_classes(dtype: torch.dtype) -> None:
    network = UNet3d(1, 3, (8, 16, 32), deep_supervision=True)
    how = {"dtype": dtype, "amp": dtype != torch.float32}
    shape = (1, 1, 64, 64, 64)
    classes = training_memory(network, shape, loss=DiceCrossEntropy(), **how)
    regions = training_memory(network, shape, loss=DiceCrossEntropy(regions=REGIONS), **how)
    # Besides the table of which labels are in which region.
    assert 0 <= regions.saved - classes.saved < 100
    assert regions.peak <= 1.02 * classes.peak


def test_the_loss_of_a_plan_with_regions() -> None:
    tumour = [
        LabelClass(name=name, values=values)
        for name, values in {"whole": [2, 1, 3], "core": [1, 3], "enhancing": [3]}.items()
    ]
    plan = small_plan(classes=tumour, regions=[2, 1, 3])
    loss = build_loss(LossConfig(class_weights={"core": 2.0}), plan)
    assert loss.regions == [
        [False, True, True, True],
        [False, True, False, True],
        [False, False, False, True],
    ]
    assert loss.class_weights == [1.0, 2.0, 1.0]
