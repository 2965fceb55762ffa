"""Losses of scores that are made slab by slab, against those of scores that were there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd import grad
from torch.autograd.graph import saved_tensors_hooks

from seg3d.losses import IGNORE, DiceCrossEntropy, Unscored, heads, slabs, unscored_heads
from seg3d.networks import UNet3d
from seg3d.probing import set_bits

Parts = tuple[Tensor, Tensor, Tensor | None]


def draw(
    shape: tuple[int, ...], classes: int, bias: bool = True, seed: int = 0
) -> tuple[Parts, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64).requires_grad_()

    target = torch.randint(IGNORE, classes, (shape[0], 1, *shape[2:]), generator=generator)
    parts = normal(*shape), normal(classes, shape[1], 1, 1, 1), normal(classes) if bias else None
    return parts, target.short()


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(*[st.integers(1, 9)] * 3),
    batch=st.integers(1, 3),
    channels=st.integers(1, 9),
    classes=st.integers(2, 7),
    bias=st.booleans(),
    slab=st.integers(1, 800),
    focal=st.sampled_from([0.0, 2.0]),
    seed=st.integers(0, 1000),
)
def test_against_scores_that_are_there(
    size: tuple[int, int, int],
    batch: int,
    channels: int,
    classes: int,
    bias: bool,
    slab: int,
    focal: float,
    seed: int,
) -> None:
    parts, target = draw((batch, channels, *size), classes, bias, seed)
    known = [one for one in parts if one is not None]
    loss = DiceCrossEntropy(focal=focal)
    expected = loss([torch.conv3d(*parts)], target)
    gradients = grad(expected["loss"], known)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slabs, "slab_elements", lambda target: slab)
        found = loss([Unscored(*parts)], target)
        ours = grad(found["loss"], known)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(ours, gradients, rtol=1e-9, atol=1e-13)


def features_of(x: Tensor) -> Tensor:
    """Features that another function has made: nobody but its caller holds them."""
    return 2 * x


def test_the_gradient_takes_the_place_of_features_that_nobody_holds() -> None:
    (x, weight, bias), target = draw((2, 4, 5, 6, 7), 3)
    (expected,) = grad(DiceCrossEntropy()([torch.conv3d(2 * x, weight, bias)], target)["loss"], x)
    seen: list[int] = []
    unscored = [Unscored(features_of(x), weight, bias)]
    place = unscored[0].features.data_ptr()
    made = unscored[0].features.grad_fn
    assert made is not None
    made.register_prehook(lambda gradients: seen.append(gradients[0].data_ptr()))
    loss = DiceCrossEntropy()(unscored, target)["loss"]
    del unscored
    loss.backward()
    assert seen == [place]
    torch.testing.assert_close(x.grad, expected)


@pytest.mark.parametrize("holder", ["a name", "a view", "hooks", "the graph"])
def test_features_that_somebody_holds_stay_as_they_are(holder: str) -> None:
    (x, weight, bias), target = draw((2, 4, 5, 6, 7), 3)
    # The exponential keeps what it puts out for its own backward pass.
    features = x.exp() if holder == "the graph" else features_of(x)
    scores = torch.conv3d(features, weight, bias)
    (expected,) = grad(DiceCrossEntropy()([scores], target)["loss"], x, retain_graph=True)
    del scores
    before, kept = features.detach().clone(), features.detach()
    held = {"a name": features, "a view": kept[0]}.get(holder)
    if holder == "hooks":
        with saved_tensors_hooks(lambda one: one, lambda one: one):
            loss = DiceCrossEntropy()([Unscored(features, weight, bias)], target)["loss"]
        held = features
    else:
        loss = DiceCrossEntropy()([Unscored(features, weight, bias)], target)["loss"]
    del features, kept
    loss.backward()
    torch.testing.assert_close(x.grad, expected)
    if held is not None:
        assert torch.equal(held, before[0] if holder == "a view" else before)


def test_a_graph_that_is_kept_can_be_gone_through_again() -> None:
    (x, weight, bias), target = draw((2, 4, 5, 6, 7), 3)
    loss = DiceCrossEntropy()([Unscored(features_of(x), weight, bias)], target)["loss"]
    first = grad(loss, x, retain_graph=True)
    assert torch.equal(*first, *grad(loss, x))


def unet(classes: int, bits: Any, deep_supervision: bool = True) -> UNet3d:
    torch.manual_seed(0)
    network = UNet3d(1, classes, (16, 20, 24), deep_supervision=deep_supervision)
    set_bits(network, bits)
    return network.train()


def scored(network: UNet3d, image: Tensor) -> list[Tensor]:
    return heads(network(image))


@pytest.mark.parametrize("deep_supervision", [False, True])
@pytest.mark.parametrize("classes", [3, 9, 20])
def test_a_network_learns_the_same_of_scores_that_are_left_to_the_loss(
    classes: int, deep_supervision: bool
) -> None:
    image = torch.randn(2, 1, 16, 16, 16)
    target = torch.randint(IGNORE, classes, (2, 1, 16, 16, 16))
    gradients = []
    for of in (scored, unscored_heads):
        network = unet(classes, "exact", deep_supervision)
        scores = of(network, image)
        left = [isinstance(one, Unscored) for one in scores]
        losses = DiceCrossEntropy()(scores, target)
        del scores
        losses["loss"].backward()
        gradients.append([one.grad for one in network.parameters()])
    # A fourth of the features of the first level, or those of the second.
    expected = [classes >= 4, classes >= 20]
    assert left == (expected if deep_supervision else expected[:1])
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_under_autocast_scores_are_rounded_as_ever() -> None:
    image = torch.randn(1, 1, 16, 16, 16)
    target = torch.randint(IGNORE, 4, (1, 1, 16, 16, 16))
    losses = []
    for of in (scored, unscored_heads):
        with torch.autocast("cpu", torch.bfloat16):
            scores = of(unet(4, 1), image)
        losses.append(DiceCrossEntropy()(scores, target)["loss"])
    torch.testing.assert_close(*losses, rtol=1e-3, atol=0)


def test_who_watches_the_head_sees_scores() -> None:
    network, seen = unet(4, 1), []
    network.heads[0].register_forward_hook(lambda *args: seen.append(args[-1].shape))
    unscored_heads(network, torch.randn(1, 1, 16, 16, 16))
    assert seen == [(1, 4, 16, 16, 16)]


def test_other_networks_make_their_scores_themselves() -> None:
    (scores,) = unscored_heads(nn.Conv3d(1, 2, 1), torch.randn(1, 1, 4, 4, 4))
    assert isinstance(scores, Tensor) and scores.shape == (1, 2, 4, 4, 4)
    network = unet(4, 1)
    for layer in network.modules():
        if hasattr(layer, "set_sketch"):
            layer.set_sketch("exact")
    assert not any(
        isinstance(one, Unscored) for one in unscored_heads(network, torch.randn(1, 1, 16, 16, 16))
    )
