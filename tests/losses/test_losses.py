"""The loss against arithmetic by hand, MONAI's, and plain autograd; and what memory it takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from monai.losses import DiceCELoss, FocalLoss, TverskyLoss
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import grad
from torch.autograd.graph import saved_tensors_hooks
from torch.distributed._tools.mem_tracker import MemTracker
from torch.nn import functional as F

from seg3d.common.errors import UserError
from seg3d.config import LossConfig
from seg3d.losses import IGNORE, DiceCrossEntropy, slabs
from seg3d.plan import LabelClass, Plan, build_loss
from tests.plans import small_plan

PARTS = ("loss", "dice", "cross_entropy")
RARE: dict[str, Any] = {
    "tversky": (0.3, 0.7), "focal": 2.0, "class_weights": [0.5, 3.0, 1.0, 2.0],
}  # fmt: skip


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


def plain(
    scores: Sequence[Tensor],
    target: Tensor,
    batch_dice: bool = True,
    tversky: tuple[float, float] = (0.5, 0.5),
    focal: float = 0.0,
    class_weights: Sequence[float] | None = None,
) -> dict[str, Tensor]:
    """The same losses, left to autograd, in double precision."""
    weights = torch.tensor(class_weights or [1.0] * scores[0].shape[1], dtype=torch.float64)
    dice = cross_entropy = torch.zeros((), dtype=torch.float64)
    levels = [0.5**level for level in range(len(scores))]
    for level, head in zip(levels, scores, strict=True):
        labels = F.interpolate(target.float(), size=head.shape[2:], mode="nearest-exact").long()
        weight, head = level / sum(levels), head.double()
        dice = dice + weight * plain_dice(head.softmax(1), labels, batch_dice, tversky)
        entropy = F.cross_entropy(head, labels[:, 0], ignore_index=IGNORE, reduction="none")
        of_voxel = weights[labels[:, 0].clamp(min=0)] * (labels[:, 0] != IGNORE)
        total = (of_voxel * (1 - (-entropy).exp()) ** focal * entropy).sum()
        cross_entropy = cross_entropy + weight * total / max(of_voxel.sum(), 1e-300)
    return {"loss": dice + cross_entropy, "dice": dice, "cross_entropy": cross_entropy}


def plain_dice(
    probabilities: Tensor, labels: Tensor, batch_dice: bool, tversky: tuple[float, float]
) -> Tensor:
    labelled = labels != IGNORE
    reference = torch.zeros_like(probabilities).scatter_(1, labels.clamp(min=0), 1) * labelled
    axes = [0, 2, 3, 4] if batch_dice else [2, 3, 4]
    overlap = (probabilities * reference).sum(axes)
    false_alarms = (probabilities * (labelled & (reference == 0))).sum(axes)
    misses = ((1 - probabilities) * reference).sum(axes)
    whole = overlap + tversky[0] * false_alarms + tversky[1] * misses
    return 1 - ((overlap + 5e-6) / (whole + 5e-6))[..., 1:].mean()


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


@pytest.mark.parametrize("batch_dice", [True, False])
@pytest.mark.parametrize("weights", [None, [0.2, 4.0, 1.0, 0.7]])
@pytest.mark.parametrize("focal", [0.5, 2.0])
def test_rare_classes_against_monai(
    batch_dice: bool, weights: list[float] | None, focal: float
) -> None:
    """Values and gradients, where all is labelled."""
    scores, target = draw(unlabelled=0.0)
    scores.requires_grad_()
    parts = DiceCrossEntropy(
        batch_dice=batch_dice, tversky=(0.3, 0.7), focal=focal, class_weights=weights
    )([scores], target)
    tversky = TverskyLoss(
        include_background=False, to_onehot_y=True, softmax=True, batch=batch_dice,
        alpha=0.3, beta=0.7, smooth_nr=5e-6, smooth_dr=5e-6,
    )(scores, target)  # fmt: skip
    total = FocalLoss(
        to_onehot_y=True, use_softmax=True, gamma=focal, weight=weights, reduction="none"
    )(scores, target).sum()
    counts = target.flatten().long().bincount(minlength=4).double()
    mean = total / (counts * torch.tensor(weights or [1.0] * 4)).sum()
    for ours, theirs in ((parts["dice"], tversky), (parts["cross_entropy"], mean)):
        assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
        torch.testing.assert_close(
            grad(ours, scores, retain_graph=True), grad(theirs, scores), rtol=1e-6, atol=1e-9
        )


def test_weighted_cross_entropy_against_torch() -> None:
    """With voxels that have no label."""
    scores, target = draw()
    weights = [0.2, 4.0, 1.0, 0.7]
    expected = F.cross_entropy(
        scores, target[:, 0].long(), torch.tensor(weights, dtype=torch.float64), ignore_index=IGNORE
    )
    parts = DiceCrossEntropy(class_weights=weights)([scores], target)
    assert parts["cross_entropy"].item() == pytest.approx(expected.item(), rel=1e-12)


def test_half_and_half_is_dice_and_gamma_zero_cross_entropy_to_the_last_bit() -> None:
    scores, target = draw()
    scores = scores.float().requires_grad_()
    first = DiceCrossEntropy()([scores], target)
    second = DiceCrossEntropy(tversky=(0.5, 0.5), focal=0.0, class_weights=[1.0] * 4)(
        [scores], target
    )
    assert first == second
    assert torch.equal(*(grad(parts["loss"], scores)[0] for parts in (first, second)))


@pytest.mark.parametrize("focal", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("score", [0.0, 20.0, 200.0, -200.0])
def test_focal_loss_of_voxels_that_are_quite_right_or_wrong(focal: float, score: float) -> None:
    scores, target = torch.zeros(1, 2, 1, 1, 2), torch.ones(1, 1, 1, 1, 2).short()
    target[..., 1] = IGNORE
    scores[0, 1] = score
    exactly = scores.double().requires_grad_()
    parts = DiceCrossEntropy(focal=focal)([scores.requires_grad_()], target)
    entropy = F.softplus(-exactly[0, 1, 0, 0, 0], threshold=1000)
    expected = (1 - (-entropy).exp()) ** focal * entropy
    (slope,) = grad(expected, exactly)
    (found,) = grad(parts["cross_entropy"], scores)
    assert parts["cross_entropy"].item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-8)
    assert found.isfinite().all() and (found[..., 1] == 0).all()
    if score < 200:
        assert found[0, 1, 0, 0, 0].item() == pytest.approx(
            slope[0, 1, 0, 0, 0].item(), rel=1e-4, abs=1e-7
        )


def test_the_loss_of_a_config() -> None:
    config = LossConfig(tversky=(0.3, 0.7), focal=2.0, class_weights={"two": 3.0, "four": 2.0})
    scores, target = draw()
    expected = DiceCrossEntropy(tversky=(0.3, 0.7), focal=2.0, class_weights=[1.0, 3.0, 1.0, 2.0])
    loss = build_loss(config, plan_of("one", "two", "three", "four"))
    assert loss([scores], target) == expected([scores], target)
    assert build_loss(LossConfig(), plan_of("one", "two")).class_weights is None
    with pytest.raises(UserError, match="class that does not exist\n  given: four\n  legal: one"):
        build_loss(config, plan_of("one", "two", "three"))


def plan_of(*names: str) -> Plan:
    """One with classes of these names."""
    named = [LabelClass(name=name, values=[value]) for value, name in enumerate(names)]
    return small_plan(classes=named)


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
    for part, expected in plain([scores.float()], target).items():
        assert parts[part].item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("number", [0, 3])
def test_a_class_that_is_ruled_out(number: int) -> None:
    """By a score of minus infinity, where it is not the reference."""
    scores, target = draw()
    target[target == number] = IGNORE
    values = []
    for low in (-1e4, -torch.inf):
        scores = scores.detach().clone()
        scores[:, number] = low
        loss = DiceCrossEntropy()([scores.requires_grad_()], target)["loss"]
        values.append((loss, *grad(loss, scores)))
    torch.testing.assert_close(values[1], values[0])
    assert (values[1][1][:, number] == 0).all()


@pytest.mark.parametrize("dtype", [
    torch.int8, torch.int16, torch.int32, torch.int64, torch.float16, torch.float32, torch.float64,
])  # fmt: skip
def test_types_of_the_target(dtype: torch.dtype) -> None:
    scores, target = draw()
    heads = [scores, scores[..., 1::2]]
    expected = DiceCrossEntropy()(heads, target)
    assert DiceCrossEntropy()(heads, target.to(dtype)) == expected


@pytest.mark.parametrize("number", [-2, 4])
def test_class_numbers_that_do_not_exist(number: int) -> None:
    scores, target = draw()
    target[1, 0, 2, 3, 4] = number
    with pytest.raises(RuntimeError, match="out of bounds"):
        DiceCrossEntropy()([scores], target)


# --- gradients ---------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(
    sizes=st.lists(st.tuples(*[st.integers(1, 9)] * 3), min_size=1, max_size=3),
    batch=st.integers(1, 3),
    classes=st.integers(2, 5),
    batch_dice=st.booleans(),
    unlabelled=st.sampled_from([0.0, 0.3, 0.95, 1.0]),
    blank_samples=st.integers(0, 2),
    slab=st.integers(1, 800),
    shares=st.tuples(*[st.sampled_from([-1.0, 0.0, 0.3, 1.0])] * 3),
    tversky=st.sampled_from([(0.5, 0.5), (0.3, 0.7), (1.0, 1.0)]),
    focal=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    class_weights=st.sampled_from([None, [0.5, 3.0, 1.0, 0.1, 2.0]]),
    seed=st.integers(0, 1000),
)
def test_against_plain_autograd(
    sizes: list[tuple[int, int, int]],
    batch: int,
    classes: int,
    batch_dice: bool,
    unlabelled: float,
    blank_samples: int,
    slab: int,
    shares: tuple[float, float, float],
    tversky: tuple[float, float],
    focal: float,
    class_weights: list[float] | None,
    seed: int,
) -> None:
    """Heads of any sizes, slabs that do not divide them, any mixture of the parts."""
    options: dict[str, Any] = {
        "tversky": tversky,
        "focal": focal,
        "class_weights": class_weights and class_weights[:classes],
    }
    heads = [draw((batch, classes, *size), seed=seed)[0].requires_grad_() for size in sizes]
    target = draw((batch, classes, *sizes[0]), unlabelled, seed)[1]
    target[:blank_samples] = IGNORE
    expected = plain(heads, target, batch_dice, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slabs, "slab_elements", lambda target: slab)
        parts = DiceCrossEntropy(batch_dice=batch_dice, **options)(heads, target)
        computed = grad([parts[part] for part in PARTS], heads, torch.tensor(shares).unbind())
    for part in PARTS:
        torch.testing.assert_close(parts[part], expected[part], rtol=1e-12, atol=1e-14)
    exact = grad([expected[part] for part in PARTS], heads, torch.tensor(shares).unbind())
    torch.testing.assert_close(computed, exact, rtol=1e-10, atol=1e-14)


@settings(max_examples=100, deadline=None)
@given(
    size=st.tuples(*[st.integers(1, 40)] * 3),
    coarse=st.tuples(*[st.integers(1, 40)] * 3),
    slab=st.integers(1, 20000),
)
# The middles of voxels fall together, and the rounding of float32 decides.
@example(size=(26, 28, 54), coarse=(11, 23, 19), slab=1)
def test_the_target_is_resampled_as_by_torch(
    size: tuple[int, int, int], coarse: tuple[int, int, int], slab: int
) -> None:
    """A head that is certain of what F.interpolate gives is right everywhere."""
    target = draw((1, 5, *size), unlabelled=0.0)[1]
    labels = F.interpolate(target.float(), size=coarse, mode="nearest-exact").long()
    scores = torch.full((1, 5, *coarse), -50.0).scatter_(1, labels, 50.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slabs, "slab_elements", lambda target: slab)
        assert DiceCrossEntropy()([scores], target)["cross_entropy"].item() == 0


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("batch_dice", [True, False])
def test_against_finite_differences(part: str, batch_dice: bool) -> None:
    scores, target = draw((2, 3, 2, 4, 2))
    heads = scores, scores[:, :, :, 1::2].clone()
    loss = DiceCrossEntropy(0.7, 1.3, batch_dice)
    assert torch.autograd.gradcheck(
        lambda *heads: loss(heads, target)[part], [head.requires_grad_() for head in heads]
    )


@pytest.mark.parametrize("options", [{}, RARE], ids=["dice", "rare"])
@pytest.mark.parametrize("batch_dice", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_gradients_of_lower_precision(
    batch_dice: bool, dtype: torch.dtype, options: dict[str, Any]
) -> None:
    """The computation is as exact as float32, and the result is rounded once.

    A scale as of mixed-precision training, itself beyond the range of float16, is applied before.
    """
    scores, target = draw((2, 4, 9, 8, 7))
    scores = scores.to(dtype).requires_grad_()
    exactly = scores.detach().double().requires_grad_()
    scale = 2.0**17
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    parts = DiceCrossEntropy(batch_dice=batch_dice, **options)([scores], target)
    (computed,) = grad(scaler.scale(parts["loss"]), scores)
    exact = plain([exactly], target, batch_dice, **options)
    (expected,) = grad(scale * exact["loss"], exactly)
    assert computed.dtype == dtype
    # Half a unit in the last place; and rounding in float32 of terms that cancel.
    last_place = torch.finfo(dtype).eps / 2 if dtype != torch.float32 else 0.0
    cancelled = 4 * torch.finfo(torch.float32).eps * expected.abs().max().item()
    torch.testing.assert_close(computed.double(), expected, rtol=last_place, atol=cancelled)


@pytest.mark.parametrize("options", [{}, RARE], ids=["dice", "rare"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast(dtype: torch.dtype, options: dict[str, Any]) -> None:
    """Whether the loss is computed inside or outside makes no difference."""
    torch.manual_seed(0)
    network, image = nn.Conv3d(2, 4, 1), torch.randn(2, 2, 5, 6, 7)
    loss, target = DiceCrossEntropy(**options), draw()[1]
    with torch.autocast("cpu", dtype):
        scores = network(image)
        inside = loss([scores], target)["loss"]
        (gradient,) = grad(inside, scores, retain_graph=True)
    assert scores.dtype == gradient.dtype == dtype and inside.dtype == torch.float32
    outside = loss([scores], target)["loss"]
    assert outside == inside
    assert torch.equal(grad(outside, scores, retain_graph=True)[0], gradient)
    outside.backward()
    assert network.weight.grad is not None and network.weight.grad.abs().sum() > 0


def test_gradients_add_up_over_batches() -> None:
    heads = [draw(seed=seed) for seed in (0, 1)]
    shared = torch.ones((), dtype=torch.float64, requires_grad=True)
    single = [
        grad(DiceCrossEntropy()([shared * scores], target)["loss"], shared)[0]
        for scores, target in heads
    ]
    for scores, target in heads:
        DiceCrossEntropy()([shared * scores], target)["loss"].backward()
    assert shared.grad == sum(single)


@pytest.mark.parametrize("layout", ["channels last", "transposed", "part", "expanded"])
def test_layouts_of_the_scores(layout: str) -> None:
    scores, target = draw((2, 4, 5, 6, 6))
    scores = {
        "channels last": scores.to(memory_format=torch.channels_last_3d),
        "transposed": scores.transpose(3, 4),
        "part": torch.stack([scores, -scores], 2)[:, :, 1],
        "expanded": scores[:, :, :1].expand_as(scores),
    }[layout]
    before, target_before = scores.clone(), target.clone()
    scores.requires_grad_()
    (computed,) = grad(DiceCrossEntropy()([scores], target)["loss"], scores)
    (expected,) = grad(plain([scores], target)["loss"], scores)
    torch.testing.assert_close(computed, expected, rtol=1e-10, atol=1e-14)
    assert torch.equal(scores, before) and torch.equal(target, target_before)


def test_second_derivatives_are_refused() -> None:
    scores, target = draw()
    loss = DiceCrossEntropy()([scores.requires_grad_()], target)["loss"]
    (gradient,) = grad(loss, scores, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        gradient.square().sum().backward()


# --- memory ------------------------------------------------------------------------------------


def test_only_scores_and_target_are_kept() -> None:
    scores, target = draw((2, 4, 24, 24, 24))
    heads = [head.clone().requires_grad_() for head in (scores, scores[..., ::2, ::2, ::2])]
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = DiceCrossEntropy()(heads, target)["loss"]
    for given_tensor in (*heads, target):
        del kept[given_tensor.untyped_storage().data_ptr()]
    assert sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) < 4096
    loss.backward()


@pytest.mark.parametrize("options", [{}, RARE], ids=["dice", "rare"])
@pytest.mark.parametrize("slab", [slabs.SLAB, 2**16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_peak_memory(
    slab: int, dtype: torch.dtype, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores, their gradient, the target, and a few slabs in float32."""
    monkeypatch.setattr(slabs, "slab_elements", lambda target: slab)
    loss = DiceCrossEntropy(**options)
    with FakeTensorMode(), MemTracker() as tracker:
        scores = torch.empty(2, 4, 64, 64, 64, dtype=dtype, requires_grad=True)
        target = torch.empty(2, 1, 64, 64, 64, dtype=torch.int16)
        loss([scores], target)["loss"].backward()
        (peak,) = tracker.get_tracker_snapshot("peak").values()
    assert scores.grad is not None
    least = scores.nbytes + scores.grad.nbytes + target.nbytes
    assert least < peak["Total"] < least + 6 * 4 * slab
