"""Files that are no post-stack 3D survey, or are damaged, are refused in words."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from seg3d.common.errors import UserError
from seg3d.io import segy
from seg3d.io.convert import convert_volume
from seg3d.io.regions import whole
from seg3d.io.segy import Positions
from tests.io.segy.files import Spec, Written, patch, read_header, trace_word, write
from tests.io.segy.test_reading import quick, reading


def refused(path: Path, problem: str, *details: str, **options: object) -> None:
    """Every door gives the same message, which names the file."""
    for door in (read_header, segy.open_volume, segy.report):
        with pytest.raises(UserError, match=problem) as caught:
            door(path, **options)
        assert path.name in caught.value.problem
        for detail in details:
            assert detail in str(caught.value)


def number_lines(written: Written, inlines: np.ndarray, crosslines: np.ndarray) -> Path:
    for number, (inline, crossline) in enumerate(zip(inlines, crosslines, strict=True)):
        patch(written.path, trace_word(written, number, 189), ">2i", inline, crossline)
    return written.path


# Cut short, and other files


@pytest.mark.parametrize("kept", [0, 1, 3199, 3599])
def test_cut_within_the_headers(tmp_path, kept):
    path = write(tmp_path / "survey.sgy").path
    path.write_bytes(path.read_bytes()[:kept])
    refused(path, "is cut short or not a SEG-Y file", f"{kept} bytes")


@pytest.mark.parametrize("kept", [3600, 3601, 3700, 3840, 3867, 5000, -1, -4, -250])
def test_cut_within_the_traces(tmp_path, kept):
    path = write(tmp_path / "survey.sgy").path
    path.write_bytes(path.read_bytes()[:kept])
    refused(
        path, "is cut short or damaged: its size does not fit its traces", "traces of 268 bytes"
    )


def test_bytes_too_many(tmp_path):
    path = write(tmp_path / "survey.sgy").path
    path.write_bytes(path.read_bytes() + b"\0" * 100)
    refused(path, "size does not fit", "30 traces of 268 bytes, 100 bytes over")


def test_fewer_traces_than_revision_2_declares(tmp_path):
    written = write(tmp_path / "survey.sgy", Spec(binary={3501: 2}))
    patch(written.path, 3513, ">Q", 30)
    assert read_header(written.path).grid.shape == (5, 6, 7)
    written.path.write_bytes(written.path.read_bytes()[: -2 * 268])
    refused(written.path, "size does not fit", "30 traces declared")


def test_traces_cut_at_the_end_are_missing_traces(tmp_path):
    written = write(tmp_path / "survey.sgy")
    written.path.write_bytes(written.path.read_bytes()[: -2 * 268])
    assert read_header(written.path).native.mask.sum() == 28


@pytest.mark.parametrize("sorting", ["inline", "crossline"])
@pytest.mark.parametrize("falling", [(), (0,), (1,), (0, 1)])
def test_a_file_that_ends_within_a_line_may_have_been_cut_short(tmp_path, sorting, falling):
    written = write(tmp_path / "survey.sgy", Spec(sorting=sorting))
    numbers = written.places.T.copy()
    for axis in falling:
        numbers[axis] = numbers[axis].max() - numbers[axis]
    number_lines(written, *numbers)
    whole = segy.report(written.path)
    assert "traces     30, 0 missing in the grid" in whole and "cut short" not in whole
    written.path.write_bytes(written.path.read_bytes()[: -2 * 268])
    cut = segy.report(written.path)
    assert "traces     28, 2 missing in the grid" in cut
    assert "note       the last 2 of 30 traces are missing: the file may have been cut short" in cut
    notes = convert_volume(written.path, tmp_path / "survey.nii", Console(quiet=True))
    assert [note for note in notes if "cut short" in note and str(written.path) in note]


@pytest.mark.parametrize("spec", [Spec(missing=0.3), Spec(sorting="random")])
def test_traces_that_are_missing_elsewhere_say_nothing_of_a_cut(tmp_path, spec):
    written = write(tmp_path / "survey.sgy", spec)
    written.path.write_bytes(written.path.read_bytes()[: -2 * 268])
    report = segy.report(written.path)
    assert " 0 missing" not in report and "cut short" not in report


@pytest.mark.parametrize(
    "content", [b"this is not seismic\n" * 500, bytes(9000), bytes(range(256)) * 40]
)
def test_other_files_under_the_name(tmp_path, content):
    (tmp_path / "survey.sgy").write_bytes(content)
    refused(tmp_path / "survey.sgy", "is not a SEG-Y file", "sample format")


def test_missing_file_and_folder(tmp_path):
    refused(tmp_path / "survey.sgy", "cannot be read", "No such file")
    (tmp_path / "folder.sgy").mkdir()
    refused(tmp_path / "folder.sgy", "cannot be read", "Is a directory")


@pytest.mark.parametrize("code", [4, 7, 9, 12, 15])
def test_formats_that_are_not_read(tmp_path, code):
    path = patch(write(tmp_path / "survey.sgy").path, 3225, ">h", code)
    refused(path, "of a kind that seg3d does not read", f"sample format {code}", "1 (IBM float")


def test_a_file_that_changes_while_it_is_open(tmp_path):
    written = write(tmp_path / "survey.sgy")
    reader = segy.open_volume(written.path)
    written.path.write_bytes(written.path.read_bytes()[:-1000])
    with pytest.raises(UserError, match="was changed while it was in use"):
        reader.read(whole((5, 6, 7)))


@quick
@given(
    places=st.lists(st.tuples(st.integers(3200, 5000), st.integers(0, 255)), max_size=20),
    kept=st.integers(3000, 11640),
)
def test_random_damage_gives_an_answer_or_a_message(tmp_path, places, kept):
    """And never any other exception, nor an answer that does not match its own grid."""
    path = write(tmp_path / "survey.sgy", Spec(missing=0.1)).path
    content = bytearray(path.read_bytes()[: kept if kept % 2 else None])
    for place, byte in places:
        if place < len(content):
            content[place] = byte
    path.write_bytes(content)
    try:
        report, voxels = segy.report(path), reading(path)
    except UserError as error:
        assert path.name in str(error)
    else:
        inlines, crosslines, samples = voxels.shape[1:]
        assert f"{inlines} inlines × {crosslines} crosslines × {samples} samples" in report


# What is no post-stack 3D survey


def test_pre_stack(tmp_path):
    written = write(tmp_path / "survey.sgy", Spec((4, 6, 5)))
    rows, columns = written.places.T
    path = number_lines(written, 1 + rows, 1 + columns // 2)
    for number, column in enumerate(columns):
        patch(path, trace_word(written, number, 37), ">i", 100 + 50 * (column % 2))
    refused(path, "is pre-stack", "up to 2 traces in one place", "offsets 100 to 150")
    refused(path, "is pre-stack", "to do: stack it", positions=Positions(189, 193))


def test_pre_stack_without_offsets_is_not_read_as_shots_and_channels(tmp_path):
    written = write(tmp_path / "survey.sgy", Spec((4, 6, 5), lines=(9, 13)))
    rows, columns = written.places.T
    path = number_lines(written, 1 + rows, 1 + columns // 2)
    refused(path, "has several traces at the same", "up to 2 traces in one place", "--segy-bytes")


def test_shots_and_channels_are_no_survey(tmp_path):
    """Field record and channel number a full grid, but the offsets tell."""
    written = write(tmp_path / "survey.sgy", Spec((6, 8, 5), lines=(9, 13), coordinates=None))
    for number, channel in enumerate(written.places[:, 1].tolist()):
        patch(written.path, trace_word(written, number, 37), ">i", 25 * channel)
    refused(written.path, "is pre-stack", "offsets 0 to 175")


def test_two_traces_in_one_place(tmp_path):
    written = write(tmp_path / "survey.sgy")
    rows, columns = written.places.T
    columns[8] = columns[7]
    path = number_lines(written, 1 + rows, 1 + columns)
    refused(
        path, "has several traces at the same inline", "traces 8 and 9 at inline 2, crossline 2"
    )


@pytest.mark.parametrize("axis", [0, 1])
def test_one_line(tmp_path, axis):
    written = write(tmp_path / "survey.sgy", Spec((6, 5, 4)))
    numbers = np.arange(30)
    lines = [numbers, np.full(30, 7)]
    path = number_lines(written, lines[axis], lines[1 - axis])
    name = ("crossline", "inline")[axis]
    refused(
        path, r"is a single line \(2D\)", "bytes 189 and 193:", f"the {name} is always 7",
        "at which bytes of the trace headers they begin: --segy-bytes INLINE,CROSSLINE",
    )  # fmt: skip


def test_a_line_across_both_axes(tmp_path):
    written = write(tmp_path / "survey.sgy", Spec((3, 4, 4)))
    refused(number_lines(written, np.arange(12), 3 * np.arange(12)), r"is a single line \(2D\)")


def test_no_numbers(tmp_path):
    written = write(tmp_path / "survey.sgy", Spec(coordinates=None))
    path = number_lines(written, np.zeros(30, int), np.zeros(30, int))
    refused(path, "has no inline and crossline numbers", "9 and 21", "--segy-bytes")


@pytest.mark.parametrize("line", ["C 9 SOMETHING IN BYTES 41-44", "C 9 Iline: 41, Xline: 45"])
def test_the_text_header_is_quoted(tmp_path, line):
    written = write(tmp_path / "survey.sgy", Spec(lines=(41, 45), coordinates=None))
    patch(written.path, 8 * 80 + 1, "80s", f"{line:80}".encode("cp037"))
    refused(written.path, "no inline and crossline numbers", line)


def test_scattered_numbers(tmp_path):
    written = write(tmp_path / "survey.sgy", Spec((6, 6, 4)))
    rng = np.random.default_rng(0)
    path = number_lines(written, rng.integers(0, 9999, 36), rng.integers(0, 9999, 36))
    refused(path, "is not a regular grid", "places for 36 traces")


def test_one_wrong_number_is_named(tmp_path):
    written = write(tmp_path / "survey.sgy", Spec((5, 6, 4)))
    patch(written.path, trace_word(written, 16, 189), ">i", 2_000_000)
    refused(written.path, "is not a regular grid", "inline 2000000 has only trace 17")


def test_other_positions_are_noted_if_the_usual_are_damaged(tmp_path):
    written = write(tmp_path / "survey.sgy", Spec((5, 6, 4)))
    for number, (i, j) in enumerate(written.places.tolist()):
        patch(written.path, trace_word(written, number, 9), ">i", 1 + i)
        patch(written.path, trace_word(written, number, 21), ">i", 1 + j)
    patch(written.path, trace_word(written, 3, 189), ">i", 100_000)
    assert np.array_equal(reading(written.path)[0], written.cube)
    assert "bytes 189 and 193 are not taken" in segy.report(written.path)


def test_traces_of_several_lengths(tmp_path):
    written = write(tmp_path / "survey.sgy")
    patch(written.path, trace_word(written, 11, 115), ">H", 5)
    refused(written.path, "its traces have several lengths", "trace 1 says 7 samples, trace 12 5")
    patch(written.path, 3503, ">h", 1)
    assert read_header(written.path).grid.shape == (5, 6, 7)


def test_empty_trace_headers_are_no_other_length(tmp_path):
    written = write(tmp_path / "survey.sgy")
    patch(written.path, trace_word(written, 0, 115), ">H", 0)
    assert np.array_equal(reading(written.path)[0], written.cube)


# Memory

SPARSE = """
import resource, sys
import numpy as np
from seg3d.geometry import Grid
from seg3d.io import Header, create_volume, open_volume

def most():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

inlines, crosslines, samples = 60, 500, 2500
before = most()
header = Header(Grid((inlines, crosslines, samples), np.eye(4)), 1, None)
with create_volume(sys.argv[1], header, np.float32) as writer:
    for start in range(0, inlines, 4):
        slab = (slice(start, start + 4), slice(0, crosslines), slice(0, samples))
        writer.write(slab, np.zeros((1, 4, crosslines, samples), np.float32))
with open_volume(sys.argv[1]) as reader:
    for start in range(0, inlines, 4):
        reader.read((slice(start, start + 4), slice(0, crosslines), slice(0, samples)))
    reader.read((slice(0, inlines), slice(0, crosslines), slice(100, 101)))
print(most() - before)
"""


def test_memory_does_not_grow_with_the_file(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SPARSE, tmp_path / "large.sgy"],
        capture_output=True,
        text=True,
        check=True,
    )
    size = (tmp_path / "large.sgy").stat().st_size / 2**20
    assert size > 280
    # A slab of four inlines is 19 MiB, a block 8 MiB.
    assert float(done.stdout) < 80
