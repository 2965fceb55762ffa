"""Surveys with horizons, from the dataset's folder to labels for training and evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from seg3d.common.errors import UserError
from seg3d.config import config_from_tree
from seg3d.data.cases import Case
from seg3d.data.fingerprint import take_fingerprints
from seg3d.data.layouts import find_dataset
from seg3d.evaluation import evaluate, find_pairs
from seg3d.evaluation.report import write_metrics
from seg3d.io import (
    UNLABELLED,
    Header,
    LabelReader,
    LabelRest,
    create_volume,
    read_labels,
    read_volume,
    segy,
    write_volume,
)
from seg3d.io.horizon_layers import NOT_KNOWN
from seg3d.io.regions import whole
from seg3d.plan import make_plan
from tests.io.segy.files import Spec, Written, write

SHAPE = (24, 20, 40)
TOP, BASE = 60.0, 100.0


def made(folder: Path, name: str = "F3") -> Written:
    """A survey with two flat horizons; of the base, a quarter of the inlines is not picked."""
    spec = Spec(SHAPE, missing=0.1)
    survey = write(folder / "images" / f"{name}.sgy", spec)
    picks = folder / "horizons" / name
    picks.mkdir(parents=True)
    for file, time in (("top.dat", TOP), ("base.dat", BASE)):
        rows = [
            f"{spec.first[0] + i * spec.step[0]} {spec.first[1] + j * spec.step[1]} {time}"
            for i, j in survey.places.tolist()
            if file == "top.dat" or i >= SHAPE[0] // 4
        ]
        (picks / file).write_text("# inline crossline time\n" + "\n".join(rows))
    return survey


def labels_of(**keys: object) -> object:
    tree = {"data": {"labels": {"horizons": ["top.dat", "base.dat"], "reach": 2, **keys}}}
    return config_from_tree(tree).data.labels


def test_layout(tmp_path: Path) -> None:
    made(tmp_path, "F3")
    made(tmp_path, "K05")
    write(tmp_path / "images" / "new.sgy")
    (tmp_path / "horizons" / "lost").mkdir()
    dataset = find_dataset(tmp_path, labels_of())
    assert [case.name for case in dataset.cases] == ["F3", "K05"]
    assert dataset.labels == {
        "above top": 1, "top to base": 2, "below base": 3, "ignore": NOT_KNOWN,
    }  # fmt: skip
    assert dict(dataset.left_out) == {
        "images/new.sgy": "no folder of this name in horizons",
        "horizons/lost": "no survey of this name in images",
    }
    assert dataset.cases[0].files == (
        tmp_path / "images" / "F3.sgy",
        tmp_path / "horizons" / "F3" / "top.dat",
        tmp_path / "horizons" / "F3" / "base.dat",
    )


def _without_file(folder: Path) -> None:
    (folder / "horizons" / "F3" / "base.dat").rename(folder / "horizons" / "F3" / "base.txt")


def _without_survey(folder: Path) -> None:
    (folder / "images" / "F3.sgy").rename(folder / "images" / "F4.sgy")


def _as_nifti(folder: Path) -> None:
    image = read_volume(folder / "images" / "F3.sgy")
    (folder / "images" / "F3.sgy").unlink()
    write_volume(folder / "images" / "F3.nii", image.array, Header(image.grid, 1, None))


@pytest.mark.parametrize(
    "damage, problem, details",
    [
        (_without_file, "does not hold base.dat", "it holds base.txt, top.dat"),
        (_without_survey, "no survey in images has a folder", "images holds F4.sgy; horizons"),
        (_as_nifti, "F3.nii has no line numbers", ".segy"),
        (lambda folder: (folder / "horizons").rename(folder / "h"), "does not hold", "h, images"),
    ],
)
def test_what_is_missing_is_named(tmp_path, damage, problem, details):
    made(tmp_path)
    damage(tmp_path)
    with pytest.raises(UserError, match=problem) as caught:
        find_dataset(tmp_path, labels_of())
    assert details in str(caught.value)


def test_a_list_has_no_horizons(tmp_path):
    (tmp_path / "list.csv").write_text("image,label\na.sgy,b.sgy\n")
    with pytest.raises(UserError, match="is a list, of which data.labels.horizons"):
        find_dataset(tmp_path / "list.csv", labels_of())


def test_labels_are_read_with_holes_and_missing_traces(tmp_path):
    survey = made(tmp_path)
    (case,) = find_dataset(tmp_path, labels_of()).cases
    with LabelReader(case.label) as reader:
        labels = reader.read(whole(SHAPE))[0]
    times = np.arange(SHAPE[2]) * 4
    line = np.select([times < TOP, times < BASE], [1, 2], 3)
    hole = np.where(times < TOP, 1, NOT_KNOWN)
    known = np.arange(SHAPE[0]) >= SHAPE[0] // 4
    expected = np.where(known[:, None, None], line, hole) * np.ones(SHAPE, np.int32)
    expected[~survey.mask] = UNLABELLED
    # Gaps between picks are closed; beyond the hull of the picks nothing is known.
    rim = slice(SHAPE[0] // 4, None)
    assert np.array_equal(labels[rim][labels[rim] != NOT_KNOWN],
                          expected[rim][labels[rim] != NOT_KNOWN])  # fmt: skip
    assert np.array_equal(labels[:6], expected[:6])
    assert (labels == NOT_KNOWN)[rim].mean() < 0.02


def test_picks_that_change_are_read_again(tmp_path):
    made(tmp_path)
    (case,) = find_dataset(tmp_path, labels_of()).cases
    before = case.label.open()
    assert case.label.open() is before
    top = tmp_path / "horizons" / "F3" / "top.dat"
    top.write_text(top.read_text().replace(f" {TOP}", f" {TOP - 12.5}0"))
    after = case.label.open().read(whole(SHAPE))
    assert (after == 2).sum() > (before.read(whole(SHAPE)) == 2).sum()


def test_every_survey_that_cannot_be_used_is_named(tmp_path):
    made(tmp_path, "F3")
    made(tmp_path, "K05")
    base = tmp_path / "horizons" / "K05" / "base.dat"
    base.write_text(base.read_text().replace(str(BASE), "10.0"))
    dataset = find_dataset(tmp_path, labels_of())
    with pytest.raises(UserError, match="1 of 2 labelled cases") as caught:
        take_fingerprints(dataset, "none", None, {0, NOT_KNOWN})
    assert f"{base} cross" in str(caught.value)


def test_missing_traces_are_not_among_the_rest(tmp_path):
    survey = write(tmp_path / "labels.sgy", Spec(code=16, missing=0.4))
    with LabelReader(survey.path, LabelRest(frozenset(range(100)), 0)) as reader:
        found = reader.read(whole(survey.cube.shape))[0]
    assert (found[~survey.mask] == UNLABELLED).all()
    cube = survey.cube[survey.mask]
    assert np.array_equal(found[survey.mask], np.where(cube < 100, cube, 0))
    assert (cube >= 100).any()


def test_time_is_no_length(tmp_path):
    """Patches are chosen as if voxels were cubes, and nothing is resampled."""
    made(tmp_path)
    config = config_from_tree(
        {
            "data": {"labels": {"horizons": ["top.dat", "base.dat"]}},
            "preprocess": {"orientation": "none"},
            "patch": {"size": [16, 16, 32]},
        }
    )
    dataset = find_dataset(tmp_path, config.data.labels)
    surveys = take_fingerprints(dataset, "none", None, {0, NOT_KNOWN})
    assert surveys["F3"].units == ("m", "m", "ms")
    plan = make_plan(config, dataset, surveys)
    assert plan.spacing is None
    assert plan.kernels[0] == (3, 3, 3)
    assert plan.strides[1] == (2, 2, 2)
    assert [one.values for one in plan.classes] == [[0], [1], [2], [3]]
    assert plan.ignore == [NOT_KNOWN]
    # What is not known, and where there is no trace, is no foreground.
    labelled = sum(surveys["F3"].labels[value] for value in (1, 2, 3))
    assert sum(surveys["F3"].labels.values()) == labelled + surveys["F3"].labels[NOT_KNOWN]


# Labels as SEG-Y


def test_missing_traces_of_label_files_carry_no_label(tmp_path):
    survey = write(tmp_path / "labels.sgy", Spec(SHAPE, missing=0.3, code=8))
    labels = read_labels(survey.path).array[0]
    assert labels.dtype == np.int32
    assert (labels[~survey.mask] == UNLABELLED).all()
    assert np.array_equal(labels[survey.mask], survey.cube[survey.mask])


def test_labels_without_missing_traces_keep_their_type(tmp_path):
    survey = write(tmp_path / "labels.sgy", Spec(SHAPE, code=8))
    with LabelReader(survey.path) as reader:
        assert reader.dtype == np.int8


@pytest.mark.parametrize("missing_in", ["references", "predictions"])
@pytest.mark.parametrize("tolerance", [None, 1])
def test_missing_traces_count_nowhere(tmp_path, missing_in, tolerance):
    survey = write(tmp_path / "survey.sgy", Spec(SHAPE, missing=0.3))
    header = segy.open_volume(survey.path).header
    truth = np.zeros(SHAPE, np.uint8)
    truth[:, :, 10:20] = 1
    for folder in ("references", "predictions"):
        array, ending = truth.copy(), ".sgy"
        if folder != missing_in:
            # In a file that has something everywhere, anything may stand between the traces.
            array[~survey.mask] = 1
            ending = ".nii"
        with create_volume(tmp_path / folder / f"a{ending}",
                           header if ending == ".sgy" else Header(header.grid, 1, None),
                           array.dtype) as volume:  # fmt: skip
            volume.write(whole(SHAPE), array[None])
    pairs = find_pairs(tmp_path / "predictions", tmp_path / "references")
    evaluation = evaluate(pairs, tolerance=tolerance)
    (overlaps,) = evaluation.cases.values()
    assert overlaps[1].dice == 1
    assert overlaps[1].reference_voxels == survey.mask.sum() * 10
    if tolerance:
        assert overlaps[1].tolerance_dice == 1


def test_volumes_of_surveys_are_not_in_ml(tmp_path):
    survey = write(tmp_path / "survey.sgy", Spec(SHAPE, code=8))
    header = segy.open_volume(survey.path).header
    for folder in ("references", "predictions"):
        write_volume(tmp_path / folder / "a.sgy", np.ones((1, *SHAPE), np.uint8), header)
    evaluation = evaluate(find_pairs(tmp_path / "predictions", tmp_path / "references"))
    json_path, _ = write_metrics(evaluation, tmp_path)
    entry = json.loads(json_path.read_text())["cases"]["a"]["labels"]["1"]
    assert entry["reference_ml"] is None
    assert entry["reference_voxels"] == np.prod(SHAPE)


def test_a_case_is_its_files():
    image, label = Path("a.nii"), Path("b.nii")
    assert Case("a", (image,)).files == (image,)
    assert Case("a", (image,), label).files == (image, label)
