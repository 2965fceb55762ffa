"""What segyio writes is what seg3d reads, wherever it lies in the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seg3d.common.errors import UserError
from seg3d.io import segy
from seg3d.io.regions import whole
from seg3d.io.segy import Positions
from tests.io.segy.files import Spec, patch, read_header, segyio, trace_word, write

CODES = [1, 2, 3, 5, 6, 8, 10, 11, 16]
quick = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@st.composite
def specs(draw: st.DrawFn) -> Spec:
    return Spec(
        shape=(draw(st.integers(2, 6)), draw(st.integers(2, 6)), draw(st.integers(1, 9))),
        first=(draw(st.integers(-50, 5000)), draw(st.integers(0, 5000))),
        step=(draw(st.integers(1, 4)), draw(st.integers(1, 4))),
        sorting=draw(st.sampled_from(["inline", "crossline", "random"])),
        missing=draw(st.sampled_from([0.0, 0.2, 0.5])),
        code=draw(st.sampled_from(CODES)),
        endian=draw(st.sampled_from(["big", "little"])),
        texts=draw(st.integers(0, 2)),
        scalar=draw(st.sampled_from([-100, -10, 0, 1])),
        interval=draw(st.sampled_from([500, 2000, 4000, 12500])),
        delay=draw(st.sampled_from([0, 4, -100, 1200])),
        seed=draw(st.integers(0, 99)),
    )


def reading(path: Path, **options: object) -> np.ndarray:
    with segy.open_volume(path, **options) as reader:
        return reader.read(whole(reader.header.grid.shape))


@quick
@given(spec=specs())
def test_voxels_and_grid(tmp_path, spec):
    written = write(tmp_path / "survey.sgy", spec)
    with segy.open_volume(written.path) as reader:
        grid, survey = reader.header.grid, reader.survey
        assert grid.shape == spec.shape
        assert reader.header.channels == 1
        voxels = reader.read(whole(grid.shape))
        assert np.array_equal(reader.mask(), written.mask)
    expected = written.cube.astype(reader.dtype)
    assert voxels.dtype == reader.dtype
    assert np.array_equal(voxels, expected[None])
    assert (survey.inline.first, survey.crossline.first) == spec.first
    assert (survey.inline.step, survey.crossline.step) == spec.step
    assert (survey.positions.inline, survey.positions.crossline) == (189, 193)
    assert grid.axes == ("inline", "crossline", "time")
    assert grid.affine[2].tolist() == [0, 0, spec.interval / 1000, spec.delay]
    if survey.fit:
        origin, *steps = np.array(spec.world)
        assert grid.units == ("m", "m", "ms")
        assert np.allclose(grid.affine[:2, :2], np.transpose(steps), atol=1.0)
        assert np.allclose(grid.affine[:2, 3], origin, atol=1.0)


@pytest.mark.parametrize("sorting", ["inline", "crossline", "random"])
@pytest.mark.parametrize("code", [1, 3, 5, 8])
def test_any_region(tmp_path, sorting, code):
    written = write(
        tmp_path / "survey.sgy", Spec((7, 8, 9), sorting=sorting, missing=0.3, code=code)
    )
    rng = np.random.default_rng(4)
    with segy.open_volume(written.path) as reader:
        for _ in range(30):
            stops = [int(rng.integers(1, n + 1)) for n in written.cube.shape]
            x, y, z = (slice(int(rng.integers(0, stop)), stop) for stop in stops)
            assert np.array_equal(reader.read((x, y, z))[0], written.cube[x, y, z])


def test_blocks_that_are_smaller_than_a_region(tmp_path, monkeypatch):
    written = write(tmp_path / "survey.sgy", Spec((5, 6, 7), missing=0.2))
    monkeypatch.setattr("seg3d.io.segy.layout.BLOCK_BYTES", 1000)
    assert np.array_equal(reading(written.path)[0], written.cube)


@pytest.mark.parametrize("code", CODES)
def test_segyio_reads_the_same(tmp_path, code):
    written = write(tmp_path / "survey.sgy", Spec(code=code))
    with segyio.open(str(written.path)) as file:
        theirs = segyio.tools.cube(file)
    assert np.array_equal(theirs, written.cube)
    assert np.array_equal(
        reading(written.path)[0], theirs.astype(np.float32 if code == 6 else None)
    )


def test_floats_that_are_not_numbers_pass_through(tmp_path):
    written = write(tmp_path / "survey.sgy", Spec())
    patch(written.path, trace_word(written, 0, 241), ">3f", np.nan, np.inf, -np.inf)
    values = reading(written.path)[0, 0, 0, :3]
    assert np.isnan(values[0])
    assert values[1:].tolist() == [np.inf, -np.inf]


# Order of traces


@pytest.mark.parametrize("sorting, slow_axis", [("inline", 0), ("crossline", 1)])
def test_the_slow_axis_is_that_of_the_sorting(tmp_path, sorting, slow_axis):
    written = write(tmp_path / "survey.sgy", Spec(sorting=sorting, missing=0.2))
    reader = segy.open_volume(written.path)
    assert reader.slow_axis == slow_axis
    assert reader.survey.in_order


def test_traces_in_no_order_are_noted(tmp_path):
    written = write(tmp_path / "survey.sgy", Spec(sorting="random"))
    survey = read_header(written.path).native
    assert not survey.in_order
    assert "traces are out of order: 5 lines in" in segy.report(written.path)


# Byte positions


@pytest.mark.parametrize(
    "lines", [(9, 21), (5, 21), (5, 17), (17, 21), (9, 13), (17, 13), (181, 185)]
)
@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_positions_are_found(tmp_path, lines, missing):
    coordinates = (181, 185) if lines != (181, 185) else (189, 193)
    written = write(
        tmp_path / "survey.sgy", Spec(lines=lines, coordinates=coordinates, missing=missing)
    )
    survey = read_header(written.path).native
    assert survey.positions == Positions(*lines, *coordinates)
    assert np.array_equal(reading(written.path)[0], written.cube)


def test_coordinates_along_the_axes_are_no_line_numbers(tmp_path):
    world = ((6e5, 6.07e6), (25, 0), (0, 12.5))
    spec = Spec(lines=(181, 185), coordinates=(189, 193), world=world)
    header = read_header(write(tmp_path / "survey.sgy", spec).path)
    assert header.native.positions == Positions(181, 185, 189, 193)
    assert np.allclose(header.grid.spacing, (25, 12.5, 4))


@pytest.mark.parametrize("coordinates", [(181, 185), (73, 77), (81, 85)])
def test_coordinates_are_found(tmp_path, coordinates):
    written = write(tmp_path / "survey.sgy", Spec(coordinates=coordinates))
    header = read_header(written.path)
    assert header.native.positions == Positions(189, 193, *coordinates)
    assert np.allclose(header.grid.spacing, (25, 25, 4), atol=0.01)


def test_positions_may_be_given(tmp_path):
    written = write(tmp_path / "survey.sgy", Spec(lines=(41, 45), coordinates=(49, 53)))
    with pytest.raises(UserError, match="has no inline and crossline numbers in the usual places"):
        segy.open_volume(written.path)
    positions = Positions(41, 45, 49, 53)
    header = read_header(written.path, positions)
    assert header.native.positions == positions
    assert np.allclose(header.grid.spacing, (25, 25, 4), atol=0.01)
    assert np.array_equal(reading(written.path, positions=positions)[0], written.cube)


def test_swapped_positions_swap_the_axes(tmp_path):
    written = write(tmp_path / "survey.sgy", Spec())
    swapped = segy.open_volume(written.path, Positions(193, 189))
    assert swapped.header.grid.shape == (6, 5, 7)
    assert swapped.slow_axis == 1
    assert np.array_equal(swapped.read(whole((6, 5, 7)))[0], written.cube.transpose(1, 0, 2))


@pytest.mark.parametrize(
    "positions", [(0, 193), (189, 238), (189, 193, 181), (189, 193, 181, 300), (-4, 9)]
)
def test_positions_that_cannot_be(positions):
    with pytest.raises(UserError, match="byte positions"):
        Positions(*positions)


def test_numbers_that_tell_two_stories(tmp_path):
    """Without a standard position: ensemble number, or count of the traces on the line?"""
    written = write(tmp_path / "survey.sgy", Spec(lines=(9, 21), missing=0.4, coordinates=None))
    order = np.lexsort(written.places.T[::-1])
    counts = np.zeros(written.mask.shape[0], int)
    for number in order.tolist():
        row = written.places[number, 0]
        counts[row] += 1
        patch(written.path, trace_word(written, number, 13), ">i", counts[row])
    with pytest.raises(UserError, match="several sets of numbers") as caught:
        read_header(written.path)
    assert "bytes 9 and 21: inlines 100 to 104, crosslines 300 to 305" in str(caught.value)
    assert "bytes 9 and 13" in str(caught.value)
    header = read_header(written.path, Positions(9, 21))
    assert np.array_equal(header.native.mask, written.mask)


def test_two_copies_of_the_numbers_are_one_story(tmp_path):
    written = write(tmp_path / "survey.sgy", Spec(lines=(9, 21)))
    for number, (i, j) in enumerate(written.places.tolist()):
        patch(written.path, trace_word(written, number, 17), ">i", 40 - i)
        patch(written.path, trace_word(written, number, 13), ">i", 7 + 2 * j)
    assert read_header(written.path).native.positions.inline == 9


# Units and geometry


def test_spacing_and_position_are_in_metres(tmp_path):
    spec = Spec((30, 40, 3), world=((620197.2, 6074232.9), (-0.75, 24.98), (12.49, 0.37)))
    header = read_header(write(tmp_path / "survey.sgy", spec).path)
    assert header.grid.units == ("m", "m", "ms")
    assert np.allclose(header.grid.affine[:2, 0], (-0.75, 24.98), atol=2e-3)
    assert np.allclose(header.grid.affine[:2, 1], (12.49, 0.37), atol=2e-3)
    assert np.allclose(header.grid.affine[:2, 3], (620197.2, 6074232.9), atol=0.05)
    assert header.native.fit.misfit < 0.01


def test_feet_become_metres(tmp_path):
    spec = Spec(world=((100.0, 200.0), (82.5, 0), (0, 110.0)), binary={3255: 2})
    header = read_header(write(tmp_path / "survey.sgy", spec).path)
    assert np.allclose(header.grid.spacing[:2], (82.5 * 0.3048, 110 * 0.3048))
    assert np.allclose(header.grid.affine[:2, 3], (30.48, 60.96))
    depth = read_header(tmp_path / "survey.sgy", domain="depth")
    assert np.isclose(depth.grid.spacing[2], 4 * 0.3048)


def test_depth(tmp_path):
    written = write(tmp_path / "survey.sgy", Spec(interval=5000, delay=50))
    grid = read_header(written.path, domain="depth").grid
    assert grid.axes[2] == "depth"
    assert grid.units[2] == "m"
    assert grid.affine[2].tolist() == [0, 0, 5, 50]


def test_a_survey_without_coordinates(tmp_path):
    written = write(tmp_path / "survey.sgy", Spec(coordinates=None))
    header = read_header(written.path)
    assert header.grid.units == ("bin", "bin", "ms")
    assert header.grid.spacing == (1, 1, 4)
    assert "no coordinates: bins count as 1 by 1" in segy.report(written.path)


@pytest.mark.parametrize("swapped", [False, True])
def test_copies_of_the_line_numbers_are_no_coordinates(tmp_path, swapped):
    world = ((300, 100), (0, 1), (1, 0)) if swapped else ((100, 300), (1, 0), (0, 1))
    written = write(tmp_path / "survey.sgy", Spec(world=world, scalar=1))
    assert read_header(written.path).grid.units[0] == "bin"


def test_coordinates_that_are_angles(tmp_path):
    written = write(tmp_path / "survey.sgy", Spec(header={89: 2}))
    assert read_header(written.path).grid.units[0] == "bin"
    assert "coordinates are angles" in segy.report(written.path)


def test_coordinates_that_have_nothing_to_do_with_the_lines(tmp_path):
    written = write(tmp_path / "survey.sgy", Spec((10, 10, 2)))
    rng = np.random.default_rng(0)
    for number in range(len(written.places)):
        patch(written.path, trace_word(written, number, 181), ">2i", *rng.integers(1, 9999, 2))
    assert read_header(written.path).grid.units[0] == "bin"
    assert "coordinates at bytes 181 and 185 do not fit" in segy.report(written.path)


def test_a_few_wrong_coordinates_do_not_matter(tmp_path):
    spec = Spec((10, 12, 2))
    written = write(tmp_path / "survey.sgy", spec)
    right = read_header(written.path).grid.affine
    patch(written.path, trace_word(written, 17, 181), ">2i", 2**31 - 1, -(2**31))
    patch(written.path, trace_word(written, 63, 181), ">2i", 0, 0)
    patch(written.path, trace_word(written, 88, 181), ">2i", 123, 456)
    assert np.allclose(read_header(written.path).grid.affine, right, atol=0.02)


def test_the_interval_of_the_traces_serves_if_the_binary_header_has_none(tmp_path):
    written = write(tmp_path / "survey.sgy", Spec())
    patch(written.path, 3217, ">H", 0)
    assert read_header(written.path).grid.spacing[2] == 4
    patch(written.path, 3217, ">H", 2000)
    assert read_header(written.path).grid.spacing[2] == 2
    assert "2000 is taken" in segy.report(written.path)


def test_no_interval_at_all(tmp_path):
    written = write(tmp_path / "survey.sgy", Spec(interval=0))
    assert read_header(written.path).grid.spacing[2] == 1
    assert "no sample interval" in segy.report(written.path)


@pytest.mark.parametrize("scalar, delay", [(0, 1200), (1, 1200), (-10, 120), (10, 12000)])
def test_delays_have_a_scalar_since_revision_1(tmp_path, scalar, delay):
    written = write(
        tmp_path / "survey.sgy", Spec(delay=1200, header={215: scalar}, binary={3501: 1})
    )
    assert read_header(written.path).grid.affine[2, 3] == delay


def test_delays_that_differ(tmp_path):
    written = write(tmp_path / "survey.sgy", Spec(delay=100))
    patch(written.path, trace_word(written, 3, 109), ">h", 200)
    assert read_header(written.path).grid.affine[2, 3] == 100
    assert "traces begin at 100 to 200 ms" in segy.report(written.path)


# Revisions


def test_revision_2(tmp_path):
    """Fields that revision 2 added: mark of the byte order, counts, offset, interval, trailer."""
    written = write(tmp_path / "survey.sgy", Spec(texts=1))
    path = patch(written.path, 3501, ">BB", 2, 0)
    patch(path, 3297, ">I", 0x01020304)
    patch(path, 3269, ">I", 7)
    patch(path, 3273, ">d", 2500.5)
    patch(path, 3513, ">QQi", 30, written.start, 2)
    path.write_bytes(path.read_bytes() + b"\x40" * 6400)
    header = read_header(path)
    assert header.native.layout.revision == (2, 0)
    assert header.grid.spacing[2] == 2.5005
    assert np.array_equal(reading(path)[0], written.cube)
    patch(path, 3529, ">i", -1)
    assert np.array_equal(reading(path)[0], written.cube)


@pytest.mark.parametrize("minor, kind", [(0, ">i"), (0, ">h"), (1, ">h")])
def test_trace_header_extensions(tmp_path, minor, kind):
    written = write(tmp_path / "survey.sgy", Spec())
    content = written.path.read_bytes()
    with_extension = [content[: written.start]]
    for at in range(written.start, len(content), written.trace_bytes):
        with_extension += [content[at : at + 240], b"SEG00001" * 30, content[at + 240 :][: 7 * 4]]
    written.path.write_bytes(b"".join(with_extension))
    patch(written.path, 3501, ">BB", 2, minor)
    patch(written.path, 3507, kind, 1)
    assert np.array_equal(reading(written.path)[0], written.cube)


def test_any_number_of_text_headers(tmp_path):
    written = write(tmp_path / "survey.sgy", Spec(texts=3, binary={3501: 1}))
    patch(written.path, 3505, ">h", -1)
    with pytest.raises(UserError, match="no end of its text headers"):
        read_header(written.path)
    patch(written.path, START_OF_LAST_TEXT, "16s", "((SEG: EndText))".encode("cp037"))
    assert np.array_equal(reading(written.path)[0], written.cube)


START_OF_LAST_TEXT = 3600 + 2 * 3200 + 1


@pytest.mark.parametrize("word", [(">BB", 1, 0), ("<BB", 0, 1), (">BB", 1, 1)])
def test_revision_1_however_it_is_written(tmp_path, word):
    written = write(tmp_path / "survey.sgy", Spec())
    patch(written.path, 3501, *word)
    assert read_header(written.path).native.layout.revision[0] == 1


def test_more_samples_than_16_bits_count_with_a_sign(tmp_path):
    written = write(tmp_path / "survey.sgy", Spec((2, 2, 40000), code=8))
    assert np.array_equal(reading(written.path)[0], written.cube)


@pytest.mark.parametrize("samples", [0, 6, 400])
def test_a_wrong_number_of_samples_in_the_binary_header(tmp_path, samples):
    written = write(tmp_path / "survey.sgy", Spec((5, 7, 7)))
    patch(written.path, 3221, ">H", samples)
    assert np.array_equal(reading(written.path)[0], written.cube)
    assert (f"binary header says {samples} samples" in segy.report(written.path)) == (samples > 0)


def test_report(tmp_path):
    written = write(
        tmp_path / "survey.sgy",
        Spec((5, 6, 7), step=(2, 1), sorting="crossline", code=1, missing=0.2, delay=8),
    )
    lines = segy.report(written.path).splitlines()
    missing = int((~written.mask).sum())
    for line in (
        "format     SEG-Y revision 0.0, big-endian, IBM float, 32 bits (format 1)",
        "shape      5 inlines × 6 crosslines × 7 samples",
        "inlines    100 to 108, every 2 (bytes 189 to 192)",
        "crosslines 300 to 305 (bytes 193 to 196)",
        "time       8 to 32 ms",
        "sorted by  crossline",
        f"traces     {30 - missing}, {missing} missing in the grid",
    ):
        assert line in lines
