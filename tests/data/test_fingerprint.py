"""The pass over the training data: what it finds, and how it says what cannot be used."""

from __future__ import annotations

import itertools
import re
import tracemalloc
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from seg3d.common.errors import UserError
from seg3d.data.cases import Case, Dataset
from seg3d.data.fingerprint import (
    SAMPLES_PER_CASE,
    require_fitting_headers,
    require_foreground,
    take_fingerprints,
)
from seg3d.data.images import ImageReader
from seg3d.io import portions, whole
from seg3d.plan import MOST_CLASSES, CaseFingerprint, label_counts
from tests.volumes import affine_of, save_nifti

SHAPE = (6, 7, 8)


def case(
    folder: Path,
    name: str = "one",
    image: np.ndarray | None = None,
    label: np.ndarray | None = None,
    affine: np.ndarray | None = None,
    label_affine: np.ndarray | None = None,
) -> Case:
    """A case on disk; the image says of each voxel where it is, the label has classes 0 to 2."""
    if image is None:
        image = np.arange(np.prod(SHAPE), dtype="float32").reshape(SHAPE)
    if label is None:
        label = np.random.default_rng(0).integers(0, 3, image.shape[:3]).astype("uint8")
    return Case(
        name,
        (save_nifti(folder / "images" / f"{name}.nii.gz", image, affine),),
        save_nifti(
            folder / "labels" / f"{name}.nii.gz",
            label,
            affine if label_affine is None else label_affine,
        ),
    )


def look(
    *cases: Case,
    orientation: str = "RAS",
    legal: set[int] | None = None,
    background: frozenset[int] = frozenset({0}),
    channels: tuple[str, ...] | None = None,
) -> dict[str, CaseFingerprint]:
    dataset = Dataset("images and labels", Path("data"), cases)
    return take_fingerprints(dataset, orientation, legal, set(background), channels=channels)


def complaint(
    *cases: Case, legal: set[int] | None = None, channels: tuple[str, ...] | None = None
) -> str:
    with pytest.raises(UserError) as raised:
        look(*cases, legal=legal, channels=channels)
    return str(raised.value)


# What is found


def test_a_case_in_numbers(tmp_path):
    image = np.zeros((*SHAPE, 2), "int16")
    image[:3] = 5
    image[3, :, :, 1] = 1
    label = np.zeros(SHAPE, "uint8")
    label[0] = 7
    label[1, 0] = 9
    found = look(case(tmp_path, image=image, label=label, affine=np.diag([1, 2, 3, 1])))["one"]
    assert found.shape == SHAPE
    assert found.spacing == (1, 2, 3)
    assert found.labels == {0: 6 * 56 - 56 - 8, 7: 56, 9: 8}
    assert found.zero_fraction == pytest.approx(2 / 6)
    assert found.foreground.shape == (64, 2)
    assert (found.lowest, found.highest) == ((0, 0), (5, 5))
    assert (found.foreground == 5).all()


def test_drawn_intensities_are_those_of_the_foreground(tmp_path):
    image = np.stack([np.arange(336.0).reshape(SHAPE), -np.arange(336.0).reshape(SHAPE)], -1)
    label = np.random.default_rng(1).integers(0, 4, SHAPE).astype("uint8")
    only = case(tmp_path, image=image.astype("float32"), label=label)
    drawn = look(only, background=frozenset({0, 3}))["one"].foreground
    assert sorted(drawn[:, 0]) == sorted(image[..., 0][(label == 1) | (label == 2)])
    assert np.array_equal(drawn[:, 1], -drawn[:, 0])


