"""The kernels against the torch path: numba's, and Triton's, in its interpreter without a GPU."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

pytest.importorskip("triton")
pytest.importorskip("numba")

from seg3d.networks import UNet3d
from seg3d.probing import ProbeKey, coder, kernels, set_bits, set_probe_step
from seg3d.probing.activations import ProbedPReLU, activate_backward, sketched_with_signs
from seg3d.probing.bricks import BrickGrid
from seg3d.probing.kernels import kernels_for, passes, shapes
from seg3d.probing.kernels.cpu import passes as cpu_passes
from seg3d.probing.norms import (
    Normalisation,
    normalise,
    normalise_and_put,
    normalise_backward,
    pooled_moments,
)
from seg3d.probing.packing import unpack
from seg3d.probing.records import Record, sketched
from seg3d.probing.rotated import Encoder, RotatedSketch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
KEY = ProbeKey(seed=1, step=2, layer=3)
Result = TypeVar("Result")

# Bricks of 128 voxels; of 120, of four planes with two planes to spare; of 110; of 72, with voxels
# to spare; of 24, whole small volumes. Rows of 5 to 10 bricks, which groups do not divide.
SHAPES = ((2, 3, 2, 16, 16), (1, 6, 6, 5, 6), (2, 5, 2, 10, 11), (2, 5, 2, 13, 11), (3, 9, 2, 3, 4))
# Every number of bits with bricks that fit and bricks that stick out, and every shape.
CASES = [
    *((SHAPES[0], bits, torch.float32) for bits in (0.125, 1, 2, 4)),
    *((SHAPES[3], bits, torch.float32) for bits in (0.25, 0.5, 1, 2)),
    (SHAPES[1], 0.125, torch.float32),
    (SHAPES[2], 1, torch.float32),
    (SHAPES[4], 0.25, torch.float32),
    (SHAPES[4], 4, torch.bfloat16),
    (SHAPES[2], 1, torch.bfloat16),
    (SHAPES[1], 0.125, torch.float16),
]
cases = pytest.mark.parametrize(
    ("shape", "bits", "dtype"), CASES, ids=lambda value: str(value).replace("torch.", "")
)


# On a GPU there is but one compiler.
@pytest.fixture(autouse=True, params=["triton"] if DEVICE.type == "cuda" else ["triton", "numba"])
def compiler(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Whose kernels are asked."""
    tested = cpu_passes if request.param == "numba" else passes
    if DEVICE.type == "cpu":
        monkeypatch.setattr(kernels, "_passes_on", lambda device: tested)
        # The interpreter takes as long for a large program as for a small one.
        monkeypatch.setattr(passes, "ROWS", 32)
        monkeypatch.setattr(passes, "PART", 64)
        # They are right to 16 bits of mantissa, more than products in bf16 have.
        monkeypatch.setattr(coder, "multiplies_bf16", lambda device: False)
    return tested


def both(compute: Callable[[], Result]) -> tuple[Result, Result]:
    """What the kernels compute, and what the torch path does."""
    fused = compute()
    kernels.enabled = False
    try:
        return fused, compute()
    finally:
        kernels.enabled = True


def volume(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, mean: float = 0.6) -> Tensor:
    return (torch.randn(shape) * 1.7 + mean).to(DEVICE, dtype)


def assert_near(fused: Any, plain: Any, dtype: torch.dtype, rounding: float = 2e-5) -> None:
    """Equal but for the rounding to ``dtype``, or in float32 for sums in another order."""
    tolerance = max(rounding, torch.finfo(dtype).eps if dtype != torch.float32 else 0.0)
    torch.testing.assert_close(fused, plain, rtol=tolerance, atol=tolerance)


def assert_same_sketch(fused: Record, plain: Record, dtype: torch.dtype) -> None:
    """The same draw: what is coded, and how it is turned; codes differ only next to a threshold."""
    assert isinstance(fused.sketch, RotatedSketch)
    for index, bits in ((0, 1), (2, max(1, int(fused.sketch.bits)))):
        if fused.kept[index].numel():
            one, other = (unpack(record.kept[index], bits) for record in (fused, plain))
            # In half precision the interpreter rounds means to another side than torch.
            most = 1e-3 if dtype == torch.float32 else 0.03
            assert (one != other).double().mean() <= most
            assert (one.int() - other.int()).abs().max() <= 1
    assert_near(fused.kept[1], plain.kept[1], dtype)
    # Another code makes another scale of a brick.
    alike = (fused.kept[2] == plain.kept[2]).all(1) | (dtype != torch.float32)
    rounding = 1e-4 if dtype == torch.float32 else 0.02
    assert_near(fused.kept[3][alike], plain.kept[3][alike], torch.float32, rounding)


