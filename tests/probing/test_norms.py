"""Probed norm layers and activations: what must equal torch's own, and what only in the mean."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

from seg3d.probing import (
    ProbedBatchNorm3d,
    ProbedConv3d,
    ProbedGroupNorm,
    ProbedInstanceNorm3d,
    ProbeKey,
    set_probe_step,
)
from seg3d.probing.activations import ProbedLeakyReLU, ProbedPReLU, ProbedReLU
from seg3d.probing.norms import ProbedNorm
from seg3d.probing.packing import exceeds
from seg3d.probing.probed_layer import ProbedLayer
from seg3d.probing.records import record_of
from seg3d.probing.rotated import Decoder, Encoder, RotatedSketch
from seg3d.probing.work_sizes import bricks_of

from .helpers import assert_mean_is, gradients
from .test_sketches import excess_energy

PROBED: dict[type[nn.Module], type[ProbedLayer]] = {
    nn.InstanceNorm3d: ProbedInstanceNorm3d,
    nn.GroupNorm: ProbedGroupNorm,
    nn.BatchNorm3d: ProbedBatchNorm3d,
    nn.ReLU: ProbedReLU,
    nn.LeakyReLU: ProbedLeakyReLU,
    nn.PReLU: ProbedPReLU,
    nn.Conv3d: ProbedConv3d,
}
CHANNELS = 4
NORMS: dict[str, Callable[[], nn.Module]] = {
    "instance": lambda: nn.InstanceNorm3d(CHANNELS, affine=True),
    "instance, not affine": lambda: nn.InstanceNorm3d(CHANNELS),
    "group": lambda: nn.GroupNorm(2, CHANNELS),
    "group, not affine": lambda: nn.GroupNorm(1, CHANNELS, affine=False),
    "batch": lambda: nn.BatchNorm3d(CHANNELS),
    "batch, not affine": lambda: nn.BatchNorm3d(CHANNELS, affine=False, track_running_stats=False),
}
ACTIVATIONS: dict[str, Callable[[], list[nn.Module]]] = {
    "nothing": lambda: [],
    "relu": lambda: [nn.ReLU()],
    "leaky": lambda: [nn.LeakyReLU(0.1)],
    "prelu": lambda: [nn.PReLU()],
    "prelu by channel": lambda: [nn.PReLU(CHANNELS, 0.3)],
}
# Bricks of 120 voxels, of four planes (with two planes to spare); of 110 or 72 voxels and less
# than a plane (with voxels to spare); and of whole small volumes.
SIZES = ((1, 4, 6, 5, 6), (2, 4, 9, 10, 11), (2, 4, 4, 13, 11), (3, 4, 2, 3, 4))


def ordinary(norm: str, activation: str, *others: nn.Module) -> nn.Sequential:
    """A norm layer with gammas of both signs and zero, what is behind it, and ``others``."""
    layer = NORMS[norm]()
    if layer.weight is not None:
        layer.weight.data = torch.tensor([1.3, -0.7, 0.0, 0.4])
        layer.bias.data = torch.tensor([0.2, -0.3, 0.1, 0.6])
    return nn.Sequential(layer, *ACTIVATIONS[activation](), *others)


def probed(network: nn.Sequential, bits: float | str, *, fused: bool = False) -> nn.Sequential:
    """A probed copy; ``fused``, the norm layer applies a (leaky) ReLU behind it itself."""
    return become_probed(copy.deepcopy(network), bits, fused)


def become_probed(network: nn.Sequential, bits: float | str, fused: bool) -> nn.Sequential:
    """The same with the network's own layers: a copy of a fake parameter is a real one."""
    for layer in network:
        PROBED[type(layer)].adopt(layer, "rotated", 64, bits)
    layers = list(network)
    if fused:
        norm, activation = layers[:2]
        assert isinstance(norm, ProbedNorm)
        norm.activate(getattr(activation, "negative_slope", 0.0), inplace=False)
        del layers[1]
    return nn.Sequential(*layers).train(network.training)


def forms(norm: str, activation: str, bits: float | str, dtype: torch.dtype) -> Any:
    """An ordinary network, and the probed ones that should do the same."""
    network = ordinary(norm, activation).to(dtype)
    return network, [
        probed(network, bits, fused=fused)
        for fused in ([False, True] if activation in ("relu", "leaky") else [False])
    ]