def test_no_more_is_drawn_than_is_needed_and_none_twice(tmp_path):
    image = np.arange(30**3, dtype="float32").reshape(30, 30, 30)
    label = np.ones((30, 30, 30), "uint8")
    drawn = look(case(tmp_path, image=image, label=label))["one"].foreground
    assert drawn.shape == (SAMPLES_PER_CASE, 1)
    assert len(np.unique(drawn)) == SAMPLES_PER_CASE
    # An even draw from 0 to 26999 has its mean within 4 standard errors of the middle.
    assert drawn.mean() == pytest.approx(13_499.5, abs=4 * 27_000 / np.sqrt(12 * SAMPLES_PER_CASE))


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 1, 0)])
def test_slabs_change_nothing(tmp_path, monkeypatch, axes):
    generator = np.random.default_rng(2)
    shape = (31, 23, 29)
    image = generator.normal(size=(*shape, 2)).astype("float32") * generator.integers(0, 2, shape)[
        ..., None
    ].astype("float32")
    label = generator.integers(0, 3, shape).astype("uint8")
    stored = case(tmp_path, "stored", image, label)
    arrays = []
    for name, array in (("image", image), ("label", label)):
        # Read fastest along the first axis, or along the last.
        array = array.transpose(*axes, *range(3, array.ndim))
        arrays.append(tmp_path / f"{name}.npy")
        np.save(arrays[-1], np.asfortranarray(array) if axes[0] else array)
    for one in (stored, Case("array", (arrays[0],), arrays[1])):
        whole = look(one)[one.name]
        for voxels in (1, 2000, 7000):
            monkeypatch.setattr("seg3d.data.looking.portions", partial(portions, voxels=voxels))
            found = look(one)[one.name]
            assert found.labels == whole.labels
            assert found.zero_fraction == whole.zero_fraction
            assert np.array_equal(found.foreground, whole.foreground)
            assert (found.lowest, found.highest) == (whole.lowest, whole.highest)
            assert found.digest == whole.digest
        monkeypatch.undo()
        assert whole.labels == {value: int((label == value).sum()) for value in range(3)}
        assert whole.zero_fraction == pytest.approx(float((image == 0).all(-1).mean()))
        assert whole.lowest == tuple(image.min((0, 1, 2)).tolist())
        assert whole.highest == tuple(image.max((0, 1, 2)).tolist())