def normalisation(shape: tuple[int, ...], slope: float | None = 0.1) -> Normalisation:
    scale = torch.rand(shape[:2], device=DEVICE) + 0.3
    return Normalisation(scale, -0.6 * scale, lambda values: values, slope)


def affine(channels: int) -> tuple[Tensor, Tensor]:
    """Gammas of both signs and zero, and betas."""
    gain = torch.linspace(-1, 1.5, channels, device=DEVICE)
    gain[1] = 0
    return gain, torch.linspace(0.3, -0.4, channels, device=DEVICE)


@cases
def test_sketches(shape: tuple[int, ...], bits: float, dtype: torch.dtype) -> None:
    x = volume(shape, dtype)
    for draw in (sketched, sketched_with_signs):
        fused, plain = both(lambda: draw(x, RotatedSketch(bits), KEY))  # noqa: B023
        assert_same_sketch(fused, plain, dtype)


@cases
def test_norms(shape: tuple[int, ...], bits: float, dtype: torch.dtype) -> None:
    """Forwards over y and backwards over dz."""
    y, dz = volume(shape, dtype), volume(shape, dtype, mean=0.1)
    how = normalisation(shape, slope=None if bits == 2 else 0.1)

    def forwards() -> tuple[Tensor, Record]:
        z = y.clone()
        return z, normalise(z, z, *affine(shape[1]), how, RotatedSketch(bits), KEY)

    (fused_z, fused), (plain_z, plain) = both(forwards)
    assert_near(fused_z, plain_z, dtype)
    assert_same_sketch(fused, plain, dtype)

    def backwards() -> tuple[Tensor, Tensor, Tensor]:
        dy = dz.clone()
        return dy, *normalise_backward(dy, dy, plain, how.scale, how.pool)

    fused_gradients, plain_gradients = both(backwards)
    assert_near(fused_gradients[0], plain_gradients[0], dtype, 1e-4)
    assert_near(fused_gradients[1:], plain_gradients[1:], torch.float32, 1e-3)


