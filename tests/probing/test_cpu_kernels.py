"""What numba's kernels do beside what `test_kernels.py` asks of them and of Triton's alike."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

pytest.importorskip("numba")

from seg3d.probing import ProbeKey
from seg3d.probing.coder import STRUCTURED, rotation_flips, rotation_matrix
from seg3d.probing.kernels import kernels_for
from seg3d.probing.kernels.cpu import passes
from seg3d.probing.kernels.cpu.compiler import compiled
from seg3d.probing.kernels.cpu.instructions import load, store
from seg3d.probing.kernels.cpu.rotation import rotate
from seg3d.probing.norms import Normalisation, normalise, normalise_backward, pooled_moments
from seg3d.probing.rotated import RotatedSketch
from tests.conftest import ROOT, environment

from .helpers import assert_mean_is

KEY = ProbeKey(seed=1, step=2, layer=3)


@compiled
def copied(source, target):
    for i in range(len(source)):
        store(target, i, load(source, i))


def test_rounding_to_bf16_is_torchs() -> None:
    odd = [0.0, -0.0, np.inf, -np.inf, 1e-45, 3.4e38, 1 + 2**-8, 1 + 3 * 2**-8]
    x = torch.cat([torch.randn(1000), torch.tensor(odd)])
    rounded = np.empty(len(x), np.uint16)
    copied(x.numpy(), rounded)
    assert torch.equal(torch.from_numpy(rounded.view(np.int16)).view(torch.bfloat16), x.bfloat16())
    back = np.empty(len(x), np.float32)
    copied(rounded, back)
    assert torch.equal(torch.from_numpy(back), x.bfloat16().float())
    copied(np.full(1, np.nan, np.float32), rounded[:1])
    copied(rounded[:1], back[:1])
    assert np.isnan(back[0])


@pytest.mark.parametrize("voxels", [STRUCTURED, 100, 9])
def test_rotations_are_those_of_the_matrix(voxels: int) -> None:
    matrix = rotation_matrix(KEY, voxels)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(voxels, dtype=matrix.dtype))
    told = matrix.float().contiguous().numpy(), rotation_flips(KEY)
    x = torch.randn(voxels)
    for backwards, expected in ((False, x.double() @ matrix), (True, x.double() @ matrix.T)):
        rotated = x.numpy().copy()
        rotate(rotated, told, backwards, np.empty_like(rotated))
        torch.testing.assert_close(torch.from_numpy(rotated).double(), expected, rtol=0, atol=3e-6)


@pytest.mark.parametrize("values", [[1, 0.3], [1, 0.5, 0.5]], ids=str)
def test_three_rounds_leave_hardly_a_bias(values: list[float]) -> None:
    """Of few voxels in an empty brick, one bit each; a round less has a bias of 0.012 or more."""
    draws, n = 200_000, STRUCTURED
    generator = torch.Generator().manual_seed(0)
    hadamard = torch.from_numpy(scipy.linalg.hadamard(n)).float() / n**0.5
    x = torch.zeros(n)
    x[torch.randperm(n, generator=generator)[: len(values)]] = torch.tensor(values)
    total = torch.zeros(n, dtype=torch.float64)
    for _ in range(draws // 10_000):
        signs = 1.0 - 2 * torch.randint(2, (3, 10_000, n), generator=generator)
        rotated = x.expand(10_000, n)
        for sign in signs:
            rotated = (rotated * sign) @ hadamard
        codes = torch.where(rotated > 0, 1.0, -1.0)
        rebuilt = codes * (x.square().sum() / (rotated * codes).sum(1, keepdim=True))
        for sign in signs.flip(0):
            rebuilt = (rebuilt @ hadamard) * sign
        total += rebuilt.double().sum(0)
    there = x != 0
    assert (total / draws - x)[there].norm() < 0.004 * x.norm()


@pytest.mark.parametrize("bits", [0.25, 1, 2, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_surrogates_are_unbiased(bits: float, dtype: torch.dtype) -> None:
    x = (torch.randn(1, 2, 2, 16, 16) + 0.5).to(dtype)
    assert kernels_for(None, x) is passes
    sketch, rows = RotatedSketch(bits), []
    for step in range(600):
        key = ProbeKey(seed=11, step=step)
        kept = sketch.compress(x, key)
        out = torch.empty(x.shape)
        sketch.fill(out, kept, key)
        rows.append(out.flatten().double())
    assert_mean_is(torch.stack(rows), x.float())


def results(x: Tensor, dz: Tensor) -> list[Tensor]:
    mean, variance = pooled_moments(x, lambda values: values)
    scale = (variance + 1e-5).rsqrt()
    how = Normalisation(scale, -mean * scale, lambda values: values, 0.1)
    z, dy = torch.empty_like(x), torch.empty_like(dz)
    gain = torch.linspace(0.5, 1.5, x.shape[1], dtype=x.dtype)
    record = normalise(x, z, gain, gain - 1, how, RotatedSketch(4), KEY)
    dweight, dbias = normalise_backward(dz, dy, record, scale, how.pool)
    return [mean, variance, z, dy, dweight, dbias]


@pytest.mark.parametrize("shape", [(2, 3, 2, 16, 16), (1, 5, 3, 13, 11), (3, 9, 2, 3, 4)], ids=str)
def test_float32_against_float64(shape: tuple[int, ...]) -> None:
    """The torch path in float64 is exact but for the codes, of which next to none differ."""
    x, dz = torch.randn(shape) * 3 + 5, torch.randn(shape)
    assert kernels_for(None, x) is passes and kernels_for(None, x.double()) is None
    for fused, exact in zip(results(x, dz), results(x.double(), dz.double()), strict=True):
        torch.testing.assert_close(fused.double(), exact, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("threads", [2, 5])
def test_threads_change_nothing(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "VOXELS_OF_A_THREAD", 1)
    x, dz = torch.randn(2, 3, 7, 16, 16), torch.randn(2, 3, 7, 16, 16)
    alone = results(x, dz)
    torch.set_num_threads(threads)
    for one, other in zip(results(x, dz), alone, strict=True):
        assert torch.equal(one, other)


LAZY = """
import sys
import seg3d.networks, seg3d.probing.kernels, seg3d.training.start
assert "numba" not in sys.modules
import torch
from seg3d.probing import ProbedConv3d, kernels
kernels.find_spec = lambda name: None
x = torch.randn(1, 2, 8, 8, 8, requires_grad=True)
ProbedConv3d(2, 2, 3)(x).sum().backward()
print("trained", "numba" in sys.modules)
"""


def test_numba_is_imported_late_and_not_needed() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LAZY], capture_output=True, text=True, timeout=300,
        env=environment() | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stdout == "trained False\n" and not done.stderr


WHERE = """
import torch
from seg3d.probing.kernels.cpu import compiler, passes
print(compiler.is_new(), passes.moments(torch.ones(1, 1, 2, 2, 2))[0].item(), compiler.is_new())
"""


def test_machine_code_is_kept_in_the_users_cache(tmp_path: Path) -> None:
    """Found by the next process; where nothing can be written it is done without."""
    own = {"XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    (tmp_path / "file").touch()
    nowhere = own | {"NUMBA_CACHE_DIR": str(tmp_path / "file")}
    printed = []
    for variables in (own, own, nowhere):
        done = subprocess.run(
            [sys.executable, "-c", WHERE], capture_output=True, text=True, timeout=300,
            env={**os.environ, **environment(), **variables},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout.strip())
    assert printed == ["True 1.0 False", "False 1.0 False", "True 1.0 True"]
    assert any((tmp_path / "seg3d").rglob("*.nbc"))
