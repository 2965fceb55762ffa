"""Outputs are their input with other samples: every byte of every header is the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given

from seg3d.common.errors import UserError
from seg3d.geometry import Grid
from seg3d.io import Header, create_volume
from seg3d.io.regions import whole
from tests.io.segy.files import Spec, Written, patch, read_header, segyio, trace_word, write
from tests.io.segy.test_reading import quick, reading, specs
from tests.volumes import affine_of

FORMAT = slice(3224, 3226)
SAMPLE_BYTES = {5: 4, 8: 1}


def write_all(path: Path, header: Header, cube: np.ndarray, thickness: int = 2) -> None:
    """Write `(X, Y, Z)` in slabs across a random axis, in random order."""
    rng = np.random.default_rng(5)
    axis = int(rng.integers(3))
    starts = rng.permutation(np.arange(0, cube.shape[axis], thickness))
    with create_volume(path, header, cube.dtype) as writer:
        for start in starts.tolist():
            x, y, z = (
                slice(start, min(start + thickness, n)) if number == axis else slice(0, n)
                for number, n in enumerate(cube.shape)
            )
            writer.write((x, y, z), cube[None, x, y, z])


def headers(path: Path, start: int, samples_bytes: int) -> tuple[bytes, list[bytes]]:
    """Everything in front of the traces, and each trace's header."""
    content = path.read_bytes()
    trace_bytes = 240 + samples_bytes
    assert (len(content) - start) % trace_bytes == 0
    return content[:start], [
        content[at : at + 240] for at in range(start, len(content), trace_bytes)
    ]


def assert_same_headers(written: Written, output: Path, code: int) -> None:
    start, samples = written.start, written.cube.shape[2]
    before, traces = headers(written.path, start, samples * written.cube.itemsize)
    new_before, new_traces = headers(output, start, samples * SAMPLE_BYTES[code])
    assert new_traces == traces
    assert new_before[: FORMAT.start] == before[: FORMAT.start]
    assert new_before[FORMAT.stop :] == before[FORMAT.stop :]


@quick
@given(spec=specs())
def test_headers_are_those_of_the_input(tmp_path, spec):
    written = write(tmp_path / "survey.sgy", spec)
    header = read_header(written.path)
    rng = np.random.default_rng(8)
    scores = rng.standard_normal(spec.shape).astype(np.float32)
    labels = rng.integers(-128, 128, spec.shape).astype(np.int8)
    order = "big" if spec.endian == "big" else "little"
    for cube, code in ((scores, 5), (labels, 8)):
        output = tmp_path / f"output{code}.sgy"
        write_all(output, header, cube)
        assert_same_headers(written, output, code)
        assert int.from_bytes(output.read_bytes()[FORMAT], order) == code
        cube[~written.mask] = 0
        assert np.array_equal(reading(output)[0], cube)
        assert read_header(output).grid.differences(header.grid) == []


@pytest.mark.parametrize("code", [5, 8])
@pytest.mark.parametrize("endian", ["big", "little"])
@pytest.mark.parametrize("sorting", ["inline", "crossline"])
def test_segyio_opens_the_output_in_place(tmp_path, code, endian, sorting):
    written = write(tmp_path / "survey.sgy", Spec(endian=endian, sorting=sorting, code=1))
    cube = np.random.default_rng(0).integers(-9, 9, written.cube.shape)
    cube = cube.astype(np.float32 if code == 5 else np.int8)
    write_all(tmp_path / "output.sgy", read_header(written.path), cube)
    with (
        segyio.open(str(written.path), endian=endian) as before,
        segyio.open(str(tmp_path / "output.sgy"), endian=endian) as after,
    ):
        assert np.array_equal(np.stack([after.iline[one] for one in after.ilines]), cube)
        assert after.text[0] == before.text[0]
        assert {**after.bin, segyio.BinField.Format: 1} == {**before.bin}
        assert np.array_equal(after.ilines, before.ilines)
        assert np.array_equal(after.xlines, before.xlines)
        assert [dict(one) for one in after.header] == [dict(one) for one in before.header]


def test_what_follows_the_traces_is_kept(tmp_path):
    written = write(tmp_path / "survey.sgy", Spec(binary={3501: 2}))
    path = patch(written.path, 3529, ">i", 1)
    path.write_bytes(path.read_bytes() + b"trailer!" * 400)
    write_all(tmp_path / "output.sgy", read_header(path), written.cube.astype(np.int8))
    assert (tmp_path / "output.sgy").read_bytes().endswith(b"trailer!" * 400)
    assert np.array_equal(reading(tmp_path / "output.sgy")[0], written.cube.astype(np.int8))


