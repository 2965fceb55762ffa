"""Convolutions in slabs: the same as in one piece, however small the slabs are."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from seg3d.probing import ProbedConv3d, ProbedConvTranspose3d, ProbedInstanceNorm3d, set_probe_step
from seg3d.probing.slabs import LEAST_ROWS
from seg3d.probing.work_sizes import GPU_SLAB, MOST_SLABS, slab_elements

from .helpers import gradients

PROBED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv3d: ProbedConv3d,
    nn.ConvTranspose3d: ProbedConvTranspose3d,
}


def probed(layer: nn.Module, bits: float | str = "exact") -> Any:
    """A probed layer with the arguments and weights of an ordinary convolution."""
    names = [
        "in_channels",
        "out_channels",
        "kernel_size",
        "stride",
        "padding",
        "dilation",
        "groups",
    ]
    if isinstance(layer, nn.ConvTranspose3d):
        names.append("output_padding")
    copied: Any = PROBED[type(layer)](
        **{name: getattr(layer, name) for name in names},
        bias=layer.bias is not None,
        dtype=layer.weight.dtype,
        sketch="rotated",
        bits=bits,
    )
    copied.load_state_dict(layer.state_dict())
    return copied


@contextmanager
def slabs_of(elements: int, least_rows: int = 1, limit: int = 2**31) -> Iterator[None]:
    """Slabs of so many elements, and the forward pass in slabs from ``limit`` elements on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("seg3d.probing.slab_convolutions.slab_elements", lambda x: elements)
        patch.setattr("seg3d.probing.slabs.LEAST_ROWS", least_rows)
        patch.setattr("seg3d.probing.slab_convolutions.CUDNN_LIMIT", limit)
        yield


def assert_same(results: Any, expected: Any) -> None:
    torch.testing.assert_close(results, expected, rtol=1e-9, atol=1e-10)


@settings(max_examples=120, deadline=None)
@given(st.data())
def test_any_geometry_in_slabs_is_torchs(data: st.DataObject) -> None:
    def triple(low: int, high: int) -> tuple[int, ...]:
        return data.draw(st.tuples(*[st.integers(low, high)] * 3))

    groups = data.draw(st.sampled_from([1, 2]))
    channels = groups * data.draw(st.integers(1, 2)), groups * data.draw(st.integers(1, 2))
    kernel, stride, dilation, padding = triple(1, 3), triple(1, 3), triple(1, 2), triple(0, 2)
    kind: Any = data.draw(st.sampled_from([nn.Conv3d, nn.ConvTranspose3d]))
    options: dict[str, Any] = {"bias": data.draw(st.booleans())}
    if kind is nn.ConvTranspose3d:
        options["output_padding"] = triple(0, 2)
    torch.manual_seed(data.draw(st.integers(0, 100)))
    layer = kind(*channels, kernel, stride, padding, dilation=dilation, groups=groups, **options)
    layer = layer.double()
    depth, plane = data.draw(st.integers(1, 13)), data.draw(st.tuples(*[st.integers(1, 5)] * 2))
    x = torch.randn(data.draw(st.integers(1, 3)), channels[0], depth, *plane, dtype=torch.float64)
    try:
        dy = torch.randn_like(layer(x))
    except RuntimeError:  # the kernel is larger than the volume, or the output padding is too large
        assume(False)
    elements, rows = data.draw(st.integers(1, 200)), data.draw(st.integers(1, 3))
    with slabs_of(elements, rows, data.draw(st.sampled_from([0, 2**31]))):
        assert_same(gradients(probed(layer), x, dy), gradients(layer, x, dy))


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("kind", [nn.Conv3d, nn.ConvTranspose3d])
@pytest.mark.parametrize("kernel", [2, 3])
def test_a_padded_layer_in_slabs_is_torchs(kind: Any, kernel: int, batch: int) -> None:
    layer = kind(3, 4, kernel, stride=2, padding=1).double()
    x = torch.randn(batch, 3, 27, 6, 5, dtype=torch.float64)
    dy = torch.randn_like(layer(x))
    for limit in (0, 2**31):
        with slabs_of(400, limit=limit):
            assert_same(gradients(probed(layer), x, dy), gradients(layer, x, dy))


@pytest.mark.parametrize("with_record", [False, True])
@pytest.mark.parametrize("bits", [0.125, 1, 4])
@pytest.mark.parametrize("elements", [1, 700, 5000])
def test_the_draw_does_not_depend_on_the_slabs(
    elements: int, bits: float, with_record: bool
) -> None:
    conv = probed(nn.Conv3d(3, 4, 3, padding=1).double(), bits)
    norm = ProbedInstanceNorm3d(3, affine=True, dtype=torch.float64, bits=bits)
    norm.activate(0.1, inplace=False)
    network = nn.Sequential(norm, conv) if with_record else conv
    # Planes of 30 voxels, four to a brick, and of 400, four bricks to a plane.
    for size in ((23, 5, 6), (7, 20, 20)):
        x = torch.randn(2, 3, *size, dtype=torch.float64)
        dy = torch.randn(2, 4, *size, dtype=torch.float64)
        set_probe_step(network, seed=1, step=2)
        whole = gradients(network, x, dy)
        set_probe_step(network, seed=1, step=2)
        with slabs_of(elements):
            assert_same(gradients(network, x, dy), whole)


