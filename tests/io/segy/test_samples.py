"""Sample formats, above all IBM floats, against exact arithmetic and against segyio."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from seg3d.common.errors import UserError
from seg3d.io.segy.samples import FORMATS, IBM, decode
from tests.io.segy.files import Spec, segyio, write
from tests.io.segy.test_reading import reading

FILE = Path("survey.sgy")


def exact(word: int) -> Fraction:
    """An IBM float by its definition: sign, power of 16 less 64, 24 bits of a fraction."""
    sign, exponent, fraction = word >> 31, (word >> 24) & 0x7F, word & 0xFFFFFF
    return (-1) ** sign * Fraction(fraction, 2**24) * Fraction(16) ** (exponent - 64)


def nearest_float32(value: Fraction) -> np.float32:
    """Rounded to the nearest, ties to even, by comparing neighbours exactly."""
    limit = Fraction(2) ** 128 - Fraction(2) ** 103
    if abs(value) >= limit:
        return np.float32(np.inf if value > 0 else -np.inf)
    spacing = Fraction(2) ** max(-149, binary_exponent(value) - 23)
    return np.float32(float(round(value / spacing) * spacing))


def binary_exponent(value: Fraction) -> int:
    if value == 0:
        return -200
    exponent = abs(value.numerator).bit_length() - value.denominator.bit_length()
    return exponent if abs(value) >= Fraction(2) ** exponent else exponent - 1


@given(word=st.integers(0, 2**32 - 1))
@example(0)
@example(0x80000000)
@example(0x42000000)  # zero with an exponent
@example(0x41100000)  # 1
@example(0xC276A000)  # -118.625
@example(0x42000001)  # a fraction that begins with zeros
@example(0x21200000)  # at the edge of float32's normal numbers
@example(0x1B400000)  # subnormal
@example(0x1B100000)
@example(0x60FFFFFF)  # the largest that float32 holds
@example(0x61100000)  # beyond
@example(0x7FFFFFFF)
@example(0x00000001)
def test_ibm_floats_are_rounded_to_the_nearest(word):
    stored, expected = np.array([word], dtype=np.uint32), nearest_float32(exact(word))
    if np.isinf(expected):
        with pytest.raises(UserError, match="too large for float32"):
            decode(FILE, stored, IBM)
        return
    value = decode(FILE, stored, IBM)[0]
    assert value == expected
    assert np.signbit(value) == bool(word >> 31)


def test_known_ibm_floats():
    words = np.array([0xC276A000, 0x42640000, 0x40800000, 0x00000000], dtype=">u4")
    assert decode(FILE, words, IBM).tolist() == [-118.625, 100.0, 0.5, 0.0]


def test_ibm_floats_as_segyio_reads_them(tmp_path):
    """Bit for bit where float32 is normal; segyio flushes smaller numbers to zero."""
    written = write(tmp_path / "survey.sgy", Spec((2, 2, 50_000), code=1))
    rng = np.random.default_rng(1)
    words = rng.integers(0, 2**32, (4, 50_000), dtype=np.uint32)
    # Powers up to the last below float32's limit, beyond which segyio is wrong and seg3d complains.
    words = (words & 0x80FFFFFF) | (rng.integers(0, 0x61, words.shape, dtype=np.uint32) << 24)
    # segyio takes fractions that begin with a zero digit for others.
    words |= 0x100000
    content = written.path.read_bytes()
    traces = np.frombuffer(content, np.uint8, offset=written.start).reshape(4, -1).copy()
    traces[:, 240:] = words.astype(">u4").view(np.uint8)
    written.path.write_bytes(content[: written.start] + traces.tobytes())
    ours = reading(written.path).reshape(4, -1)
    with segyio.open(str(written.path)) as file:
        theirs = file.trace.raw[:]
    normal = np.abs(ours) >= np.finfo(np.float32).tiny
    assert normal.sum() > 50_000
    assert np.array_equal(ours[normal].view("u4"), theirs[normal].view("u4"))


@pytest.mark.parametrize("code", [code for code in FORMATS if code != IBM])
@pytest.mark.parametrize("order", [">", "<"])
def test_other_formats_keep_their_values(code, order):
    stored = np.dtype(FORMATS[code].stored)
    if stored.kind == "f":
        values = np.array([0, -1.5, 3e38, 1e-45, np.inf], dtype=stored)
    else:
        values = np.array([np.iinfo(stored).min, 0, 1, np.iinfo(stored).max], dtype=stored)
    decoded = decode(FILE, values.astype(stored.newbyteorder(order)), code)
    assert decoded.dtype == FORMATS[code].dtype
    assert np.array_equal(decoded, values.astype(decoded.dtype))
    assert decoded.dtype.isnative


def test_64_bits_beyond_float32():
    with pytest.raises(UserError, match=r"survey\.sgy holds .* too large for float32\n.*-1e\+39"):
        decode(FILE, np.array([1.0, -1e39]), 6)
