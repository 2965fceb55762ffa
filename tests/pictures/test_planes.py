"""Pictures show what is there, where it is, in true proportions."""

from __future__ import annotations

import numpy as np
import pytest

from seg3d.pictures.planes import three_planes

NAMES = ["background", "one", "two", "three"]


def coloured(picture: np.ndarray) -> np.ndarray:
    """`(H, W)`: pixels that are not grey."""
    return np.ptp(picture.astype(int), axis=-1) > 40


def boxes(mask: np.ndarray) -> list[tuple[slice, slice]]:
    """Bounding boxes of what is set, in the three thirds of the width."""
    found = []
    for left in (35, 312, 589):
        part = mask[:, left : left + 277]
        rows, columns = np.flatnonzero(part.any(1)), np.flatnonzero(part.any(0)) + left
        found.append((slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)))
    return found


def corner(shape: tuple[int, int, int]) -> np.ndarray:
    """A label in the corner at the end of the first, the start of the second and third axis."""
    label = np.zeros(shape, int)
    label[-4:, :4, :4] = 1
    return label


def panels(picture: np.ndarray) -> np.ndarray:
    """The picture without title and legend (one line)."""
    return picture[45:-41]


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.0, 2.0, 2.0)])
def test_labels_are_drawn_where_they_are(spacing: tuple[float, float, float]) -> None:
    image = np.full((20, 20, 20), 0.5)
    image[0, 0, 0] = 1.0
    picture = three_planes(image, {"reference": corner((20, 20, 20))}, NAMES, spacing)
    assert picture.dtype == np.uint8 and picture.shape[1:] == (900, 3)
    assert not coloured(picture[: len(picture) // 2 - 10]).any()
    mask = coloured(panels(picture))
    height, width = len(mask), 830 / 3
    sagittal, coronal, axial = boxes(mask)
    for rows, columns in (sagittal, coronal, axial):
        # Four of twenty voxels, at the bottom of the lower row.
        assert rows.stop == pytest.approx(height, abs=8)
        assert rows.stop - rows.start == pytest.approx(width / 5, abs=4)
        assert columns.stop - columns.start == pytest.approx(width / 5, abs=4)
    # Second axis to the right, then the first axis twice.
    assert sagittal[1].start == pytest.approx(35, abs=6)
    assert coronal[1].stop == pytest.approx(35 + 2 * width, abs=6)
    assert axial[1].stop == pytest.approx(865, abs=6)


def test_planes_have_their_true_proportions() -> None:
    """Voxels of 1 × 2 × 4 mm: all panels are to one scale."""
    shape = (40, 30, 10)
    label = np.ones(shape, int)
    image = np.random.default_rng(0).normal(size=shape)
    picture = three_planes(image, {"reference": label}, NAMES, (1.0, 2.0, 4.0))
    mask = coloured(panels(picture))
    mm = []
    split = np.flatnonzero(~mask.any(0))
    columns = np.split(np.arange(900), split)
    for part in (one for one in columns if len(one) > 20):
        rows = np.flatnonzero(mask[:, part[1:]].any(1))
        mm.append((len(part) - 1, rows[-1] - rows[0] + 1))
    scale = mm[0][0] / 60
    expected = [(60, 40), (40, 40), (40, 60)]
    assert len(mm) == 3
    for found, true in zip(mm, expected, strict=True):
        np.testing.assert_allclose(np.array(found) / scale, true, rtol=0.04)


def test_the_planes_are_those_with_most_labels() -> None:
    label = np.zeros((20, 20, 20), int)
    label[3, 10:15, 10:15] = 2
    image = np.zeros((20, 20, 20))
    image[3] = 1.0
    picture = three_planes(image, {"reference": label}, NAMES, (1, 1, 1))
    sagittal = picture[45:200, 60:280]
    assert (sagittal > 200).mean() > 0.95
    assert coloured(picture[45:-41]).sum() > 3000


def test_classes_have_colours_of_their_own_and_only_those_seen_are_named() -> None:
    label = np.zeros((30, 30, 30), int)
    for number in range(1, 26):
        label[number] = number
    image = np.full((30, 30, 30), 0.0)
    names = [f"class {number}" for number in range(26)]
    picture = three_planes(image, {"reference": label}, names, (1, 1, 1))
    colours = {tuple(pixel) for pixel in picture[45:-170][coloured(picture[45:-170])]}
    counts = [(picture[45:-170] == colour).all(-1).sum() for colour in colours]
    assert sum(count > 500 for count in counts) == 25
    few = three_planes(image, {"reference": np.minimum(label, 3)}, names, (1, 1, 1))
    assert len(few) < len(picture)


@pytest.mark.parametrize("value", [0.0, 1e6, -3.0])
def test_a_constant_image_without_labels(value: float) -> None:
    shape = (8, 9, 10)
    image = np.full(shape, value, np.float32)
    for label in (np.zeros(shape, int), np.full(shape, -1)):
        picture = three_planes(image, {"a": label, "b": label}, NAMES, (1, 1, 1), title="nothing")
        assert picture.dtype == np.uint8 and not coloured(picture).any()


@pytest.mark.parametrize("shape", [(1, 40, 40), (40, 1, 40), (300, 4, 4), (4, 4, 300)])
def test_extreme_shapes(shape: tuple[int, int, int]) -> None:
    image = np.random.default_rng(0).normal(size=shape)
    picture = three_planes(image, {"reference": image > 0}, NAMES[:2], (1.0, 1.0, 1.0))
    assert picture.shape[1:] == (900, 3) and 60 < len(picture) < 1200
    assert coloured(picture).any()


def test_directions_are_written_at_the_edges() -> None:
    image = np.zeros((20, 20, 20))
    overlays = {"reference": np.zeros((20, 20, 20), int)}
    plain = three_planes(image, overlays, NAMES, (1, 1, 1))
    ras, las = (
        three_planes(image, overlays, NAMES, (1, 1, 1), orientation=code) for code in ("RAS", "LAS")
    )
    written = (ras != plain).any(-1)
    rows, columns = np.flatnonzero(written.any(1)), np.flatnonzero(written.any(0))
    assert rows[0] < 60 and columns[0] < 50 and columns[-1] > 850
    # Left and right trade places, to the sides of the coronal and the axial panel only.
    changed = np.flatnonzero((ras != las).any(-1).any(0))
    sagittal_ends, coronal_ends = 35 + 277, 35 + 2 * 277
    assert changed[0] > sagittal_ends and changed[-1] > 850
    assert not ((changed > sagittal_ends + 25) & (changed < coronal_ends - 25)).any()


def test_arguments_are_left_alone() -> None:
    image = np.random.default_rng(0).normal(size=(8, 8, 8))
    label = (image > 0).astype(int)
    before = image.copy(), label.copy()
    first = three_planes(image, {"reference": label}, NAMES, (1, 1, 1))
    assert np.array_equal(first, three_planes(image, {"reference": label}, NAMES, (1, 1, 1)))
    assert np.array_equal(image, before[0]) and np.array_equal(label, before[1])
