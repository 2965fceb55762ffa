"""Codes and bits in bytes: what goes in comes out, in every type and of every length."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seg3d.probing.keys import random_words
from seg3d.probing.packing import as_masks, masked, masks, multiply_by_signs_, pack, unpack

SHAPES = st.tuples(st.integers(1, 4), st.integers(1, 150))
PRECISIONS = st.sampled_from([torch.float32, torch.float64])


def draw(shape: tuple[int, int], below: int) -> torch.Tensor:
    return torch.randint(below, shape, generator=torch.Generator().manual_seed(sum(shape)))


@settings(max_examples=40, deadline=None)
@given(SHAPES, st.sampled_from([1, 2, 4]), st.sampled_from([torch.uint8, torch.float32]))
def test_codes_come_out_as_they_went_in(
    shape: tuple[int, int], bits: int, dtype: torch.dtype
) -> None:
    codes = draw(shape, 2**bits)
    packed = pack(codes.to(dtype), bits)
    assert packed.shape == (shape[0], -(-shape[1] * bits // 8))
    assert torch.equal(unpack(packed, bits)[:, : shape[1]], codes.to(torch.uint8))


@settings(max_examples=40, deadline=None)
@given(SHAPES, PRECISIONS)
def test_masks_choose_where_a_bit_is_one(shape: tuple[int, int], dtype: torch.dtype) -> None:
    bits = draw(shape, 2)
    mask = masks(pack(bits, 1), shape[1], dtype)
    assert torch.equal(mask, -bits.to(mask.dtype))
    assert torch.equal(mask, as_masks(bits.to(dtype)))
    for values in (torch.randn(shape, dtype=dtype), torch.randn(shape[0], 1, dtype=dtype)):
        assert torch.equal(masked(mask, values), torch.where(bits == 1, values, 0))


@settings(max_examples=40, deadline=None)
@given(SHAPES, PRECISIONS)
def test_random_signs_are_the_bits_of_the_bricks_words(
    shape: tuple[int, int], dtype: torch.dtype
) -> None:
    bricks = torch.arange(shape[0]) + 7
    rows = torch.randn(shape, dtype=dtype)
    words = -(-shape[1] // 64)
    drawn = random_words(3, bricks[:, None] * words + torch.arange(words)).view(torch.uint8)
    signs = 2.0 * unpack(drawn, 1)[:, : shape[1]] - 1
    assert torch.equal(multiply_by_signs_(rows.clone(), bricks, 3), rows * signs)


def test_random_signs_are_fair_and_differ_from_brick_to_brick() -> None:
    signs = multiply_by_signs_(torch.ones(2000, 128), torch.arange(2000), 5)
    spread = signs.numel() ** -0.5
    assert signs.mean().abs() < 4 * spread
    assert (signs[1:] * signs[:-1]).mean().abs() < 4 * spread
    assert (signs[:, 1:] * signs[:, :-1]).mean().abs() < 4 * spread


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_nothing_at_all_is_packed_into_nothing(bits: int) -> None:
    assert pack(torch.empty(0, 128), bits).shape == (0, 16 * bits)
