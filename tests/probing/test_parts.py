"""A part of a record is rebuilt, and written, as it would be within the whole."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from seg3d.probing import ProbeKey, make_sketch
from seg3d.probing.norms import Normalisation, moments, moments_of_parts, normalise
from seg3d.probing.records import Record
from seg3d.probing.rotated import Encoder, RotatedSketch

# Bricks that are runs of a plane, bricks that stick out, and bricks of several planes.
SHAPES = [(2, 3, 6, 16, 16), (2, 3, 5, 9, 15), (2, 3, 10, 3, 5)]
KEY = ProbeKey(seed=3, step=1, layer=2)


def record_of(shape: tuple[int, ...], bits: Any) -> tuple[torch.Tensor, Record]:
    y = torch.randn(shape, dtype=torch.float64) + 1
    scale, offset = torch.rand(2, *shape[:2], dtype=torch.float64) + 0.5
    gamma, beta = torch.randn(2, shape[1], dtype=torch.float64)
    sketch = make_sketch("rotated", bits=bits)
    how = Normalisation(scale, offset, lambda values: values, 0.01)
    return y, normalise(y, torch.empty_like(y), gamma, beta, how, sketch, KEY)


@pytest.mark.parametrize("bits", [0.125, 0.5, 1, 4, "exact"])
@pytest.mark.parametrize("shape", SHAPES)
def test_parts_are_rebuilt_as_in_the_whole(shape: tuple[int, ...], bits: Any) -> None:
    y, record = record_of(shape, bits)
    dz = torch.randn_like(y)
    whole = record.open(y.dtype)
    sums = whole.sums(dz, record.slope, 1.0)
    columns = tuple(torch.randn(3, *shape[:2], dtype=y.dtype))
    dy, x = torch.empty_like(dz), torch.empty_like(dz)
    whole.gradient(dz, dy, columns)
    whole.fill(x, slice(0, 2), slice(0, whole.grid.layers))
    found = torch.zeros_like(sums)
    planes, layers = whole.grid.planes, whole.grid.layers
    for sample in (slice(0, 1), slice(1, 2)):
        for places in (slice(0, 2), slice(2, layers)):
            part = whole.part(sample, places)
            rows = slice(places.start * planes, places.stop * planes)
            here = dz[sample, :, rows]
            found[:, sample] += part.sums(here, record.slope, 1.0)
            part_dy, part_x = torch.empty_like(here), torch.empty_like(here)
            part.gradient(here, part_dy, tuple(column[sample] for column in columns))
            part.fill(part_x, slice(0, 1), slice(0, part.grid.layers))
            torch.testing.assert_close(part_dy, dy[sample, :, rows])
            torch.testing.assert_close(part_x, x[sample, :, rows])
    torch.testing.assert_close(found, sums)


@pytest.mark.parametrize("bits", [0.25, 1, 2])
@pytest.mark.parametrize("shape", SHAPES)
def test_parts_are_sketched_as_in_the_whole(shape: tuple[int, ...], bits: float) -> None:
    x = torch.randn(shape)
    whole, in_parts = (Encoder(RotatedSketch(bits), x, KEY, signed=True) for _ in range(2))
    whole.put_all(x)
    planes, layers = whole.grid.planes, whole.grid.layers
    for sample in (slice(0, 1), slice(1, 2)):
        for places in (slice(0, 1), slice(1, layers)):
            rows = slice(places.start * planes, places.stop * planes)
            in_parts.part(sample, places).put_all(x[sample, :, rows])
    for ours, expected in zip(in_parts.kept, whole.kept, strict=True):
        torch.testing.assert_close(ours, expected)


def test_moments_of_parts() -> None:
    y = torch.randn(2, 3, 7, 4, 5, dtype=torch.float64) * 3 + 100
    for ours, expected in zip(moments_of_parts(y.split([1, 4, 2], 2)), moments(y), strict=True):
        torch.testing.assert_close(ours, expected)