@cases
def test_surrogates(shape: tuple[int, ...], bits: float, dtype: torch.dtype) -> None:
    """Of whole volumes, and of a part of one, written into the end of a buffer."""
    sketch = RotatedSketch(bits)
    kernels.enabled = False
    y = volume(shape, dtype)
    records = [
        sketched(y, sketch, KEY),
        normalise(y, y.clone(), *affine(shape[1]), normalisation(shape), sketch, KEY),
        replace(sketched_with_signs(y, sketch, KEY), slope=affine(shape[1])[0]),
    ]
    kernels.enabled = True
    for record in records:
        assert isinstance(record, Record)
        fill, step = record.filler(dtype)
        layers = -(-shape[2] // step)
        last = slice(layers // 2, layers)

        def filled() -> tuple[Tensor, Tensor]:
            whole = torch.zeros(shape, dtype=dtype, device=DEVICE)
            fill(whole, slice(0, shape[0]), slice(0, layers))  # noqa: B023
            buffer = torch.zeros(1, *shape[1:], dtype=dtype, device=DEVICE)
            first = last.start * step  # noqa: B023
            fill(buffer[:, :, first:], slice(shape[0] - 1, shape[0]), last)  # noqa: B023
            return whole, buffer

        fused, plain = both(filled)
        assert_near(fused, plain, dtype, 2e-4)
        part = slice(last.start * step, None)
        assert_near(fused[1][0, :, part], fused[0][-1, :, part], dtype)


@pytest.mark.parametrize("slopes", [1, 5])
def test_activations(slopes: int) -> None:
    """Slopes of one channel or of all, behind a norm layer and alone."""
    shape, sketch = SHAPES[2], RotatedSketch(0.5)
    y, dz = volume(shape), volume(shape, mean=0.1)
    how = normalisation(shape, None)
    slope = (ProbedPReLU(slopes).weight.detach() * torch.arange(1, slopes + 1)).to(DEVICE)
    for record in (
        normalise(y, y.clone(), *affine(shape[1]), how, sketch, KEY),
        sketched_with_signs(y, sketch, KEY),
    ):
        record = replace(record, slope=slope)

        def backwards() -> tuple[Tensor, Tensor | None]:
            dx = dz.clone()
            return dx, activate_backward(dx, dx, record, True)  # noqa: B023

        assert_near(*both(backwards), torch.float32, 1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_moments(dtype: torch.dtype) -> None:
    """A mean large beside the deviations, and parts of channels of which the last is shorter."""
    for shape in (*SHAPES, (1, 2, 5, 40, 41)):
        y = volume(shape, dtype, mean=50.0)
        fused, plain = both(lambda: pooled_moments(y, lambda values: values))  # noqa: B023
        assert_near(fused, plain, torch.float32, 1e-5)


def test_training_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a whole network: output, and gradients, which see all kernels one after the other."""
    torch.manual_seed(1)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    network = UNet3d(1, 2, (4, 8)).to(DEVICE)
    set_bits(network, {"encoder.0.*": 0.25, "*": 1})
    x = torch.randn(2, 1, 4, 8, 8, device=DEVICE)

    def step() -> tuple[Tensor, list[Tensor]]:
        used = copy.deepcopy(network)
        set_probe_step(used, seed=1, step=2)
        output = used(x)
        y = output[0] if isinstance(output, (list, tuple)) else output
        y.square().mean().backward()
        return y.detach(), [p.grad for p in used.parameters() if p.grad is not None]

    (fused_y, fused), (plain_y, plain) = both(step)
    assert_near(fused_y, plain_y, torch.float32)
    for one, other in zip(fused, plain, strict=True):
        # A code next to a threshold may fall to either side.
        assert (one - other).norm() <= 0.01 * other.norm() + 1e-6


def test_what_the_torch_path_does(compiler: ModuleType) -> None:
    x = torch.zeros(1, 2, 8, 8, 8, device=DEVICE)
    grid = BrickGrid.of(x.shape, 128)
    assert kernels_for(grid, x)
    assert kernels_for(grid, x, torch.zeros(1, 2, 9, 8, 8, device=DEVICE)[:, :, 1:]) is None
    assert kernels_for(grid, x.double()) is None
    assert (kernels_for(grid, x.half()) is None) == (compiler is cpu_passes)
    assert kernels_for(grid, x.to(memory_format=torch.channels_last_3d)) is None
    assert kernels_for(BrickGrid.of(x.shape, 4), x) is None
    with FakeTensorMode():
        assert kernels_for(grid, torch.zeros(1, 2, 8, 8, 8)) is shapes


def test_fake_tensors_are_told_what_the_kernels_allocate(compiler: ModuleType) -> None:
    shape, sketch = SHAPES[2], RotatedSketch(1)
    names = ("moments", "sketch", "normalise", "sums", "gradient", "fill")
    for name in names:
        fake, real = getattr(shapes, name), getattr(compiler, name)
        assert inspect.signature(fake) == inspect.signature(real)

    def results(x: Tensor) -> list[Tensor]:
        record = normalise(x, x.clone(), *affine(shape[1]), normalisation(shape, 0.1), sketch, KEY)
        return [*pooled_moments(x, lambda values: values), record.open(x.dtype).sums(x, 0.1, 1.0)]

    real_results = results(volume(shape))
    with FakeTensorMode(allow_non_fake_inputs=True):
        fake_results = results(torch.empty(shape, device=DEVICE))
    for one, other in zip(real_results, fake_results, strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)


@pytest.mark.parametrize("bits", [0.25, 1])
@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[1]], ids=str)
def test_parts_of_a_volume(shape: tuple[int, ...], bits: float) -> None:
    """Chunks of rows are sketched, and rebuilt, as they are within the whole."""
    y, dz = volume(shape), volume(shape, mean=0.1)
    how = normalisation(shape)
    whole = normalise(y, torch.empty_like(y), *affine(shape[1]), how, RotatedSketch(bits), KEY)
    last = slice(shape[0] - 1, shape[0])

    def in_part() -> tuple[Record, Tensor, Tensor, Tensor]:
        encoder = Encoder(RotatedSketch(bits), y, KEY, signed=True)
        layers = slice(1, encoder.grid.layers)
        rows = slice(encoder.grid.planes, None)
        z = y[last, :, rows].clone()
        own = replace(how, scale=how.scale[last], offset=how.offset[last])
        part = encoder.part(last, layers)
        normalise_and_put(z, z, *affine(shape[1]), own, part)
        rebuilder = whole.open(torch.float32).part(last, layers)
        here = dz[last, :, rows].contiguous()
        sums = rebuilder.sums(here, whole.slope, 1.0)
        dy = torch.empty_like(here)
        rebuilder.gradient(here, dy, tuple(torch.ones(3, 1, shape[1], device=DEVICE)))
        return replace(rebuilder.record, kept=part.kept), z, sums, dy

    (fused, *others), (plain, *expected) = both(in_part)
    assert_same_sketch(fused, plain, torch.float32)
    part = whole.open(torch.float32).part(last, slice(1, BrickGrid.of(y.shape, 128).layers))
    assert_same_sketch(fused, part.record, torch.float32)
    for one, other in zip(others, expected, strict=True):
        assert_near(one, other, torch.float32, rounding=1e-4)
