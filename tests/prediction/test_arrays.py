"""Arrays are segmented as files of the same voxels are, in memory and to the same labels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seg3d.common.errors import UserError
from seg3d.io import read_volume
from seg3d.plan import ChannelIntensity
from seg3d.prediction.jobs import Job
from seg3d.prediction.predictor import Predictor
from tests.plans import small_config
from tests.prediction.test_predictor import (
    AFFINES,
    CPU,
    VALUES,
    Nearest,
    plan_for,
    predictor,
    random_classes,
    smooth_classes,
    write,
)

SPACING = (0.8, 1.0, 2.5)


def order_of(array: np.ndarray, order: str) -> np.ndarray:
    """The same voxels, stored otherwise."""
    if order == "strided":
        return np.repeat(array[::-1], 2, axis=2)[::-1, :, ::2]
    return np.array(array, order=order)  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize("order", ["C", "F", "strided"])
@pytest.mark.parametrize("name", ["RAS", "LPI", "SAL", "oblique", "sheared"])
def test_labels_are_those_of_a_file_of_the_same_voxels(
    tmp_path: Path, name: str, order: str
) -> None:
    """Resampling and mean intensities included, to the last voxel."""
    voxels = (100 * smooth_classes((23, 18, 15), SPACING)).astype(np.int16)
    plan = plan_for(spacing=(1.5, 1.5, 1.5), channels=[ChannelIntensity(name="T1", kind="zscore")])
    one = predictor(plan)
    image = write(tmp_path / "image.nii.gz", voxels, AFFINES[name])
    one.run(Job((image,), tmp_path / "out.nii.gz"))
    # As the file has it, rounded.
    affine = read_volume(image).grid.affine
    labels = one.segment(order_of(voxels, order), affine=affine)
    written = read_volume(tmp_path / "out.nii.gz").array[0]
    assert len(np.unique(written)) > 1
    assert labels.dtype == written.dtype
    np.testing.assert_array_equal(labels, written)


def test_a_file_is_segmented_into_an_array_too(tmp_path: Path) -> None:
    voxels = random_classes((9, 10, 11))
    image = write(tmp_path / "image.nii.gz", voxels, AFFINES["LPI"])
    for given in (image, str(image), [image], [str(image)], read_volume(image)):
        told: list[int] = []
        np.testing.assert_array_equal(
            predictor().segment(given, told.append), np.array(VALUES)[voxels]
        )
        assert sum(told) == predictor().windows(Job((image,), tmp_path / "out.nii.gz"))


def test_spacing_alone_points_right_front_and_up() -> None:
    voxels = smooth_classes((23, 18, 15), SPACING)
    one = predictor(plan_for(spacing=(1.5, 1.5, 1.5)))
    np.testing.assert_array_equal(
        one.probabilities(voxels, spacing=SPACING),
        one.probabilities(voxels, affine=np.diag([*SPACING, 1.0])),
    )


def test_channels_come_first(tmp_path: Path) -> None:
    plan = plan_for(channels=[ChannelIntensity(name=name, kind="none") for name in ("T1", "T2")])
    voxels = np.stack([random_classes((9, 10, 11)), random_classes((9, 10, 11), seed=1)])
    np.testing.assert_array_equal(
        predictor(plan).segment(voxels.astype(np.float64)), np.array(VALUES)[voxels[0]]
    )
    with pytest.raises(UserError, match=r"(?s)^array: .*needs 2 channels.*given: 1 in array"):
        predictor(plan).segment(voxels[0])


def test_an_array_is_left_as_it_is() -> None:
    plan = plan_for(channels=[ChannelIntensity(name="T1", kind="zscore")])
    voxels = random_classes((9, 10, 11)).astype(np.float32)
    before = voxels.copy()
    predictor(plan).segment(voxels)
    np.testing.assert_array_equal(voxels, before)
    voxels.flags.writeable = False
    predictor(plan).segment(voxels)


GOOD = np.zeros((4, 5, 6), np.float32)


@pytest.mark.parametrize(
    ("array", "options", "message"),
    [
        (GOOD[0], {}, "array is not a 3D volume\n  given: shape (5, 6)"),
        (GOOD[None, None], {}, "array is not a 3D volume\n  given: shape (1, 1, 4, 5, 6)"),
        (GOOD[:0], {}, "array is not a 3D volume\n  given: shape (0, 5, 6)"),
        (GOOD.astype(complex), {}, "array holds complex128 voxels"),
        (GOOD.astype(object), {}, "array holds object voxels"),
        (GOOD.astype("datetime64[s]"), {}, "array holds datetime64[s] voxels"),
        (GOOD + np.nan, {}, "array holds 120 voxels that are NaN or infinite"),
        (GOOD.astype(float) + 1e300, {}, "array holds numbers that are too large for float32"),
        (GOOD, {"spacing": (1, 1)}, "spacing is not understood\n  given: (1, 1)"),
        (GOOD, {"spacing": ("a", 1, 1)}, "spacing is not understood"),
        (GOOD, {"spacing": (1, 0, 1)}, "spacing is not a size\n  given: (1, 0, 1)"),
        (GOOD, {"spacing": (1, np.nan, 1)}, "spacing is not understood"),
        (GOOD, {"affine": np.eye(3)}, "affine is not understood"),
        (GOOD, {"affine": np.diag([1, 1, 0, 1])}, "array has no usable geometry"),
        (GOOD, {"affine": np.eye(4), "spacing": (1, 1, 1)}, "not both"),
        ("scan.nii.gz", {"spacing": (1, 1, 1)}, "spacing and affine are for arrays"),
        ("nowhere.nii.gz", {}, "nowhere.nii.gz does not exist"),
        (None, {}, "this cannot be segmented\n  given: NoneType"),
        ([], {}, "this cannot be segmented\n  given: list"),
        ([GOOD], {}, "this cannot be segmented\n  given: list"),
    ],
)  # fmt: skip
def test_what_is_no_volume_is_refused(array: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as raised:
        predictor().segment(array, **options)
    assert message in str(raised.value)


def test_the_array_and_what_comes_of_it_count_as_memory(tmp_path: Path) -> None:
    voxels = np.zeros((256, 256, 64), np.uint8)
    image = write(tmp_path / "image.nii", voxels, np.eye(4))
    one = Predictor(Nearest(), small_config(), plan_for(), CPU, memory=1)

    def least(call: Callable[[], object]) -> float:
        with pytest.raises(UserError, match=r"legal: at least ([\d.]+) MiB") as raised:
            call()
        return float(str(raised.value).split("at least ")[1].split(" MiB")[0])

    from_file = least(lambda: one.windows(Job((image,), tmp_path / "out.nii")))
    assert one.labels(np.zeros(1, int)).itemsize == 2
    assert least(lambda: one.segment(voxels)) == pytest.approx(from_file + 4 + 8, abs=0.02)
    assert least(lambda: one.segment(image)) == pytest.approx(from_file + 8, abs=0.02)
    assert least(lambda: one.probabilities(image)) == pytest.approx(from_file + 48, abs=0.02)