def test_trace_header_extensions_are_kept(tmp_path):
    written = write(tmp_path / "survey.sgy", Spec())
    content = written.path.read_bytes()
    traces = [content[at : at + 268] for at in range(written.start, len(content), 268)]
    written.path.write_bytes(
        content[:3600] + b"".join(one[:240] + b"SEG00001" * 30 + one[240:] for one in traces)
    )
    patch(written.path, 3501, ">B", 2)
    patch(written.path, 3507, ">h", 1)
    write_all(tmp_path / "out.sgy", read_header(written.path), np.ones((5, 6, 7), np.int8))
    output = (tmp_path / "out.sgy").read_bytes()
    assert len(output) == 3600 + 30 * (480 + 7)
    assert output[3600 : 3600 + 480] == traces[0][:240] + b"SEG00001" * 30


def test_the_output_may_replace_its_input(tmp_path):
    written = write(tmp_path / "survey.sgy", Spec())
    write_all(written.path, read_header(written.path), -written.cube)
    assert np.array_equal(reading(written.path)[0], -written.cube)


def test_blocks_that_are_smaller_than_a_region(tmp_path, monkeypatch):
    monkeypatch.setattr("seg3d.io.segy.layout.BLOCK_BYTES", 1000)
    written = write(tmp_path / "survey.sgy", Spec(missing=0.2))
    write_all(tmp_path / "output.sgy", read_header(written.path), written.cube, thickness=99)
    assert_same_headers(written, tmp_path / "output.sgy", 5)
    assert np.array_equal(reading(tmp_path / "output.sgy")[0], written.cube)


# What cannot be written


@pytest.mark.parametrize(
    "dtype, value, legal",
    [
        (np.uint8, 128, "-128 to 127 .*\n  to do: .* in a wider type"),
        (np.int32, 2**24 + 2, "-16777216 to 16777216 .*\n  to do: .* as float32, .* .npy hold"),
    ],
)
def test_whole_numbers_that_are_too_large(tmp_path, dtype, value, legal):
    header = read_header(write(tmp_path / "survey.sgy", Spec()).path)
    cube = np.zeros((5, 6, 7), dtype)
    cube[2, 3, 4] = value
    with pytest.raises(UserError, match=f"values from 0 to {value}\n  legal: {legal}"):
        write_all(tmp_path / "output.sgy", header, cube)
    assert [file.name for file in tmp_path.iterdir()] == ["survey.sgy"]


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.int32, np.float64, np.float16])
def test_wider_types_become_float32(tmp_path, dtype):
    header = read_header(write(tmp_path / "survey.sgy", Spec()).path)
    cube = np.random.default_rng(2).integers(0, 1000, (5, 6, 7)).astype(dtype)
    write_all(tmp_path / "output.sgy", header, cube)
    assert reading(tmp_path / "output.sgy").dtype == np.float32
    assert np.array_equal(reading(tmp_path / "output.sgy")[0], cube)


