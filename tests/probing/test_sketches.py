"""Sketches as statistics: unbiased, with the variance that theory says, and as small as said."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from seg3d.common.errors import UserError
from seg3d.probing import ProbeKey, coder, kernels, make_sketch
from seg3d.probing.bricks import BrickGrid
from seg3d.probing.coder import haar_matrix
from seg3d.probing.packing import POSITIVE_LEVELS, Codebook
from seg3d.probing.rotated import RotatedSketch

from .helpers import PROBING, assert_mean_is, surrogate_draws

ROTATED = ("onebit", "2bit", "4bit")
BITS = {"onebit": 1, "2bit": 2, "4bit": 4}


def rebuilt(name: str, x: Tensor, rank: int = 64, key: ProbeKey | None = None) -> Tensor:
    sketch = make_sketch(name, rank)
    assert sketch is not None
    key = key or ProbeKey(seed=1, step=2, layer=3, call=4)
    return sketch.surrogate(sketch.compress(x, key), x.shape, x.dtype, key)


@pytest.mark.parametrize("name", PROBING)
def test_surrogate_is_unbiased(name: str) -> None:
    x = torch.randn(2, 3, 3, 5, 7, generator=torch.Generator().manual_seed(0)) + 0.5
    assert_mean_is(surrogate_draws(make_sketch(name, rank=9), x, 800), x)


@pytest.mark.parametrize("name", ROTATED)
def test_two_voxels_in_an_empty_brick_are_unbiased(name: str) -> None:
    x = torch.zeros(1, 1, 4, 4, 4)
    x[0, 0, 1, 2, 3], x[0, 0, 3, 0, 1] = 1.0, 0.7
    assert_mean_is(surrogate_draws(make_sketch(name), x, 2000), x)


@pytest.mark.parametrize("name", ROTATED)
@pytest.mark.parametrize(("voxels", "draws"), [(64, 1000), (128, 500)])
def test_sparse_volumes_are_unbiased(name: str, voxels: int, draws: int) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(1, 2, 8, 8, 8, generator=generator)
    x *= torch.rand(x.shape, generator=generator) < 0.02
    assert_mean_is(surrogate_draws(RotatedSketch(BITS[name], voxels), x, draws), x)


@pytest.mark.parametrize(("bits", "close"), [(1, 0.03), (4, 0.001)])
def test_products_in_bf16_make_nearly_the_same_sketch(
    bits: int, close: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.randn(1, 2, 8, 16, 16, generator=torch.Generator().manual_seed(2))
    sketch, key, drawn = RotatedSketch(bits), ProbeKey(), []
    monkeypatch.setattr(kernels, "enabled", False)
    for fast in (True, False):
        monkeypatch.setattr(coder, "multiplies_bf16", lambda device, fast=fast: fast)
        drawn.append(sketch.surrogate(sketch.compress(x, key), x.shape, x.dtype, key))
    difference = (drawn[0] - drawn[1]).square().sum() / x.square().sum()
    # A code differs where a value lies next to a threshold.
    assert 0 < difference < close


def test_rounding_of_the_mean_is_no_bias() -> None:
    x = (torch.randn(1, 1, 4, 4, 4) + 100.3).bfloat16()
    sketch = make_sketch("onebit")
    draws = []
    for step in range(800):
        key = ProbeKey(step=step)
        draws.append(sketch.surrogate(sketch.compress(x, key), x.shape, torch.float32, key))
    assert_mean_is(torch.stack(draws).flatten(1).double(), x)


def excess_energy(bits: int, n: int) -> float:
    """E|x~|^2 / |x|^2 - 1 of EDEN for a uniformly random direction, by simulation."""
    normal = np.random.default_rng(5).standard_normal((20000, n))
    positive = np.array(POSITIVE_LEVELS[bits])
    spread = np.sqrt(np.square(normal).mean(1, keepdims=True))
    nearest = np.abs(np.abs(normal / spread)[:, :, None] - positive).argmin(2)
    q = np.sign(normal) * positive[nearest]
    energies = np.square(normal).sum(1) * np.square(q).sum(1) / (normal * q).sum(1) ** 2
    return energies.mean() - 1


@pytest.mark.parametrize("name", ROTATED)
def test_variance_of_rotated_sketches_is_the_closed_form(name: str) -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(1, 2, 4, 8, 6, generator=generator, dtype=torch.float64)
    functionals = torch.randn(x.numel(), 40, generator=generator, dtype=torch.float64)
    functionals[:, :20] += 2 * x.flatten()[:, None]  # aligned with x: the second term matters
    grid = BrickGrid.of(x.shape, 48)
    ((where, _),) = grid.lots(1 << 20)
    bricks = grid.read(x, where, x.dtype)
    n, count = grid.voxels, grid.bricks
    assert (n, count) == (48, 8)
    residual = bricks - bricks.mean(1, keepdim=True)
    columns = [grid.read(column.view(x.shape), where, x.dtype) for column in functionals.unbind(1)]
    g = torch.stack(columns, 2)  # (bricks, voxels, functionals)
    lengths = residual.square().sum(1, keepdim=True) * g.square().sum(1)
    aligned = torch.einsum("bn,bnf->bf", residual, g).square()
    expected = excess_energy(BITS[name], n) / (n - 1) * (lengths - aligned).sum(0)
    draws = surrogate_draws(RotatedSketch(BITS[name], 48), x, 2500) @ functionals
    ratio = draws.var(0) / expected
    assert ratio.mean().item() == pytest.approx(1, abs=0.03)
    assert torch.all((ratio - 1).abs() < 0.2)


@pytest.mark.parametrize(("bits", "energy"), [(1, math.pi / 2 - 1), (2, 0.1331), (4, 0.00955)])
def test_noise_of_a_full_brick_is_as_documented(bits: int, energy: float) -> None:
    x = torch.randn(1, 16, 16, 16, 16, generator=torch.Generator().manual_seed(3))
    # The constants are those of bricks so large that rotated voxels are normal.
    error = surrogate_draws(RotatedSketch(bits, voxels=512), x, 4) - x.flatten()
    assert error.square().mean().item() == pytest.approx(energy, rel=0.03)


def probe_variance(name: str, x: Tensor, g: Tensor, rank: int) -> Tensor:
    """Closed form for x and functionals g, ``(B, C, voxels, functionals)``, of one sample."""
    if name == "multichannel":
        x, g = x.reshape(1, 1, -1), g.reshape(1, 1, -1, g.shape[-1])
    x, g = x[0], g[0]
    n = x.shape[1]
    # The same probes serve all channels: <g, Z Z^T x> is the trace of Z Z^T A, A = sum x g^T.
    products = torch.einsum("ci,cjf->fij", x, g)
    frobenius = products.square().sum((1, 2))
    trace_of_square = torch.einsum("fij,fji->f", products, products)
    trace = torch.einsum("fii->f", products)
    if name != "orthogonal":
        return (frobenius + trace_of_square) / rank
    symmetric = (frobenius + trace_of_square) / 2
    return 2 * n * (n - rank) / (rank * (n - 1) * (n + 2)) * (symmetric - trace.square() / n)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["independent", "multichannel", "orthogonal"])
def test_variance_of_probes_is_the_closed_form(name: str, channels: int) -> None:
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(1, channels, 3, 4, 2, generator=generator, dtype=torch.float64)
    g = torch.randn(1, channels, 24, 30, generator=generator, dtype=torch.float64)
    g[..., :15] += x.flatten(2)[..., None]
    expected = probe_variance(name, x.flatten(2), g, rank=6)
    draws = surrogate_draws(make_sketch(name, rank=6), x, 4000) @ g.flatten(0, 2)
    ratio = draws.var(0) / expected
    assert ratio.mean().item() == pytest.approx(1, abs=0.05)
    assert torch.all((ratio - 1).abs() < 0.25)


def test_documented_variance_of_orthogonal_probes_is_the_general_one() -> None:
    x, g = torch.randn(2, 24, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    n, r, s = 24, 6, x @ g
    scale = n * (n - r) / (r * (n - 1) * (n + 2))
    documented = scale * (x.square().sum() * g.square().sum() + (1 - 2 / n) * s.square())
    general = probe_variance("orthogonal", x.view(1, 1, -1), g.view(1, 1, -1, 1), r)
    assert documented.item() == pytest.approx(general.item())


def test_orthogonal_probes_are_exact_at_full_rank() -> None:
    x = torch.randn(2, 3, 3, 4, 5, dtype=torch.float64)
    for rank in (60, 1000):
        torch.testing.assert_close(rebuilt("orthogonal", x, rank), x, rtol=1e-8, atol=1e-8)


def test_probes_drawn_in_parts_are_those_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seg3d.probing.probes.NUMBERS_AT_ONCE", 700)
    x = torch.randn(2, 3, 3, 4, 5, dtype=torch.float64)
    torch.testing.assert_close(rebuilt("orthogonal", x, 60), x, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", ROTATED)
@pytest.mark.parametrize("elements", [1, 500, 4000])
def test_bricks_in_lots_do_not_change_the_law(
    name: str, elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "enabled", False)
    x = torch.randn(2, 3, 9, 10, 11)
    whole = rebuilt(name, x)
    monkeypatch.setattr("seg3d.probing.work_sizes.lot_elements", lambda x, total: elements)
    parts = rebuilt(name, x)
    energies = [(surrogate - x).square().mean().item() for surrogate in (whole, parts)]
    assert energies[0] == pytest.approx(energies[1], rel=0.15)


@pytest.mark.parametrize("name", PROBING)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_constants_zeros_and_empty_batches(name: str, dtype: torch.dtype) -> None:
    zeros = torch.zeros(1, 2, 5, 6, 7, dtype=dtype)
    assert torch.equal(rebuilt(name, zeros), zeros)
    if name in ROTATED:
        assert torch.equal(rebuilt(name, zeros + 0.75), zeros + 0.75)
    assert rebuilt(name, zeros[:0]).shape == (0, 2, 5, 6, 7)


@pytest.mark.parametrize("name", PROBING)
@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_not_hidden(name: str, poison: float) -> None:
    x = torch.randn(1, 2, 5, 6, 7)
    x[0, 1, 2, 3, 4] = poison
    assert not rebuilt(name, x)[0, 1, 2, 3, 4].isfinite()


@pytest.mark.parametrize("name", PROBING)
def test_layout_of_the_input_does_not_matter(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does it matter which of them takes the kernels, which do not multiply in bf16."""
    monkeypatch.setattr(coder, "multiplies_bf16", lambda device: False)
    x = torch.randn(2, 8, 6, 7, 8)
    channels_last = x.to(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(rebuilt(name, channels_last), rebuilt(name, x), rtol=1e-4, atol=1e-4)


def test_same_key_same_draw_and_any_other_key_another() -> None:
    x = torch.randn(1, 2, 5, 6, 7)
    for name in PROBING:
        key = ProbeKey(1, 2, 3, 4)
        first = rebuilt(name, x, key=key)
        assert torch.equal(first, rebuilt(name, x, key=ProbeKey(1, 2, 3, 4)))
        others = [ProbeKey(0, 2, 3, 4), ProbeKey(1, 0, 3, 4), ProbeKey(1, 2, 0, 4), key.next_call()]
        assert all(not torch.equal(first, rebuilt(name, x, key=other)) for other in others)


@pytest.mark.parametrize("name", ROTATED)
@pytest.mark.parametrize(("dtype", "mean_bits"), [(torch.float32, 32), (torch.bfloat16, 16)])
def test_kept_bits_per_element(name: str, dtype: torch.dtype, mean_bits: int) -> None:
    x = torch.randn(2, 3, 8, 16, 24).to(dtype)
    kept = make_sketch(name).compress(x, ProbeKey())
    bits = 8 * sum(tensor.nbytes for tensor in kept) / x.numel()
    assert bits == BITS[name] + (mean_bits + 32) / 128


def test_kept_numbers_of_probes() -> None:
    x = torch.randn(2, 3, 8, 16, 24)
    for name, numbers in (("independent", 6 * 5), ("multichannel", 2 * 5), ("orthogonal", 6 * 5)):
        (kept,) = make_sketch(name, rank=5).compress(x, ProbeKey())
        assert kept.numel() == numbers


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("n", [1, 5, 64, 210])
def test_codebook_gives_the_nearest_level(bits: int, n: int) -> None:
    codebook = Codebook(bits, torch.device("cpu"), torch.float64)
    values = torch.randn(3, n, dtype=torch.float64)
    spread = torch.tensor([[0.5], [1.0], [2.0]], dtype=torch.float64)
    packed = codebook.quantise(values, spread)
    assert packed.shape == (3, math.ceil(n * bits / 8))
    positive = torch.tensor(POSITIVE_LEVELS[bits], dtype=torch.float64)
    levels = torch.cat([-positive, positive])
    nearest = ((values / spread)[..., None] - levels).abs().argmin(2)
    torch.testing.assert_close(codebook.levels(packed, n), levels[nearest])


def test_haar_matrix_is_orthogonal_and_uniform() -> None:
    matrices = np.stack([haar_matrix(ProbeKey(step=step), 3).numpy() for step in range(3000)])
    assert np.abs(matrices @ matrices.transpose(0, 2, 1) - np.eye(3)).max() < 1e-12
    flat = matrices.reshape(-1, 9)
    assert np.abs(flat.mean(0)).max() < 4.5 / math.sqrt(3 * 3000)
    np.testing.assert_allclose((flat**2).mean(0), 1 / 3, atol=0.025)
    np.testing.assert_allclose((flat**4).mean(0), 1 / 5, atol=0.025)


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(*[st.integers(1, 3)] * 2, *[st.integers(1, 19)] * 3),
    st.sampled_from([8, 64, 256]),
    st.integers(1, 5000),
)
def test_bricks_cover_every_voxel_once(shape: tuple[int, ...], voxels: int, elements: int) -> None:
    x = torch.arange(math.prod(shape), dtype=torch.float64).view(shape)
    grid = BrickGrid.of(x.shape, voxels)
    out = torch.full_like(x, -1)
    seen = 0
    for where, numbers in grid.lots(elements):
        rows = grid.read(x, where, x.dtype)
        assert rows.shape == (numbers.stop - numbers.start, grid.voxels)
        assert numbers.start == seen
        seen = numbers.stop
        grid.write(out, where, rows)
    assert seen == grid.bricks
    assert torch.equal(out, x)


