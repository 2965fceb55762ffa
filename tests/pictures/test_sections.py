"""Sections of seismic volumes: time points down, and lines have their numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from seg3d.io import read_header
from seg3d.pictures.sections import VOXELS, Scale, scales_of, seismic_sections
from seg3d.synth.dataset import write_dataset

SIDE = 20
SHAPE = (SIDE, SIDE, SIDE)
NAMES = ["background", "fault"]


def labelled(labels: np.ndarray) -> np.ndarray:
    """`(H, W)`: pixels in the colour of the label, above the legend."""
    picture = seismic_sections(np.zeros(SHAPE), {"faults": labels}, NAMES, opacity=1.0)
    return (np.ptp(picture.astype(int), axis=-1) > 100)[:-50]


@pytest.fixture(scope="module")
def panels() -> list[tuple[slice, slice]]:
    """Where inline, crossline and time slice of the lower row lie, found by filling them."""
    full = labelled(np.ones(SHAPE, int))
    rows = np.flatnonzero(full.any(1))
    columns = np.flatnonzero(full.any(0))
    parts = np.split(columns, np.flatnonzero(np.diff(columns) > 1) + 1)
    assert len(parts) == 3 and rows[0] > len(full) / 2
    return [(slice(rows[0], rows[-1] + 1), slice(part[0], part[-1] + 1)) for part in parts]


def share(mask: np.ndarray, panel: tuple[slice, slice], part: tuple[slice, slice]) -> float:
    """How much of a part, in shares of a panel's height and width, is labelled."""
    shown = mask[panel]
    rows, columns = (
        slice(int(one.start * size) + 2, int(one.stop * size) - 2)
        for one, size in zip(part, shown.shape, strict=True)
    )
    return float(shown[rows, columns].mean())


ALL, BEGIN = slice(0, 1), slice(0, 0.2)


@pytest.mark.parametrize(
    ("axis", "inline", "crossline", "time_slice"),
    [
        (2, (BEGIN, ALL), (BEGIN, ALL), None),  # first samples: at the top
        (0, None, (ALL, BEGIN), (ALL, BEGIN)),  # first inlines: left
        (1, (ALL, BEGIN), None, (slice(0.8, 1), ALL)),  # first crosslines: left; below
    ],
)
def test_where_things_are_drawn(axis, inline, crossline, time_slice, panels) -> None:
    labels = np.zeros(SHAPE, int)
    np.moveaxis(labels, axis, 0)[:4] = 1
    mask = labelled(labels)
    for panel, part in zip(panels, (inline, crossline, time_slice), strict=True):
        if part is None:
            assert not mask[panel].any()
        else:
            assert share(mask, panel, part) == 1
            assert mask[panel].mean() == pytest.approx(0.2, abs=0.03)


def test_amplitudes_are_drawn_alike_on_either_side_of_zero() -> None:
    """Zero is the middle grey, even if all amplitudes are of one sign."""
    grey = {}
    for value in (-1.0, 0.0, 1.0):
        image = np.full(SHAPE, value)
        picture = seismic_sections(image, {"faults": np.zeros(SHAPE, int)}, NAMES)
        grey[value] = picture[100, 150].astype(int).mean()
    assert grey[0.0] == pytest.approx(127, abs=2)
    assert (grey[-1.0], grey[1.0]) == (0, 255)


def test_numbers_of_lines_and_times_come_from_the_survey(tmp_path: Path) -> None:
    for ending in (".sgy", ".nii.gz"):
        folder = tmp_path / ending
        write_dataset(folder, "faults", count=1, shape=(16, 18, 20), seed=0, ending=ending)
    segy = scales_of(read_header(tmp_path / ".sgy" / "imagesTr" / "faults_0001_0000.sgy"))
    assert segy == (
        Scale("inline", 1, 1), Scale("crossline", 1, 1), Scale("time", 0.0, 4.0, "ms"),
    )  # fmt: skip
    assert segy[2].at(3) == "time 12 ms" and segy[0].at(3) == "inline 4"
    assert (
        scales_of(read_header(tmp_path / ".nii.gz" / "labelsTr" / "faults_0001.nii.gz")) is VOXELS
    )


@pytest.mark.parametrize("shape", [(16, 40, 300), (300, 16, 16), (40, 300, 16)])
def test_extreme_shapes(shape: tuple[int, int, int]) -> None:
    image = np.random.default_rng(0).normal(size=shape)
    picture = seismic_sections(image, {"faults": image > 1}, NAMES)
    assert picture.dtype == np.uint8 and picture.shape[1:] == (900, 3)
    assert 200 < len(picture) < 1200
    assert (np.ptp(picture.astype(int), axis=-1) > 100).any()