def test_a_volume_is_never_held_whole(tmp_path, monkeypatch):
    shape = (128, 128, 160)
    image = np.zeros(shape, "int16")
    image[0, 0, -1] = 7
    only = Case(
        "one",
        (save_nifti(tmp_path / "image.nii", image),),
        save_nifti(tmp_path / "label.nii", (image > 0).astype("uint8")),
    )
    monkeypatch.setattr("seg3d.data.looking.portions", partial(portions, voxels=2**16))
    look(only)
    tracemalloc.start()
    found = look(only)["one"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.foreground.tolist() == [[7]]
    assert peak < image.nbytes / 2


def test_the_draw_depends_on_the_case_alone(tmp_path):
    image = np.arange(30**3, dtype="float32").reshape(30, 30, 30)
    label = np.ones((30, 30, 30), "uint8")
    one, two = (case(tmp_path, name, image, label) for name in ("one", "two"))
    both, again = look(one, two), look(two, one)
    assert np.array_equal(both["one"].foreground, again["one"].foreground)
    assert np.array_equal(both["one"].foreground, look(one)["one"].foreground)
    assert not np.array_equal(both["one"].foreground, both["two"].foreground)


@pytest.mark.parametrize("working", ["RAS", "LPS", "SAR", "PIR"])
@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
def test_shape_and_spacing_are_those_that_nibabel_reorients_to(tmp_path, axes, working):
    signs = np.diag([-1, 1, -1])
    affine = np.eye(4)
    affine[:3, :3] = (signs * (1, 2, 3))[:, axes]
    only = case(tmp_path, affine=affine)
    found = look(only, orientation=working)["one"]
    image = nib.load(only.images[0])
    change = nib.orientations.ornt_transform(
        nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(working)
    )
    expected = image.as_reoriented(change)
    assert "".join(nib.aff2axcodes(expected.affine)) == working
    assert found.shape == expected.shape
    assert found.spacing == pytest.approx(expected.header.get_zooms())


def test_oblique_volumes_take_the_nearest_axes(tmp_path):
    only = case(tmp_path, affine=affine_of((1, 2, 3), (80, 10, -5)))
    expected = nib.as_closest_canonical(nib.load(only.images[0]))
    found = look(only)["one"]
    assert found.shape == expected.shape == (6, 8, 7)
    assert found.spacing == pytest.approx(expected.header.get_zooms())


def test_without_orientation_axes_stay(tmp_path):
    affine = np.array([[0, 0, -3, 0], [1, 0, 0, 0], [0, 2, 0, 0], [0, 0, 0, 1.0]])
    found = look(case(tmp_path, affine=affine), orientation="none")["one"]
    assert (found.shape, found.spacing) == (SHAPE, (1, 2, 3))


def test_a_case_of_background_alone_is_used(tmp_path):
    empty = case(tmp_path, "empty", label=np.zeros(SHAPE, "uint8"))
    found = look(empty, case(tmp_path, "full"))
    assert found["empty"].labels == {0: 336}
    assert found["empty"].foreground.shape == (0, 1)


def test_counts_over_the_dataset(tmp_path):
    found = look(
        case(tmp_path, "one", label=np.full(SHAPE, 2, "uint8")),
        case(tmp_path, "two", label=np.zeros(SHAPE, "uint8")),
        case(tmp_path, "three", label=np.full(SHAPE, 2, "int16")),
    )
    assert label_counts(found) == {0: 336, 2: 672}


def test_channels_in_files_of_their_own(tmp_path):
    t1 = case(tmp_path, "t1")
    t2 = case(tmp_path, "t2", image=np.full(SHAPE, 3, "int16"))
    both = Case("both", (*t1.images, *t2.images), t1.label)
    with ImageReader(both.images) as volume:
        array = volume.read(whole(SHAPE))
        assert volume.header.channels == 2 and volume.stored_bytes == 4 + 2
    assert array.dtype == np.float32
    assert np.array_equal(array[0].ravel(), np.arange(336))
    assert (array[1] == 3).all()
    assert look(both)["both"].foreground.shape[1] == 2


def test_progress_counts_every_case(tmp_path):
    bad = case(tmp_path, "bad", label=np.full(SHAPE, 0.5, "float32"))
    steps: list[int] = []
    with pytest.raises(UserError):
        take_fingerprints(
            Dataset("", tmp_path, (case(tmp_path, "good"), bad)),
            "RAS", None, {0}, advance=lambda: steps.append(1),
        )  # fmt: skip
    assert len(steps) == 2


def test_labels_are_the_same_place_if_headers_round(tmp_path):
    affine = affine_of((0.7421875, 0.7421875, 2.5), (3, -7, 11), (-190.123456789, 200.3, -1200.7))
    rounded = affine.astype("float32").astype("float64") + 1e-5
    assert look(case(tmp_path, affine=affine, label_affine=rounded))["one"].shape == SHAPE


# What cannot be used


def test_every_bad_case_is_said_with_its_file_and_reason(tmp_path):
    image = np.zeros(SHAPE, "float32")
    holey, endless = image.copy(), image.copy()
    holey[0, 0, :3] = np.nan
    endless[0] = np.inf
    label = np.ones(SHAPE, "uint8")
    shifted = np.eye(4)
    shifted[0, 3] = 0.5
    cut = case(tmp_path, "cut", np.random.default_rng(0).random(SHAPE).astype("float32"))
    cut.images[0].write_bytes(cut.images[0].read_bytes()[:-100])
    gone = case(tmp_path, "gone")
    gone.images[0].unlink()
    message = complaint(
        case(tmp_path, "good"),
        case(tmp_path, "holey", holey),
        case(tmp_path, "endless", endless),
        cut,
        gone,
        case(tmp_path, "small", label=label[1:]),
        case(tmp_path, "shifted", label_affine=shifted),
        case(tmp_path, "flipped", label_affine=np.diag([-1, 1, 1, 1.0])),
        case(tmp_path, "half", label=label * np.float32(0.5)),
        case(tmp_path, "vector", label=np.ones((*SHAPE, 2), "uint8")),
        case(tmp_path, "unknown", label=label * 5),
        legal={0, 1, 2},
    )
    assert message.startswith("10 of 11 labelled cases cannot be used:\n")
    for said in (
        "images/holey.nii.gz holds 3 voxels that are NaN or infinite",
        "images/endless.nii.gz holds 56 voxels that are NaN or infinite",
        "images/cut.nii.gz is damaged",
        "images/gone.nii.gz does not exist",
        "labels/small.nii.gz do not lie on the same grid\n  given: shape (6, 7, 8) and (5, 7, 8)",
        "labels/shifted.nii.gz do not lie on the same grid\n  given: origin",
        "labels/flipped.nii.gz do not lie on the same grid\n  given: orientation RAS and LAS",
        "labels/half.nii.gz is used as a label but 336 voxels are not whole numbers",
        "labels/vector.nii.gz is used as a label but has 2 channels",
        "labels/unknown.nii.gz holds label values that the dataset does not name\n"
        "  given: 5 (336 voxels)\n  legal: 0, 1, 2",
    ):
        assert said in message
    assert "good" not in message


def test_a_long_list_is_cut_and_counted(tmp_path):
    bad = [case(tmp_path, f"bad{n:02}", label=np.full(SHAPE, 9, "uint8")) for n in range(13)]
    message = complaint(*bad, legal={0, 1})
    assert message.count("does not name") == 10
    assert message.endswith("... and 3 more")


def test_labels_that_evaluation_would_refuse(tmp_path):
    label = np.ones(SHAPE, "int32")
    label[0] = -1
    said = "holds label values that cannot be used\n  given: values from {}\n  legal: 0 to 65535"
    assert re.search(said.format("-1 to 1"), complaint(case(tmp_path, "a", label=label)))
    label[0] = 70000
    assert re.search(said.format("1 to 70000"), complaint(case(tmp_path, "b", label=label)))


def test_an_image_in_place_of_a_label(tmp_path):
    image = np.arange(336, dtype="int16").reshape(SHAPE)
    assert f"holds 336 different values\n  legal: at most {MOST_CLASSES} classes" in complaint(
        case(tmp_path, label=image)
    )


def test_channels_on_different_grids(tmp_path):
    t1, t2 = case(tmp_path, "t1"), case(tmp_path, "t2", affine=np.diag([1, 1, 2, 1.0]))
    message = complaint(Case("both", (*t1.images, *t2.images), t1.label))
    assert "t1.nii.gz and " in message
    assert "t2.nii.gz do not lie on the same grid\n  given: spacing" in message


def test_numbers_of_channels_stand_in_the_one_list(tmp_path):
    two = [case(tmp_path, name, np.ones((*SHAPE, 2), "int16")) for name in ("a", "b", "c")]
    odd = case(tmp_path, "odd", label=np.full(SHAPE, 0.5, "float32"))
    holey = case(tmp_path, "holey", np.full((*SHAPE, 2), np.nan, "float32"))
    message = complaint(*two, odd, holey, Case("part", two[0].images * 2, two[0].label))
    assert message.startswith("3 of 6 labelled cases cannot be used:\n")
    for said in (
        "odd.nii.gz is used as a label but 336 voxels are not whole numbers",
        "holey.nii.gz holds 672 voxels that are NaN or infinite",
        "2 of 6 images have another number of channels\n"
        "  given: odd has 1 (odd.nii.gz); part has 4 (a.nii.gz, a.nii.gz)\n"
        "  legal: 2, as in the other cases\n"
        "  to do: add what is missing, or take these cases out",
    ):
        assert said in message


def test_numbers_of_channels_are_those_that_are_named(tmp_path):
    one = [case(tmp_path, f"case_{number:02}") for number in range(12)]
    two = case(tmp_path, "two", np.ones((*SHAPE, 2), "int16"))
    assert len(look(*one, channels=("T1",))) == 12
    message = complaint(*one, two, channels=("T1", "T2"))
    assert message.startswith("12 of 13 labelled cases cannot be used:\n12 of 13 images")
    assert "case_09 has 1 (case_09.nii.gz); and 2 more\n  legal: 2 (T1, T2)\n" in message
    assert "correct the names of the channels" in message


def test_the_same_voxels_have_the_same_digest_whatever_file_holds_them(tmp_path):
    voxels = np.random.default_rng(0).integers(0, 9, (7, 6, 5)).astype("int16")
    label = save_nifti(tmp_path / "label.nii", voxels)
    changed = voxels.copy()
    changed[-1, -1, -1] += 1
    files = {
        "raw": save_nifti(tmp_path / "raw.nii", voxels),
        "packed": save_nifti(tmp_path / "packed.nii.gz", voxels),
        "floats": save_nifti(tmp_path / "floats.nii.gz", voxels.astype("float32")),
        "changed": save_nifti(tmp_path / "changed.nii", changed),
    }
    cases = [Case(name, (path,), label) for name, path in files.items()]
    twice = Case("channels", (files["raw"], files["changed"]), label)
    found = look(*cases) | look(twice)
    assert found["raw"].digest == found["packed"].digest == found["floats"].digest
    assert len({one.digest for one in found.values()}) == 3


@pytest.mark.parametrize("value", [0, 5])
def test_nothing_but_background(tmp_path, value):
    only = case(tmp_path, label=np.full(SHAPE, value, "uint8"))
    surveys = look(only)
    dataset = Dataset("images and labels", Path("data"), (only,))
    require_foreground(dataset, surveys, {1})
    with pytest.raises(UserError, match="no voxel of data carries a label other than background"):
        require_foreground(dataset, surveys, {0, 5})


def test_headers_are_looked_at_without_voxels(tmp_path):
    good, cut = case(tmp_path, "good"), case(tmp_path, "cut")
    cut.images[0].write_bytes(cut.images[0].read_bytes()[:-100])
    steps: list[int] = []

    def look(*cases: Case) -> None:
        dataset = Dataset("images and labels", Path("data set"), cases)
        require_fitting_headers(dataset, None, lambda: steps.append(1))

    look(good, cut)
    shifted = np.eye(4)
    shifted[0, 3] = 0.5
    two = case(tmp_path, "two", np.ones((*SHAPE, 2), "int16"))
    with pytest.raises(UserError) as raised:
        look(good, cut, case(tmp_path, "shifted", label_affine=shifted), two)
    message = str(raised.value)
    assert message.startswith("2 of 4 labelled cases cannot be used:\n")
    assert "shifted.nii.gz do not lie on the same grid" in message
    assert "two has 2 (two.nii.gz)" in message and "cut" not in message
    assert message.endswith("to do: seg3d check 'data set' looks at the voxels as well")
    assert len(steps) == 6