def test_bricks_are_runs_of_a_plane_or_whole_planes() -> None:
    def brick(*size: int) -> tuple[int, int, int]:
        grid = BrickGrid.of(torch.Size((1, 1, *size)), 128)
        return grid.planes, grid.runs, grid.voxels

    assert brick(128, 128, 128) == (1, 128, 128)
    assert brick(9, 48, 48) == (1, 18, 128)
    assert brick(9, 10, 15) == (1, 2, 75)
    assert brick(4, 13, 11) == (1, 2, 72)
    assert brick(5, 6, 7) == (3, 1, 126)
    assert brick(4, 4, 4) == (4, 1, 64)
    assert brick(300, 1, 1) == (100, 1, 100)
    for size in ((17, 19, 23), (1, 97, 89), (40, 47, 33), (3, 3, 3), (2, 3, 5)):
        grid = BrickGrid.of(torch.Size((1, 1, *size)), 128)
        assert grid.bricks * grid.voxels < 1.25 * math.prod(size)


def test_columns_for_rows_and_back() -> None:
    x = torch.randn(2, 3, 9, 10, 11, dtype=torch.float64)
    grid = BrickGrid.of(x.shape, 128)
    values = torch.randn(2, 3, dtype=torch.float64)
    sums = torch.zeros(2, 3, dtype=torch.float64)
    for where, _ in grid.lots(700):
        rows = grid.read(x, where, x.dtype) * grid.spread(values, where)
        sums[where[0]] += grid.total(rows, where)
    torch.testing.assert_close(sums, x.sum((2, 3, 4)) * values)


def test_names_and_ranks_are_checked() -> None:
    assert make_sketch("exact") is None
    with pytest.raises(UserError, match="rotated, onebit, 2bit, 4bit, independent"):
        make_sketch("twobit")
    for rank in (0, -3, 1.5, True):
        with pytest.raises(UserError, match="rank"):
            make_sketch("independent", rank)  # type: ignore[arg-type]
    for bits in (0, 3, 0.3, True, "auto"):
        with pytest.raises(UserError, match="no sketch of so many bits"):
            make_sketch("rotated", bits=bits)