def volume(shape: tuple[int, ...], dtype: torch.dtype = torch.float64, seed: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator, dtype=torch.float64) * 1.7 + 0.6).to(dtype)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("bits", [1, "exact"])
def test_output_is_torchs_to_rounding(norm: str, activation: str, bits: float | str) -> None:
    # bfloat16 is rounded once by the norm layer and once by the activation, by up to 2^-9 of
    # the value each time, in torch and here.
    for dtype, rounding in ((torch.float64, 1e-12), (torch.float32, 3e-6), (torch.bfloat16, 2**-7)):
        network, probed_ones = forms(norm, activation, bits, dtype)
        for shape in SIZES:
            x = volume(shape, dtype)
            exact = copy.deepcopy(network).double()(x.double())
            for used in probed_ones:
                y = used(x.clone().requires_grad_())
                assert y.dtype == dtype
                torch.testing.assert_close(y.double(), exact, rtol=rounding, atol=rounding / 4)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("norm", NORMS)
def test_eval_and_no_grad_are_torchs_own(norm: str, activation: str) -> None:
    network, probed_ones = forms(norm, activation, 1, torch.float32)
    x = volume((2, 4, 9, 10, 11), torch.float32)
    dy = torch.randn_like(x)
    for used in probed_ones:
        with torch.no_grad():
            assert torch.equal(copy.deepcopy(used)(x), copy.deepcopy(network)(x))
        expected = gradients(copy.deepcopy(network).eval(), x, dy)
        y, dx, parameters = gradients(used.eval(), x, dy)
        assert torch.equal(y, expected[0])
        assert torch.equal(dx, expected[1])
        for one, other in zip(parameters, expected[2], strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("channels_last", [False, True])
def test_gradients_are_torchs_if_the_input_is_kept(
    norm: str, activation: str, channels_last: bool
) -> None:
    network, probed_ones = forms(norm, activation, "exact", torch.float64)
    for shape in SIZES:
        x, dy = volume(shape), volume(shape, seed=6)
        # The expected ones without channels_last, with which torch's own instance norm is wrong.
        expected = gradients(network, x, dy)
        if channels_last:
            x, dy = (tensor.to(memory_format=torch.channels_last_3d) for tensor in (x, dy))
        for used in probed_ones:
            results = gradients(used, x, dy)
            assert results[0].stride() == x.stride()
            torch.testing.assert_close(results, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("inplace", [False, True])
def test_working_in_place_changes_nothing(inplace: bool) -> None:
    first = nn.Conv3d(2, CHANNELS, 3, padding=1)
    x, dy = torch.randn(2, 2, 5, 6, 7), torch.randn(2, CHANNELS, 5, 6, 7)
    results = []
    for in_norm, in_activation in ((False, False), (inplace, True)):
        network = probed(nn.Sequential(copy.deepcopy(first), *ordinary("group", "prelu")), 1)
        network[1].activate(0.2, in_norm)
        network[2] = ProbedLeakyReLU(0.1, inplace=in_activation)
        set_probe_step(network, 0, 0)
        results.append(gradients(network, x, dy))
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=0)


@pytest.mark.parametrize("momentum", [0.1, 0.7, None])
@pytest.mark.parametrize("bits", [1, "exact"])
def test_running_statistics_are_torchs(momentum: float | None, bits: float | str) -> None:
    layer = nn.BatchNorm3d(CHANNELS, momentum=momentum).double()
    used = probed(nn.Sequential(layer), bits)[0]
    for step in range(4):
        x = volume((2, 4, 3, 5, 7), seed=step).requires_grad_()
        layer(x)
        used(x)
    assert used.num_batches_tracked == 4
    torch.testing.assert_close(used.state_dict(), layer.state_dict(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(used.eval()(x), layer.eval()(x), rtol=1e-12, atol=1e-12)


CHAINS = {
    "instance, fused": ("instance", "leaky", True),
    "group, not fused": ("group", "relu", False),
    "batch, fused": ("batch", "relu", True),
    "instance and PReLU": ("instance", "prelu by channel", False),
}


@pytest.mark.parametrize(("bits", "draws"), [(1, 150), (0.125, 500)])
@pytest.mark.parametrize("chain", CHAINS)
def test_gradients_are_unbiased(chain: str, bits: float, draws: int) -> None:
    norm, activation, fused = CHAINS[chain]
    conv = nn.Conv3d(CHANNELS, 2, 3, padding=1, bias=False)
    network = ordinary(norm, activation, conv)
    x = volume((1, 4, 12, 8, 16), torch.float32)
    # The gradient of y has much in common with y, so that the term of rank one, which is all
    # that is random in dx, is of the order of dx. Its bias at one bit is about the energy of the
    # error over 1536 voxels, far below the standard error. With an eighth of a bit the errors
    # of a brick's voxels go together, and the bias is of the order (m - 1) 36 % over the number
    # of bricks, 12: not below the standard error. There the parameters' gradients are judged,
    # which have no bias at all, and that of dx is compared with its order.
    dy = network(x).detach() + 0.3 * torch.randn(1, 2, 12, 8, 16)
    _, *expected = gradients(network, x, dy)
    used = probed(network, bits, fused=fused)
    rows: list[list[Tensor]] = []
    for step in range(draws):
        set_probe_step(used, seed=7, step=step)
        _, dx, parameters = gradients(used, x, dy)
        # 768 voxels of x will do.
        rows.append([dx[..., ::8], *parameters])
    dx, parameters = expected
    exact = [dx[..., ::8], *parameters]
    if bits < 1:
        error = torch.stack([row.pop(0) for row in rows]).mean(0) - exact.pop(0)
        assert error.norm() < 7 * 0.36 / 12 * dx[..., ::8].norm()
    # All together, each in units of its own, lest four numbers fail by mere chance.
    units = [values.abs().max() for values in exact]

    def joined(values: list[Tensor]) -> Tensor:
        return torch.cat([(v / unit).flatten() for v, unit in zip(values, units, strict=True)])

    assert_mean_is(torch.stack([joined(row) for row in rows]).double(), joined(exact))
    randomness = torch.stack([row[-1] for row in rows]).std(0)
    assert randomness[:, [0, 1, 3]].min() > 0  # where gamma is not zero


@pytest.mark.parametrize("norm", ["instance", "group", "batch"])
@pytest.mark.parametrize("bits", [0.125, 1])
def test_the_gradient_of_what_the_norm_takes_out_is_zero(norm: str, bits: float) -> None:
    layer = probed(ordinary(norm, "leaky"), bits, fused=True)
    y = volume((2, 4, 9, 10, 11)).requires_grad_()
    layer(y).backward(volume(y.shape, seed=6) + 0.5 * y.detach())
    assert y.grad is not None
    # What a bias in front adds to: a channel, for group norm all channels of a group alike.
    sums = y.grad.sum((2, 3, 4))
    if norm == "group":
        sums = sums.view(2, 2, 2).sum(2)
    if norm == "batch":
        sums = sums.sum(0)
    assert sums.abs().max() < 1e-9 * y.grad.abs().sum()


@pytest.mark.parametrize("activation", ["relu", "leaky", "prelu"])
def test_gradient_of_an_activation_alone_is_exact(activation: str) -> None:
    (layer,) = ACTIVATIONS[activation]()
    used = probed(nn.Sequential(layer), 0.125)
    x, dy = volume((2, 4, 9, 10, 11), torch.float32), torch.randn(2, 4, 9, 10, 11)
    y, dx, _ = gradients(nn.Sequential(layer), x, dy)
    probed_y, probed_dx, _ = gradients(used, x, dy)
    assert torch.equal(probed_y, y)
    torch.testing.assert_close(probed_dx, dx)


@pytest.mark.parametrize("bits", [0.125, 1, "exact"])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("norm", ["instance", "group", "batch"])
@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_not_hidden(
    poison: float, norm: str, fused: bool, bits: float | str
) -> None:
    network = ordinary(norm, "leaky")
    used = probed(network, bits, fused=fused)
    for poisoned in (0, 1):
        tensors = [volume((1, 4, 4, 5, 6), torch.float32), torch.randn(1, 4, 4, 5, 6)]
        tensors[poisoned][0, 1, 2, 3, 4] = poison
        expected, results = gradients(network, *tensors), gradients(used, *tensors)
        assert not expected[1].isfinite().all()
        for one, other in zip(
            (*results[:2], *results[2]), (*expected[:2], *expected[2]), strict=True
        ):
            assert not (one.isfinite() & ~other.isfinite()).any()


@pytest.mark.parametrize("norm", ["instance", "group", "batch"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(norm: str, dtype: torch.dtype) -> None:
    first, last = nn.Conv3d(2, CHANNELS, 3, padding=1), nn.Conv3d(CHANNELS, 2, 3, padding=1)
    network = nn.Sequential(first, *ordinary(norm, "leaky"), last)
    used = probed(network, "exact")
    x = torch.randn(2, 2, 6, 8, 8)
    dy = torch.randn(2, 2, 6, 8, 8).to(dtype)
    exact = gradients(copy.deepcopy(network).double(), x.double(), dy.double())
    with torch.autocast("cpu", dtype):
        library, results = (gradients(layers, x, dy) for layers in (network, used))
    assert results[0].dtype == dtype
    assert all(gradient.dtype == torch.float32 for gradient in results[2])
    triples = zip(*((y, dx, *gammas) for y, dx, gammas in (results, library, exact)), strict=True)
    for index, (one, torchs, true) in enumerate(triples):
        if index == 3 and norm != "group":
            continue  # the first bias, for which these norms have no use: rounding errors, no more
        assert (one - true).norm() < 1.5 * (torchs - true).norm(), index


def kept_storages(network: nn.Module, x: Tensor) -> dict[int, int]:
    """Bytes, by address, that the forward pass keeps for the backward pass, parameters apart."""
    parameters = {parameter.data_ptr() for parameter in network.parameters()}
    storages: dict[int, int] = {}
    held = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        held.append(storage)  # lest another one gets its address
        if storage.data_ptr() not in parameters:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        network(x)
    return storages


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bits", [0.125, 0.25, 0.5, 1, 2, 4])
@pytest.mark.parametrize("fused", [False, True])
def test_kept_bytes_are_the_documented_ones(fused: bool, bits: float, dtype: torch.dtype) -> None:
    conv = nn.Conv3d(CHANNELS, 8, 3, padding=1)
    network = ordinary("batch", "leaky", conv).to(dtype)
    x = volume((2, 4, 8, 16, 32), dtype).requires_grad_()
    used = probed(network, bits, fused=fused)
    kept = sum(kept_storages(used, x).values())
    # A sign, and the bits; per brick of 128 voxels two means, and a scale if it is coded.
    mean_bits = 8 * x.element_size()
    bits_per_voxel = 1 + bits + (2 * mean_bits + 32 * min(bits, 1)) / 128
    key, gamma_and_beta = 32, 2 * 4 * 2 * CHANNELS
    assert kept == bits_per_voxel / 8 * x.numel() + key + gamma_and_beta


@pytest.mark.parametrize("bits", [0.125, 1, "exact"])
@pytest.mark.parametrize("fused", [False, True])
def test_a_convolution_behind_keeps_nothing_of_its_own(fused: bool, bits: float | str) -> None:
    network = ordinary("group", "leaky", nn.Conv3d(CHANNELS, 8, 3, padding=1))
    used = probed(network, bits, fused=fused)
    x = volume((2, 4, 6, 7, 8), torch.float32).requires_grad_()
    with_conv = sum(kept_storages(used, x).values())
    assert with_conv == sum(kept_storages(used[:-1], x).values())
    norm, conv = used[0], used[-1]
    assert conv.sources == (norm.probe_key.layer,)


@pytest.mark.parametrize("change", ["in place", "through a view", "copied"])
def test_a_record_is_of_no_use_for_a_changed_tensor(change: str) -> None:
    network = ordinary("group", "leaky", nn.Conv3d(CHANNELS, 2, 3, padding=1)).double()
    x, dy = volume((2, 4, 6, 7, 8)), torch.randn(2, 2, 6, 7, 8, dtype=torch.float64)
    grads = []
    for used in (network, probed(network, "exact", fused=True)):
        z = used[:-1](x.clone().requires_grad_())
        if used is not network:
            assert record_of(z) is not None
        if change == "in place":
            z.add_(1)
        elif change == "through a view":
            z[:, 1].mul_(2)
        else:
            z = z + 1
        assert record_of(z) is None
        used[-1](z).backward(dy)
        grads.append(used[-1].weight.grad)
    assert used[-1].sources == (used[-1].probe_key.layer,)
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("bits", [0.5, 1, "exact"])
def test_activation_checkpointing(bits: float | str, reentrant: bool) -> None:
    conv = nn.Conv3d(CHANNELS, CHANNELS, 3, padding=1)
    network = ordinary("instance", "prelu", conv, *ordinary("group", "leaky"))
    used = probed(network, bits)
    x, dy = volume((2, 4, 6, 7, 8), torch.float32), torch.randn(2, 4, 6, 7, 8)
    # The second forward pass draws anew, and the gradient is its. It is the first that draws if
    # the one before is made without gradients, as the reentrant kind does.
    set_probe_step(used, seed=2, step=3)
    if not reentrant:
        used(x.clone().requires_grad_())
    y, dx, parameters = gradients(used, x, dy)
    set_probe_step(used, seed=2, step=3)
    used.zero_grad()
    leaf = x.clone().requires_grad_()
    checkpoint(used, leaf, use_reentrant=reentrant).backward(dy)
    torch.testing.assert_close(leaf.grad, dx, rtol=0, atol=0)
    for parameter, expected in zip(used.parameters(), parameters, strict=True):
        torch.testing.assert_close(parameter.grad, expected, rtol=0, atol=0)


@pytest.mark.parametrize("bits", [0.125, 1, 4, "exact"])
@pytest.mark.parametrize("norm", NORMS)
def test_memory_can_be_measured_with_fake_tensors(norm: str, bits: float | str) -> None:
    for fused in (False, True):
        with FakeTensorMode():
            conv = nn.Conv3d(CHANNELS, 2, 3, padding=1)
            used = become_probed(ordinary(norm, "leaky", conv), bits, fused)
            x = torch.empty(2, CHANNELS, 40, 50, 60, requires_grad=True)
            used(x).sum().backward()
        assert x.grad.shape == x.shape
        assert all(p.grad.shape == p.shape for p in used.parameters())


def signed_surrogate(sketch: RotatedSketch, x: Tensor, key: ProbeKey) -> Tensor:
    """The surrogate of x by a sketch that keeps the signs, which are asserted to be right."""
    encoder = Encoder(sketch, x, key, signed=True)
    for where, numbers in bricks_of(encoder.grid, x):
        rows = encoder.grid.read(x, where, encoder.dtype)
        encoder.put(rows, numbers, exceeds(rows, 0))
    decoder = Decoder(sketch, x.shape, encoder.kept, key, encoder.dtype)
    out, signs = torch.empty_like(x), torch.empty_like(x)
    for where, numbers in bricks_of(decoder.grid, x):
        rows, positive = decoder.rows(numbers)
        assert positive is not None
        decoder.grid.write(out, where, rows)
        decoder.grid.write(signs, where, positive.neg())
    assert torch.equal(signs, (x > 0).to(x.dtype))
    return out


def signed_draws(bits: float, x: Tensor, draws: int) -> Tensor:
    keys = (ProbeKey(seed=11, step=step) for step in range(draws))
    return torch.stack([signed_surrogate(RotatedSketch(bits), x, key).flatten() for key in keys])


@pytest.mark.parametrize("bits", [0.125, 0.5, 1, 2])
def test_sketch_with_signs_is_unbiased(bits: float) -> None:
    # Five channels of three planes: rows of bricks that groups of two and of eight do not divide.
    x = volume((1, 5, 3, 9, 10))
    x[0, 1] = x[0, 1].abs()  # no voxel of the other kind
    x[0, 2] = 0.75
    assert_mean_is(signed_draws(bits, x, 600), x)


@pytest.mark.parametrize("bits", [0.125, 0.25, 0.5, 1, 2])
def test_error_of_a_sketch_with_signs_is_as_documented(bits: float) -> None:
    x = volume((1, 4, 6, 16, 16))
    n, m = 128, max(1, round(1 / bits))
    # Two bricks a plane, eight a row: bricks that groups of up to eight divide.
    bricks = x.reshape(-1, n)
    positive = (bricks > 0).double()
    residual = bricks.clone()
    for kind in (positive, 1 - positive):
        mean = (bricks * kind).sum(1, keepdim=True) / kind.sum(1, keepdim=True)
        residual -= mean * kind
    k = excess_energy(max(1, round(bits)), n)
    expected = (m * (1 + k) - 1) * residual.square().sum()
    energies = (signed_draws(bits, x, 250) - x.flatten()).square().sum(1)
    standard_error = energies.std() / len(energies) ** 0.5
    assert standard_error < 0.02 * expected
    # A thousandth for k, which is a mean of 20,000 draws itself.
    assert (energies.mean() - expected).abs() < 4.5 * standard_error + 1e-3 * expected
