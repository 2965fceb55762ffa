"""Whether the kernels compute what ordinary PyTorch does, pass by pass, and twice the same."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from seg3d.benchmarks.gpu.scale import Scale, Volume
from seg3d.benchmarks.gpu.work import in_a_cell
from seg3d.benchmarks.tables import print_table
from seg3d.probing import ProbeKey, coder, kernels
from seg3d.probing.kernels import kernels_for
from seg3d.probing.norms import Normalisation, normalise, normalise_backward, pooled_moments
from seg3d.probing.packing import unpack
from seg3d.probing.records import Record
from seg3d.probing.rotated import RotatedSketch

BITS = (1, 0.125, 4, 0.25, 0.5, 2)
HALVES = (torch.bfloat16, torch.float16)
SLOPE = 0.1
# What is allowed: of numbers, in float32 and as multiples of a half's rounding; of codes that lie
# next to a threshold, the share that may differ.
ROUNDING, HALF_ROUNDING = 2e-4, 2
CODES, HALF_CODES = 1e-3, 0.03
# Of a volume, so much memory is needed to compare what two ways make of it.
COPIES = 8


@dataclass(frozen=True)
class Case:
    """What is compared.

    Attributes:
        name: what is special about it.
    """

    name: str
    shape: Volume
    bits: float
    dtype: torch.dtype
    device: torch.device
    layout: torch.memory_format = torch.contiguous_format

    def __str__(self) -> str:
        shape = "×".join(map(str, self.shape))
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{self.name}: {shape}, {self.bits:g} bits, {dtype}"


@dataclass(frozen=True)
class Passes:
    """What the passes make of a case."""

    moments: Tensor
    output: Tensor
    record: Record
    gradient: Tensor
    weights: Tensor
    surrogate: Tensor


def agreement(device: torch.device, scale: Scale, *, short: bool = False) -> dict[str, Any]:
    """Compare all cases; differences are in parts of what is allowed, so that 1 is too much.

    Args:
        device: where.
        scale: its shapes.
        short: only the cases that tell most.
    """
    if kernels_for(None, torch.zeros(1, 1, 1, 1, 1, device=device)) is None:
        return {"kernels": False, "cases": {}, "right": True}
    wanted = cases(device, scale, short)
    start = time.perf_counter()
    _run(wanted[0])
    first_use = time.perf_counter() - start
    found = {str(case): _compared(case) for case in wanted}
    rows = [[name, *(in_a_cell(one.get(key)) for key in COLUMNS)] for name, one in found.items()]
    print_table(
        "kernels against the torch path: differences, in parts of what is allowed",
        ["case", *COLUMNS],
        rows,
    )
    numbers = [
        value for one in found.values() for value in one.values() if not isinstance(value, str)
    ]
    return {
        "kernels": True,
        "cases": found,
        "right": all(value <= 1 for value in numbers),
        # In which the kernels of the first case are compiled, or read from the cache.
        "first_use_seconds": first_use,
    }


COLUMNS = (
    "moments", "output", "codes", "gradient", "weights", "surrogate", "second run", "skipped",
)  # fmt: skip


def cases(device: torch.device, scale: Scale, short: bool) -> list[Case]:
    """What is compared, the most important first."""
    first, *others = scale.shapes
    float32 = torch.float32
    half = [dtype for dtype in HALVES if device.type != "cpu" or dtype != torch.float16]
    found = [
        *(Case("usual", first, bits, half[0], device) for bits in BITS[:3]),
        Case("float32", first, 1, float32, device),
        *(Case("odd shape", shape, 1, half[0], device) for shape in others[-1:]),
        Case("channels last", first, 1, half[0], device, torch.channels_last_3d),
    ]
    if torch.cuda.device_count() > 1 and device.type == "cuda":
        other = torch.device("cuda", 1 if device.index in (None, 0) else 0)
        found.append(Case("another GPU", first, 1, half[0], other))
    if short:
        return found
    found.append(Case("more than 2³¹", scale.huge, 1, torch.bfloat16, device))
    found += [Case("bits", first, bits, half[0], device) for bits in BITS[3:]]
    found += [Case("fp16", first, bits, dtype, device) for dtype in half[1:] for bits in BITS[:3]]
    found += [
        Case("odd shape", shape, bits, float32, device) for shape in scale.shapes for bits in BITS
    ]
    return found


def _compared(case: Case) -> dict[str, float | str]:
    needed = math.prod(case.shape) * case.dtype.itemsize * COPIES
    if case.device.type == "cuda" and torch.cuda.mem_get_info(case.device)[0] < needed:
        return {"skipped": "too little memory"}
    # On some CPUs the torch path multiplies in bfloat16, which is not what kernels are to reach.
    with mock.patch.object(coder, "multiplies_bf16", lambda device: False):
        fused, again = _run(case), _run(case)
        with mock.patch.object(kernels, "enabled", False):
            plain = _run(case)
    half = case.dtype != torch.float32
    allowed = HALF_ROUNDING * torch.finfo(case.dtype).eps if half else ROUNDING
    codes = HALF_CODES if half else CODES
    return {
        "moments": _worst(fused.moments, plain.moments) / ROUNDING,
        "output": _worst(fused.output, plain.output) / allowed,
        "codes": max(_other_codes(fused.record, plain.record)) / codes,
        "gradient": _worst(fused.gradient, plain.gradient) / allowed,
        "weights": _worst(fused.weights, plain.weights) / (codes + allowed),
        # Another code makes another voxel: the mean, not the worst, tells.
        "surrogate": _mean(fused.surrogate, plain.surrogate) / (codes + allowed),
        "second run": float(not _same_bytes(fused, again)) * 2,
    }


def _run(case: Case) -> Passes:
    """All passes, of numbers that are always the same."""
    generator = torch.Generator(case.device).manual_seed(0)
    draw: dict[str, Any] = {"generator": generator, "device": case.device, "dtype": case.dtype}
    y = torch.randn(case.shape, **draw).mul_(1.7).add_(0.6).contiguous(memory_format=case.layout)
    dz = torch.randn(case.shape, **draw).contiguous(memory_format=case.layout)
    columns = torch.linspace(0.3, 1.2, case.shape[1], device=case.device)
    how = Normalisation(columns.expand(case.shape[:2]) + 0, -0.6 * columns.expand(case.shape[:2]),
                        lambda values: values, SLOPE)  # fmt: skip
    sketch = RotatedSketch(case.bits)
    moments = torch.stack(pooled_moments(y, how.pool))
    record = normalise(y, y, columns - 0.5, -columns, how, sketch, ProbeKey(1, 2, 3))
    with mock.patch.object(kernels, "enabled", False):
        # Of equal codes, so that what follows does not depend on those next to a threshold.
        source = torch.randn(case.shape, **draw).contiguous(memory_format=case.layout)
        given = normalise(source, source, columns - 0.5, -columns, how, sketch, ProbeKey(1, 2, 3))
    del source
    weights = torch.stack(normalise_backward(dz, dz, given, how.scale, how.pool))
    surrogate = torch.empty_like(y)
    fill, planes = given.filler(case.dtype)
    fill(surrogate, slice(0, case.shape[0]), slice(0, -(-case.shape[2] // planes)))
    return Passes(moments, y, record, dz, weights / dz[0, 0].numel(), surrogate)


def _worst(one: Tensor, other: Tensor) -> float:
    """The largest difference, beside the size of the number; channel by channel, for huge ones."""
    return max(
        _deviation(a, b).max().item() for a, b in zip(one.unbind(1), other.unbind(1), strict=True)
    )


def _mean(one: Tensor, other: Tensor) -> float:
    parts = [
        _deviation(a, b).mean().item() for a, b in zip(one.unbind(1), other.unbind(1), strict=True)
    ]
    return sum(parts) / len(parts)


def _deviation(one: Tensor, other: Tensor) -> Tensor:
    return (one.float() - other.float()).abs_() / (1 + other.float().abs())


def _other_codes(one: Record, other: Record) -> list[float]:
    """Shares of signs, and of codes, that differ."""
    assert isinstance(one.sketch, RotatedSketch)
    shares = []
    for index, bits in ((0, 1), (2, max(1, int(one.sketch.bits)))):
        first, second = one.kept[index], other.kept[index]
        parts = zip(first.split(1 << 20), second.split(1 << 20), strict=True)
        different = [(unpack(a, bits) != unpack(b, bits)).double().mean() for a, b in parts]
        shares.append(torch.stack(different).mean().item() if different else 0.0)
    return shares


def _same_bytes(one: Passes, other: Passes) -> bool:
    pairs: list[Callable[[Passes], Tensor]] = [
        lambda found: found.output,
        lambda found: found.gradient,
        lambda found: found.weights,
        lambda found: found.surrogate,
        *((lambda found, index=index: found.record.kept[index]) for index in range(4)),
    ]
    return all(torch.equal(take(one), take(other)) for take in pairs)