def test_several_channels(tmp_path):
    header = read_header(write(tmp_path / "survey.sgy", Spec()).path)
    with pytest.raises(UserError, match="one number for each sample"):
        create_volume(tmp_path / "output.sgy", header, np.float32, 3)
    assert [file.name for file in tmp_path.iterdir()] == ["survey.sgy"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_what_was_there_stays_if_writing_fails(tmp_path, error):
    header = read_header(write(tmp_path / "survey.sgy", Spec()).path)
    (tmp_path / "output.sgy").write_text("before")
    with (
        pytest.raises(error),
        create_volume(tmp_path / "output.sgy", header, np.int8) as writer,
    ):
        writer.write(whole((5, 6, 7)), np.zeros((1, 5, 6, 7), np.int8))
        raise error
    assert (tmp_path / "output.sgy").read_text() == "before"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["output.sgy", "survey.sgy"]


def test_a_region_that_was_forgotten(tmp_path):
    header = read_header(write(tmp_path / "survey.sgy", Spec()).path)
    with (
        pytest.raises(ValueError, match="6 traces were never written"),
        create_volume(tmp_path / "output.sgy", header, np.int8) as writer,
    ):
        writer.write((slice(0, 4), slice(0, 6), slice(0, 7)), np.zeros((1, 4, 6, 7), np.int8))
    assert [file.name for file in tmp_path.iterdir()] == ["survey.sgy"]


def test_an_input_that_is_gone_or_changed(tmp_path):
    written = write(tmp_path / "survey.sgy", Spec())
    header = read_header(written.path)
    patch(written.path, trace_word(written, 0, 9), ">i", 4)
    with pytest.raises(UserError, match="was changed while it was in use"):
        create_volume(tmp_path / "output.sgy", header, np.int8)
    written.path.unlink()
    with pytest.raises(UserError, match=r"survey.sgy cannot be read\n  given: No such file"):
        create_volume(tmp_path / "output.sgy", header, np.int8)
    assert list(tmp_path.iterdir()) == []


def test_no_room_on_the_disk(tmp_path, monkeypatch):
    header = read_header(write(tmp_path / "survey.sgy", Spec()).path)
    monkeypatch.setattr(
        "seg3d.common.files.shutil.disk_usage", lambda _: type("Usage", (), {"free": 10_000})
    )
    with pytest.raises(UserError, match="not enough space on the disk"):
        create_volume(tmp_path / "output.sgy", header, np.int8)
    assert [file.name for file in tmp_path.iterdir()] == ["survey.sgy"]


# Volumes that were no SEG-Y

SEISMIC = np.array([[0, 25, 0, 6e5], [-12.5, 0, 0, 6e6], [0, 0, 4, 100], [0, 0, 0, 1.0]])


@pytest.mark.parametrize(
    "affine",
    [
        SEISMIC,
        np.eye(4),
        np.diag([-0.75, -0.75, 5, 1]),
        affine_of((12.5, 25, 2), (0, 0, 33), (431234.56, 6234567.89, 0)),
        affine_of((12.5, 25, 2.5), (0, 0, -120), (-500.5, 70.25, -24.5)),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_new_files(tmp_path, affine, dtype):
    cube = np.random.default_rng(1).integers(0, 100, (4, 5, 6)).astype(dtype)
    write_all(tmp_path / "new.sgy", Header(Grid(cube.shape, affine), 1, None), cube)
    header = read_header(tmp_path / "new.sgy")
    assert np.allclose(header.grid.affine, affine, atol=0.01, rtol=0)
    assert np.array_equal(reading(tmp_path / "new.sgy")[0], cube)
    assert (header.native.inline.first, header.native.crossline.first) == (1, 1)
    assert header.native.notes == ()
    with segyio.open(str(tmp_path / "new.sgy")) as file:
        assert np.array_equal(segyio.tools.cube(file), cube)
        assert file.ilines.tolist() == [1, 2, 3, 4]
        assert file.samples.tolist() == (
            affine[2, 3] + affine[2, 2] * np.arange(6)
        ).tolist() or affine[2, 3] != int(affine[2, 3])
        assert "CROSSLINE  BYTES 193-196" in segyio.tools.wrap(file.text[0])
        assert file.bin[segyio.BinField.SEGYRevision] == 1


@pytest.mark.parametrize(
    "affine, problem",
    [
        (affine_of((1, 1, 1), (20, 0, 0)), "cannot hold this geometry"),
        (np.diag([1, 1, -1, 1.0]), "cannot hold this geometry"),
        (np.diag([1, 1, 70, 1.0]), "cannot hold this sample interval"),
        (np.diag([1, 1, 0.0015, 1.0]), "cannot hold this sample interval"),
    ],
)
def test_geometry_that_segy_cannot_hold(tmp_path, affine, problem):
    with pytest.raises(UserError, match=problem):
        create_volume(tmp_path / "new.sgy", Header(Grid((2, 3, 4), affine), 1, None), np.float32)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shape", [(1, 5, 6), (5, 1, 6), (1, 1, 1)])
def test_a_single_line_would_not_be_read_again(tmp_path, shape):
    with pytest.raises(UserError, match=r"new.sgy: .* at least two inlines and two crosslines"):
        create_volume(tmp_path / "new.sgy", Header(Grid(shape, np.eye(4)), 1, None), np.int8)
    assert list(tmp_path.iterdir()) == []


def test_more_samples_than_segy_can_count(tmp_path):
    with pytest.raises(UserError, match="so many samples"):
        create_volume(
            tmp_path / "new.sgy", Header(Grid((2, 2, 70_000), np.eye(4)), 1, None), np.int8
        )