@pytest.mark.parametrize("elements", [300, 2**22])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
def test_skip_connection(stride: int, shared: bool, elements: int) -> None:
    layer = nn.Conv3d(3, 4, 3, stride, padding=1).double()
    x = torch.randn(2, 3, 11, 5, 6, dtype=torch.float64)
    other = torch.randn_like(x)

    def run(used: nn.Module, with_skip: bool) -> list[Tensor]:
        used.zero_grad()
        leaves = [tensor.clone().requires_grad_() for tensor in (x, other)]
        y, skip = used.with_skip(leaves[0]) if with_skip else (used(leaves[0]), leaves[0])
        # The sum hands the gradient of the skip connection to the other leaf as well.
        branch = (skip + leaves[1]).tanh() if shared else skip.tanh() * leaves[1]
        (y.square().mean() + branch.square().mean()).backward()
        grads = [leaf.grad for leaf in leaves] + [p.grad for p in used.parameters()]
        return [y, skip, *grads]

    expected = run(layer, with_skip=False)
    with slabs_of(elements):
        assert_same(run(probed(layer), with_skip=True), expected)


def test_skip_connection_of_which_one_branch_is_not_used() -> None:
    layer = nn.Conv3d(3, 4, 3, padding=1).double()
    for index in (0, 1):
        grads = []
        for used, with_skip in ((layer, False), (probed(layer), True)):
            x = torch.ones(1, 3, 4, 5, 6, dtype=torch.float64, requires_grad=True)
            outputs = used.with_skip(x) if with_skip else (used(x), x)
            (gradient,) = torch.autograd.grad(outputs[index].square().sum(), x)
            grads.append(gradient)
        assert_same(grads[1], grads[0])


@pytest.mark.parametrize("elements", [300, 2**22])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("channels", [(2, 3), (3, 1, 2)])
@pytest.mark.parametrize("kind", [nn.Conv3d, nn.ConvTranspose3d])
def test_convolution_of_parts(
    kind: type[nn.Module], channels: tuple[int, ...], bias: bool, elements: int
) -> None:
    layer = kind(sum(channels), 4, 3, stride=(2, 1, 1), padding=1, bias=bias).double()
    parts = [torch.randn(2, c, 11, 5, 6, dtype=torch.float64, requires_grad=True) for c in channels]

    def run(used: nn.Module, of_parts: bool) -> list[Tensor]:
        used.zero_grad()
        if of_parts:
            y = used.of_parts([part.tanh for part in parts])
        else:
            y = used(torch.cat([part.tanh() for part in parts], 1))
        grads = torch.autograd.grad(y.sin().sum(), [*parts, *used.parameters()])
        return [y, *grads]

    expected = run(layer, of_parts=False)
    copied = probed(layer)
    with slabs_of(elements):
        assert_same(run(copied, of_parts=True), expected)
        with torch.no_grad():
            lean = copied.eval().of_parts([part.tanh for part in parts])
        assert_same(lean, expected[0])
    assert_same(copied.eval().of_parts([part.tanh for part in parts]), expected[0])


def leave_nan_in_free_memory() -> None:
    litter = [torch.full((size,), torch.nan) for size in (1000, 10000, 100000, 400000, 1000000) * 4]
    del litter


@given(
    edge=st.integers(8, 700),
    channels=st.sampled_from([1, 16, 32, 320]),
    batch=st.integers(1, 4),
    dtype=st.sampled_from([torch.bfloat16, torch.float32]),
)
def test_slabs_keep_a_gpu_busy_and_do_not_become_ever_more(
    edge: int, channels: int, batch: int, dtype: torch.dtype
) -> None:
    """Of some 32 MiB at least, and not much more than 32 of them, however large the tensor."""
    with FakeTensorMode():
        x = torch.empty(batch, channels, edge, edge, edge, dtype=dtype)
    geometry = ProbedConv3d(1, 1, 3, padding=1).geometry()
    slabs = geometry.slabs(x.shape, x.shape, slab_elements(x))
    if x.nbytes <= GPU_SLAB:
        assert len(slabs) == 1
    row = x.nbytes // (batch * edge)
    least = min(GPU_SLAB, row * edge) - row * LEAST_ROWS
    assert all((slab.last - slab.first) * row * 1.5 >= least for slab in slabs)
    # One more for each volume, whose parts are rounded.
    assert len(slabs) <= 1.5 * MOST_SLABS + batch


@pytest.mark.parametrize("depth", [1, 2])
def test_half_precision_of_volumes_thinner_than_the_kernel(depth: int) -> None:
    """PyTorch 2.13's own gradient is NaN then, if what was in memory before is."""
    layer = nn.Conv3d(64, 64, 3, padding=(2, 1, 1), bias=False).bfloat16()
    x = torch.randn(1, 64, depth, 4, 4).bfloat16()
    dy = torch.randn_like(layer(x))
    expected = gradients(copy.deepcopy(layer).float(), x.float(), dy.float())
    layer = probed(layer)
    for _ in range(3):
        leave_nan_in_free_memory()
        _, dx, (dw,) = gradients(layer, x, dy)
        torch.testing.assert_close(dx.float(), expected[1], rtol=0.02, atol=0.02)
        torch.testing.assert_close(dw.float(), expected[2][0], rtol=0.02, atol=0.02)
