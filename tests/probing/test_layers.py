"""Probed layers: what must equal torch's own layers exactly, and what only in the mean."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

from seg3d.probing import SKETCHES, ProbedConv3d, ProbedConvTranspose3d, set_probe_step

from .helpers import PROBING, assert_mean_is, gradients, probed_copy, weight_gradient_draws

# Ordinary layers, each with the shape of an input for it.
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "plain": (lambda: nn.Conv3d(2, 3, 3), (1, 2, 4, 5, 6)),
    "padded": (lambda: nn.Conv3d(2, 3, (3, 1, 3), padding=(1, 0, 1)), (2, 2, 3, 4, 7)),
    "strided": (lambda: nn.Conv3d(2, 3, 3, stride=(2, 1, 2), padding=1), (2, 2, 5, 4, 6)),
    "dilated": (lambda: nn.Conv3d(2, 2, 2, dilation=(1, 2, 3), padding=1), (1, 2, 3, 4, 5)),
    "grouped": (lambda: nn.Conv3d(4, 2, 3, groups=2, padding=1, bias=False), (2, 4, 3, 4, 5)),
    "same": (lambda: nn.Conv3d(2, 3, (2, 3, 4), padding="same"), (2, 2, 5, 4, 6)),
    "valid": (lambda: nn.Conv3d(2, 3, 2, padding="valid"), (1, 2, 3, 4, 5)),
    "circular": (
        lambda: nn.Conv3d(2, 3, 3, padding=1, padding_mode="circular"),
        (2, 2, 3, 4, 5),
    ),
    "reflect": (
        lambda: nn.Conv3d(2, 3, (2, 3, 2), padding="same", padding_mode="reflect"),
        (1, 2, 3, 4, 5),
    ),
    "unbatched": (lambda: nn.Conv3d(2, 3, 3, padding=1), (2, 4, 3, 5)),
    "transposed": (
        lambda: nn.ConvTranspose3d(2, 4, 3, stride=2, padding=1, output_padding=1, groups=2),
        (2, 2, 3, 2, 4),
    ),
    "transposed, unbatched": (lambda: nn.ConvTranspose3d(2, 3, 2, stride=2), (2, 3, 4, 2)),
}


def case(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    """An ordinary layer, an input and a gradient of its output, always the same."""
    make, shape = LAYERS[name]
    with torch.random.fork_rng():
        torch.manual_seed(3)
        layer = make()
        x = torch.randn(shape) + 0.3
        return layer, x, torch.randn_like(layer(x))


def relative_error(value: Tensor, exact: Tensor) -> float:
    return ((value - exact).norm() / exact.norm()).item()


@pytest.mark.parametrize("sketch", SKETCHES)
@pytest.mark.parametrize("name", LAYERS)
def test_output_and_other_gradients_are_torchs_own(name: str, sketch: str) -> None:
    layer, x, dy = case(name)
    y, dx, parameters = gradients(layer, x, dy)
    probed_y, probed_dx, probed_parameters = gradients(probed_copy(layer, sketch), x, dy)
    assert torch.equal(probed_y, y)
    assert torch.equal(probed_dx, dx)
    assert len(probed_parameters) == len(parameters)
    for probed, exact in zip(probed_parameters[1:], parameters[1:], strict=True):
        assert torch.equal(probed, exact)
    assert torch.equal(probed_parameters[0], parameters[0]) == (sketch == "exact")


@pytest.mark.parametrize("name", LAYERS)
def test_weight_gradient_is_exact_at_full_rank(name: str) -> None:
    layer, x, dy = case(name)
    layer, x, dy = layer.double(), x.double(), dy.double()
    exact = gradients(layer, x, dy)[2][0]
    probed = gradients(probed_copy(layer, "orthogonal", rank=10**6), x, dy)[2][0]
    torch.testing.assert_close(probed, exact, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "sketch"),
    [(name, "onebit") for name in LAYERS] + [("strided", sketch) for sketch in PROBING[1:]],
)
def test_weight_gradient_is_unbiased(name: str, sketch: str) -> None:
    layer, x, dy = case(name)
    exact = gradients(layer, x, dy)[2][0]
    assert_mean_is(weight_gradient_draws(probed_copy(layer, sketch, 8), x, dy, 1000), exact)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_geometry(data: st.DataObject) -> None:
    def triple(low: int, high: int) -> tuple[int, ...]:
        return data.draw(st.tuples(*[st.integers(low, high)] * 3))

    groups = data.draw(st.sampled_from([1, 2]))
    channels = groups * data.draw(st.integers(1, 2)), groups * data.draw(st.integers(1, 2))
    kernel, stride, dilation = triple(1, 3), triple(1, 3), triple(1, 2)
    padding = data.draw(st.sampled_from([(0, 0, 0), (1, 1, 1), (2, 0, 1)]))
    transposed = data.draw(st.booleans())
    size = triple(1, 7)
    sketch = data.draw(st.sampled_from(PROBING))
    kind: Any = nn.ConvTranspose3d if transposed else nn.Conv3d
    torch.manual_seed(data.draw(st.integers(0, 100)))
    layer = kind(
        *channels, kernel, stride=stride, padding=padding, dilation=dilation, groups=groups
    )
    x = torch.randn(data.draw(st.integers(1, 2)), channels[0], *size)
    try:
        dy = torch.randn_like(layer(x))
    except RuntimeError:  # the kernel is larger than the volume
        assume(False)
    y, dx, (exact, db) = gradients(layer, x, dy)
    probed_y, probed_dx, (dw, probed_db) = gradients(probed_copy(layer, sketch), x, dy)
    assert torch.equal(probed_y, y)
    assert torch.equal(probed_dx, dx)
    assert torch.equal(probed_db, db)
    assert dw.shape == exact.shape
    assert dw.isfinite().all()


def test_same_arguments_as_torch() -> None:
    layer = ProbedConv3d(2, 3, 3, 2, padding=1, bias=False, dtype=torch.float64, sketch="2bit")
    assert layer.stride == (2, 2, 2)
    assert layer.weight.dtype == torch.float64
    assert "bias=False, sketch=2bit" in repr(layer)
    assert "rank=5" in repr(ProbedConvTranspose3d(2, 3, 2, sketch="independent", rank=5))
    up = ProbedConvTranspose3d(2, 3, 3, stride=2, padding=1)
    assert up(torch.randn(1, 2, 3, 4, 5), output_size=[6, 8, 9]).shape == (1, 3, 6, 8, 9)


def test_draws_depend_on_seed_step_layer_and_call_alone() -> None:
    layer, x, dy = case("padded")
    probed = probed_copy(nn.ModuleList([layer, copy.deepcopy(layer)]), "onebit")

    def draw(seed: int, step: int, index: int = 0, calls: int = 1) -> Tensor:
        set_probe_step(probed, seed, step)
        for _ in range(calls):
            dw = gradients(probed[index], x, dy)[2][0]
        return dw

    first = draw(seed=1, step=2)
    assert torch.equal(first, draw(seed=1, step=2))
    others = [draw(2, 2), draw(1, 3), draw(1, 2, index=1), draw(1, 2, calls=2), draw(-1, 2)]
    for other in others:
        assert not torch.equal(first, other)
    assert not torch.equal(others[0], others[1])


def test_without_set_probe_step_every_pass_and_layer_draws_afresh() -> None:
    layer, x, dy = case("padded")
    one, two = probed_copy(layer, "onebit"), probed_copy(layer, "onebit")
    draws = [gradients(network, x, dy)[2][0] for network in (one, one, two)]
    assert not torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_layer_used_twice_in_one_pass() -> None:
    layer = nn.Conv3d(2, 2, 3, padding=1).double()
    probed = probed_copy(layer, "orthogonal", rank=10**6)
    x = torch.randn(1, 2, 3, 4, 5, dtype=torch.float64)
    grads = []
    for used in (layer, probed):
        used(used(x).relu()).square().sum().backward()
        grads.append(used.weight.grad)
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_uses_matching_probes(reentrant: bool) -> None:
    layer, x, dy = case("padded")
    layer, x, dy = layer.double(), x.double(), dy.double()
    exact = gradients(layer, x, dy)[2][0]
    probed = probed_copy(layer, "orthogonal", rank=10**6)
    x.requires_grad_()
    checkpoint(probed, x, use_reentrant=reentrant).backward(dy)
    torch.testing.assert_close(probed.weight.grad, exact, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("sketch", PROBING)
def test_global_random_state_is_untouched(sketch: str) -> None:
    layer, x, dy = case("padded")
    probed = probed_copy(layer, sketch)
    before = torch.get_rng_state()
    gradients(probed, x, dy)
    assert torch.equal(torch.get_rng_state(), before)


@contextmanager
def no_sketch_drawn(layer: nn.Module) -> Iterator[None]:
    before = layer.probe_key
    yield
    assert layer.probe_key == before


def test_nothing_is_drawn_where_nothing_is_trained() -> None:
    layer, x, dy = case("padded")
    exact = gradients(layer, x, dy)[2][0]
    probed = probed_copy(layer, "onebit")
    with no_sketch_drawn(probed), torch.no_grad():
        probed(x)
    with no_sketch_drawn(probed):
        assert torch.equal(gradients(probed.eval(), x, dy)[2][0], exact)
    probed.train().weight.requires_grad_(False)
    with no_sketch_drawn(probed):
        gradients(probed, x, dy)


def kept_bytes(layer: nn.Module, x: Tensor) -> int:
    """Bytes that the forward pass keeps for the backward pass, without the parameters."""
    parameters = {p.data_ptr() for p in layer.parameters()}
    storages = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(x)
    return sum(storages.values())


@pytest.mark.parametrize(("sketch", "bits"), [("onebit", 1.5), ("2bit", 2.5), ("4bit", 4.5)])
def test_kept_bytes_are_the_documented_ones(sketch: str, bits: float) -> None:
    layer, x = nn.Conv3d(8, 8, 3, padding=1), torch.randn(2, 8, 8, 16, 24)
    assert kept_bytes(layer, x) == x.nbytes
    key = 32
    assert kept_bytes(probed_copy(layer, sketch), x) == bits / 8 * x.numel() + key


@pytest.mark.parametrize("name", ["padded", "transposed", "same"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(name: str, dtype: torch.dtype) -> None:
    layer, x, dy = case(name)
    probed = probed_copy(layer, "4bit")
    results = []
    for used in (layer, probed):
        with torch.autocast("cpu", dtype):
            results.append(gradients(used, x, dy.to(dtype)))
    (y, dx, (dw, db)), (probed_y, probed_dx, (probed_dw, probed_db)) = results
    assert y.dtype == probed_y.dtype == dtype
    assert torch.equal(probed_y, y)
    assert torch.equal(probed_dx, dx)
    assert torch.equal(probed_db, db)
    assert probed_dw.dtype == torch.float32
    assert relative_error(probed_dw, dw) < 0.5


def test_backward_outside_autocast_and_inside_agree() -> None:
    layer, x, dy = case("padded")
    probed = probed_copy(layer, "onebit")
    drawn = []
    for inside in (False, True):
        set_probe_step(probed, 0, 0)
        with torch.autocast("cpu", torch.bfloat16):
            y = probed(x)
        probed.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=inside):
            y.backward(dy.bfloat16())
        drawn.append(probed.weight.grad.clone())
    assert torch.equal(drawn[0], drawn[1])


@pytest.mark.parametrize("sketch", PROBING)
def test_channels_last(sketch: str) -> None:
    layer = nn.Conv3d(4, 8, 3, padding=1).to(memory_format=torch.channels_last_3d)
    x = torch.randn(2, 4, 5, 6, 7).to(memory_format=torch.channels_last_3d)
    dy = torch.randn(2, 8, 5, 6, 7).to(memory_format=torch.channels_last_3d)
    y, dx, _ = gradients(layer, x, dy)
    probed_y, probed_dx, (dw, _) = gradients(probed_copy(layer, sketch), x, dy)
    assert probed_y.is_contiguous(memory_format=torch.channels_last_3d)
    assert torch.equal(probed_y, y)
    assert torch.equal(probed_dx, dx)
    assert probed_dx.stride() == dx.stride()
    assert dw.isfinite().all()


@pytest.mark.parametrize("sketch", PROBING)
def test_inputs_of_unusual_layout(sketch: str) -> None:
    layer = nn.Conv3d(2, 3, 3, padding=1)
    probed = probed_copy(layer, sketch)
    whole = torch.randn(2, 2, 8, 6, 5)
    for x in (whole[:, :, ::2], whole.transpose(2, 4), whole[:1].expand(3, -1, -1, -1, -1)):
        dy = torch.randn_like(layer(x))
        y, dx, _ = gradients(layer, x, dy)
        probed_y, probed_dx, (dw, _) = gradients(probed, x, dy)
        assert torch.equal(probed_y, y)
        torch.testing.assert_close(probed_dx, dx)
        assert dw.isfinite().all()


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
@pytest.mark.parametrize("sketch", PROBING)
def test_what_is_not_finite_reaches_the_weight_gradient(sketch: str, poison: float) -> None:
    layer, x, dy = case("padded")
    x[0, 0, 1, 1, 1] = poison
    dw = gradients(probed_copy(layer, sketch), x, dy)[2][0]
    assert not dw.isfinite().all()


def test_only_the_gradients_that_are_wanted() -> None:
    layer, x, dy = case("padded")
    probed = probed_copy(layer, "onebit")
    probed(x).backward(dy)  # the input needs none
    assert probed.weight.grad is not None
    x.requires_grad_()
    (dx,) = torch.autograd.grad(probed(x), x, dy)
    assert torch.equal(dx, torch.autograd.grad(layer(x), x, dy)[0])


def test_tensors_from_inference_mode() -> None:
    layer, x, dy = case("padded")
    exact = gradients(layer, x, dy)[2]
    with torch.inference_mode():
        x = x.clone()
    probed = probed_copy(layer, "onebit")
    probed(x).backward(dy)  # where torch itself would have to keep x, and refuses
    assert torch.equal(probed.bias.grad, exact[1])


def test_wrong_shapes_get_torchs_own_message() -> None:
    with pytest.raises(RuntimeError, match="to have 2 channels, but got 3"):
        ProbedConv3d(2, 3, 3)(torch.randn(1, 3, 4, 4, 4))


def test_second_derivatives_are_refused() -> None:
    layer, x, dy = case("padded")
    x.requires_grad_()
    y = probed_copy(layer, "onebit")(x)
    with pytest.raises(RuntimeError, match="only once.*'exact'"):
        torch.autograd.grad(y, x, dy, create_graph=True)


def test_forward_mode_is_refused() -> None:
    layer, x, _ = case("padded")
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, torch.ones_like(x))
        with pytest.raises(RuntimeError, match="no forward-mode derivative"):
            probed_copy(layer, "onebit")(dual)


@pytest.mark.parametrize("sketch", SKETCHES)
def test_memory_can_be_measured_with_fake_tensors(sketch: str) -> None:
    with FakeTensorMode():
        layer = ProbedConv3d(2, 3, 3, padding=1, sketch=sketch)
        layer(torch.randn(1, 2, 4, 8, 8)).sum().backward()
    layer = ProbedConv3d(2, 3, 3, padding=1, sketch=sketch)
    layer(torch.randn(1, 2, 4, 8, 8)).sum().backward()
    assert layer.weight.grad.isfinite().all()
