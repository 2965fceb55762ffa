"""Dice and volumes against hand counts, a naive implementation and MONAI; pairing; outputs."""

from __future__ import annotations

import csv
import io
import json
import math
import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from monai.metrics import DiceMetric
from rich.console import Console

from seg3d.common.errors import UserError
from seg3d.evaluation import (
    Classes,
    Evaluation,
    Overlap,
    Pair,
    evaluate,
    find_classes,
    find_pairs,
)
from seg3d.evaluation.report import MEASURES, output_folder, table, write_metrics

SHAPE = (4, 5, 6)
# Columns: 2 mm; 3 mm leaning by 1; 1.5 mm leaning by 0.5. Determinant 9 mm³, while the product
# of the three spacings is 10 mm³.
SHEARED = np.array([[2, 1, 0, -7], [0, 3, 0.5, 5], [0, 0, 1.5, 11], [0, 0, 0, 1]], dtype=float)


def volume(*runs: tuple[int, int, int], shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """Zeros with ``(first, last + 1, value)`` written into the flattened volume."""
    flat = np.zeros(math.prod(shape), dtype=np.uint8)
    for start, stop, value in runs:
        flat[start:stop] = value
    return flat.reshape(shape)


def save(path: Path, labels: np.ndarray, affine: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(labels, np.eye(4) if affine is None else affine), path)
    return path


def save_cases(root: Path, cases: dict[str, tuple[np.ndarray | None, np.ndarray | None]]) -> Path:
    """Write ``{case: (prediction, reference)}`` to ``root/predictions`` and ``root/labels``."""
    for case, (prediction, reference) in cases.items():
        if prediction is not None:
            save(root / "predictions" / f"{case}.nii.gz", prediction)
        if reference is not None:
            save(root / "labels" / f"{case}.nii.gz", reference)
    return root


def evaluate_folders(root: Path, names: dict[int, str] | None = None) -> Evaluation:
    classes = Classes.of({name: value for value, name in (names or {}).items()})
    return evaluate(find_pairs(root / "predictions", root / "labels"), classes)


def label_names_near(references: Path) -> dict[int, str]:
    predictions = references.parent / "predictions"
    predictions.mkdir(exist_ok=True)
    return dict(find_classes(predictions, references).names)


def overlaps_of(evaluation: Evaluation, case: str) -> dict[int, Overlap]:
    return next(found for pair, found in evaluation.cases.items() if pair.case == case)


def printed(evaluation: Evaluation) -> str:
    file = io.StringIO()
    Console(file=file, width=80).print(table(evaluation))
    return file.getvalue()


@pytest.fixture
def three_cases(tmp_path: Path) -> Path:
    """Dice of class 1: 0.6, 1, 0.5; of class 4: undefined, 0 (missed), 0 (invented)."""
    return save_cases(
        tmp_path,
        {
            "a": (volume((1, 7, 1)), volume((0, 4, 1))),
            "b": (volume((0, 10, 1)), volume((0, 10, 1), (50, 52, 4))),
            "c": (volume((0, 1, 1), (60, 61, 4)), volume((0, 3, 1))),
        },
    )


# ---------------------------------------------------------------------------------- numbers


def test_hand_counted_dice_and_volumes_on_anisotropic_voxels(tmp_path):
    affine = np.diag([0.5, 1.5, 4.0, 1.0])
    prediction = save(tmp_path / "p.nii.gz", volume((1, 7, 1)), affine)
    reference = save(tmp_path / "r.nii.gz", volume((0, 4, 1)), affine)
    evaluation = evaluate(find_pairs(prediction, reference))

    found = overlaps_of(evaluation, "r")[1]
    assert (found.reference_voxels, found.predicted_voxels, found.intersection_voxels) == (4, 6, 3)
    assert found.dice == 2 * 3 / (4 + 6)
    assert found.reference_ml == pytest.approx(4 * 3 / 1000, rel=1e-6)
    assert found.predicted_ml == pytest.approx(6 * 3 / 1000, rel=1e-6)


def test_volume_of_sheared_voxels_is_the_determinant(tmp_path):
    prediction = save(tmp_path / "p.nii.gz", volume((0, 100, 2)), SHEARED)
    reference = save(tmp_path / "r.nii.gz", volume((0, 50, 2)), SHEARED)
    found = overlaps_of(evaluate(find_pairs(prediction, reference)), "r")[2]
    assert found.reference_ml == pytest.approx(50 * 9 / 1000, rel=1e-6)
    assert found.predicted_ml == pytest.approx(100 * 9 / 1000, rel=1e-6)


def test_labels_far_apart_and_of_different_number_types(tmp_path):
    reference = volume((0, 10, 3)).astype(np.int16)
    reference.flat[20:30] = 1035
    reference.flat[40:44] = 14175
    prediction = volume((5, 15, 3)).astype(np.float32)
    prediction.flat[20:30] = 1035.0002  # dust of a lossy path, within the tolerance for labels
    prediction.flat[50:54] = 255
    evaluation = evaluate(
        find_pairs(save(tmp_path / "p.nii.gz", prediction), save(tmp_path / "r.nii.gz", reference))
    )
    dice = {value: found.dice for value, found in overlaps_of(evaluation, "r").items()}
    assert dice == {3: 0.5, 255: 0.0, 1035: 1.0, 14175: 0.0}


@pytest.mark.parametrize("ours", [np.uint8, np.int16, np.int32, np.uint16, np.float64])
@pytest.mark.parametrize("theirs", [np.uint8, np.int8, np.int16])
def test_number_types_do_not_change_the_result(tmp_path, ours, theirs):
    prediction = save(tmp_path / "p.nii.gz", volume((1, 7, 1), (20, 60, 100)).astype(ours))
    reference = save(tmp_path / "r.nii.gz", volume((0, 4, 1), (30, 60, 100)).astype(theirs))
    found = overlaps_of(evaluate(find_pairs(prediction, reference)), "r")
    assert {value: overlap.dice for value, overlap in found.items()} == {1: 0.6, 100: 60 / 70}


def test_scaled_integers_are_compared_as_what_they_mean(tmp_path):
    reference = nib.Nifti1Image(volume((0, 4, 3)), np.eye(4))
    reference.header.set_slope_inter(2.0, 0.0)  # nibabel stores the 3 and the slope: 6
    nib.save(reference, tmp_path / "r.nii.gz")
    assert nib.load(tmp_path / "r.nii.gz").dataobj.get_unscaled().max() == 3
    prediction = save(tmp_path / "p.nii.gz", volume((1, 7, 6)))
    found = overlaps_of(evaluate(find_pairs(prediction, tmp_path / "r.nii.gz")), "r")
    assert {value: overlap.dice for value, overlap in found.items()} == {6: 0.6}


label_volumes = arrays(np.uint16, (2, 3, 4), elements=st.sampled_from([0, 0, 1, 7, 300]))


@settings(max_examples=40, deadline=None)
@given(prediction=label_volumes, reference=label_volumes)
def test_agrees_with_counting_voxel_by_voxel(tmp_path_factory, prediction, reference):
    root = tmp_path_factory.mktemp("naive")
    pair = Pair("x", save(root / "p.nii", prediction), save(root / "r.nii", reference))
    evaluation = evaluate([pair])

    ours, theirs = prediction.ravel().tolist(), reference.ravel().tolist()
    assert set(evaluation.names) == (set(ours) | set(theirs)) - {0}
    for value, found in evaluation.cases[pair].items():
        both = sum(a == b == value for a, b in zip(ours, theirs, strict=True))
        total = ours.count(value) + theirs.count(value)
        assert found.dice == 2 * both / total
        assert 0 <= found.dice <= 1


def test_agrees_with_monai(tmp_path):
    random = np.random.default_rng(3)
    prediction, reference = random.integers(0, 5, (2, 9, 10, 11)).astype(np.uint8)
    pair = Pair("x", save(tmp_path / "p.nii", prediction), save(tmp_path / "r.nii", reference))
    found = [overlap.dice for overlap in evaluate([pair]).cases[pair].values()]

    metric = DiceMetric(include_background=False, reduction="none", num_classes=5)
    expected = metric(
        torch.from_numpy(prediction)[None, None], torch.from_numpy(reference)[None, None]
    )
    assert found == pytest.approx(expected[0].tolist(), rel=1e-6)


def test_empty_structures_and_summary(three_cases):
    evaluation = evaluate_folders(three_cases)
    assert [overlaps_of(evaluation, case)[1].dice for case in "abc"] == [0.6, 1.0, 0.5]
    undefined, missed, invented = (overlaps_of(evaluation, case)[4].dice for case in "abc")
    assert math.isnan(undefined)
    assert (missed, invented) == (0.0, 0.0)

    first, fourth = evaluation.summary()[1], evaluation.summary()[4]
    assert first.mean == pytest.approx(0.7)
    assert first.std == pytest.approx(np.std([0.6, 1.0, 0.5], ddof=1))
    assert (first.median, first.cases) == (0.6, 3)
    assert (fourth.mean, fourth.cases) == (0.0, 2)
    assert evaluation.foreground_mean_dice() == pytest.approx((0.7 + 0.0) / 2)


def test_foreground_mean_weighs_classes_not_cases_and_skips_undefined_ones(tmp_path):
    save_cases(
        tmp_path,
        {
            "a": (volume((0, 4, 1)), volume((0, 4, 1))),
            "b": (volume((0, 4, 1)), volume((0, 4, 1))),
            "c": (volume((0, 4, 1), (9, 10, 2)), volume((0, 4, 1), (10, 11, 2))),
        },
    )
    evaluation = evaluate_folders(tmp_path, {1: "one", 2: "two", 9: "nowhere"})
    assert evaluation.foreground_mean_dice() == 0.5  # not 3/4, not 1/3
    assert evaluation.summary()[9].cases == 0
    assert math.isnan(evaluation.summary()[9].mean)


def test_two_volumes_of_background_have_no_dice(tmp_path):
    evaluation = evaluate_folders(save_cases(tmp_path, {"a": (volume(), volume())}))
    assert evaluation.names == {}
    assert math.isnan(evaluation.foreground_mean_dice())
    json_path, _ = write_metrics(evaluation, tmp_path)
    assert json.loads(json_path.read_text())["foreground_mean_dice"] is None
    assert "foreground mean" in printed(evaluation)


def test_ignored_voxels_count_nowhere(tmp_path):
    reference = volume((0, 4, 1), (10, 20, 3))
    prediction = volume((0, 2, 1), (10, 20, 1), (30, 31, 1))
    save_cases(tmp_path, {"a": (prediction, reference)})
    found = overlaps_of(evaluate_folders(tmp_path, {0: "background", 1: "x", 3: "ignore"}), "a")
    assert found.keys() == {1}
    assert (found[1].reference_voxels, found[1].predicted_voxels) == (4, 3)
    assert found[1].dice == 2 * 2 / (4 + 3)


def test_one_case_in_memory_at_a_time_and_no_wide_copies(tmp_path, monkeypatch):
    """But for what surfaces and lesions take."""
    monkeypatch.setattr("seg3d.evaluation.counting.forms_of", lambda *_: {})
    random = np.random.default_rng(0)
    shape = (96, 96, 96)
    for number in range(4):
        labels = random.integers(0, 3, shape).astype(np.uint8)
        save(tmp_path / "predictions" / f"{number}.nii.gz", labels)
        save(tmp_path / "labels" / f"{number}.nii.gz", labels)
    pairs = find_pairs(tmp_path / "predictions", tmp_path / "labels")
    tracemalloc.start()
    evaluate(pairs)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # Two volumes of one byte per voxel and what reading them takes; a 64-bit copy of one
    # volume would be eight, four cases at once would be eight too.
    assert peak < 5 * math.prod(shape)


# ---------------------------------------------------------------------------------- pairing


def test_pairs_match_by_stem_whatever_the_ending(tmp_path):
    save(tmp_path / "predictions" / "liver_1.nii.gz", volume())
    save(tmp_path / "predictions" / "liver_1_probabilities.nii.gz", volume())
    save(tmp_path / "predictions" / "._liver_1.nii.gz", volume())
    (tmp_path / "predictions" / "metrics.json").write_text("{}")
    save(tmp_path / "labels" / "liver_1.nii", volume())
    assert find_pairs(tmp_path / "predictions", tmp_path / "labels") == [
        Pair(
            "liver_1",
            tmp_path / "predictions" / "liver_1.nii.gz",
            tmp_path / "labels" / "liver_1.nii",
        )
    ]


def test_missing_and_unreferenced_are_told_everywhere(tmp_path):
    full = volume((0, 4, 1))
    save_cases(tmp_path, {"a": (full, full), "gone": (None, full), "more": (full, None)})
    evaluation = evaluate_folders(tmp_path)
    assert [pair.case for pair in evaluation.cases] == ["a"]
    assert (evaluation.missing, evaluation.unreferenced) == (("gone",), ("more",))

    content = json.loads(write_metrics(evaluation, tmp_path)[0].read_text())
    assert (content["missing"], content["unreferenced"]) == (["gone"], ["more"])
    text = " ".join(printed(evaluation).split())
    assert "1 reference(s) without a prediction, not in these numbers: gone" in text
    assert "1 prediction(s) without a reference, not in these numbers: more" in text


def test_nothing_in_common_shows_both_sides(tmp_path):
    for number in range(12):
        save(tmp_path / "predictions" / f"pred_{number:02}.nii.gz", volume())
    save(tmp_path / "labels" / "case_1.nii.gz", volume())
    with pytest.raises(UserError) as caught:
        find_pairs(tmp_path / "predictions", tmp_path / "labels")
    message = str(caught.value)
    assert "pred_00, pred_01" in message
    assert "pred_10" not in message and "and 2 more" in message
    assert "case_1" in message


def test_an_empty_folder_is_named(tmp_path):
    (tmp_path / "predictions").mkdir()
    save(tmp_path / "labels" / "case_1.nii.gz", volume())
    with pytest.raises(UserError, match="predictions: nothing"):
        find_pairs(tmp_path / "predictions", tmp_path / "labels")


def test_paths_that_cannot_be_compared(tmp_path):
    one = save(tmp_path / "labels" / "a.nii.gz", volume())
    with pytest.raises(UserError, match="absent does not exist"):
        find_pairs(tmp_path / "absent", one)
    with pytest.raises(UserError, match="folder cannot be compared with a file"):
        find_pairs(tmp_path / "labels", one)
    with pytest.raises(UserError, match="the same"):
        find_pairs(one, tmp_path / "labels" / "." / "a.nii.gz")
    save(tmp_path / "twice" / "a.nii", volume())
    save(tmp_path / "twice" / "a.nii.gz", volume())
    with pytest.raises(UserError, match=r"a\.nii and a\.nii\.gz"):
        find_pairs(tmp_path / "twice", tmp_path / "labels")


# ------------------------------------------------------------------------------ bad volumes


def mismatch(tmp_path: Path, prediction: np.ndarray, affine: np.ndarray) -> str:
    pair = Pair(
        "x",
        save(tmp_path / "mine.nii.gz", prediction, affine),
        save(tmp_path / "theirs.nii.gz", volume()),
    )
    with pytest.raises(UserError) as caught:
        evaluate([pair])
    message = str(caught.value)
    assert str(pair.prediction) in message and str(pair.reference) in message
    return message


def test_other_shape_is_refused_with_both_shapes(tmp_path):
    message = mismatch(tmp_path, volume(shape=(4, 5, 7)), np.eye(4))
    assert "(4, 5, 6) and (4, 5, 7)" in message


def test_other_spacing_is_refused_with_both_spacings(tmp_path):
    message = mismatch(tmp_path, volume(), np.diag([1, 1, 2.5, 1]))
    assert "(1.0, 1.0, 1.0) and (1.0, 1.0, 2.5)" in message


def test_a_mirror_image_in_the_world_is_refused(tmp_path):
    message = mismatch(tmp_path, volume(), np.diag([-1, 1, 1, 1]))
    assert "RAS and LAS" in message


def test_a_pair_that_cannot_be_compared_does_not_stop_the_others(tmp_path):
    good = volume((0, 4, 1))
    save_cases(
        tmp_path,
        {
            "a": (good, volume(shape=(4, 5, 7))),
            "b": (good, good),
            "c": (good.astype(np.float32) + 0.5, good),
        },
    )
    evaluation = evaluate_folders(tmp_path)
    assert [pair.case for pair in evaluation.cases] == ["b"]
    assert evaluation.failed.keys() == {"a", "c"}
    assert "shape" in evaluation.failed["a"] and "not whole numbers" in evaluation.failed["c"]
    shown = printed(evaluation)
    assert "a cannot be compared" in shown and "c cannot be compared" in shown
    json_path, _ = write_metrics(evaluation, tmp_path)
    assert json.loads(json_path.read_text())["failed"] == evaluation.failed


@pytest.mark.parametrize(
    ("labels", "complaint"),
    [
        (volume().astype(np.int16) - 1, "from -1 to -1"),
        (volume().astype(np.int32) + 70000, "from 70000 to 70000"),
        (volume().astype(np.float32) + 0.5, "not whole numbers"),
        (np.zeros((*SHAPE, 3), dtype=np.uint8), "3 channels"),
    ],
)
def test_what_is_no_label_volume_is_refused(tmp_path, labels, complaint):
    wrong = save(tmp_path / "wrong.nii.gz", labels)
    right = save(tmp_path / "right.nii.gz", volume())
    for pair in (Pair("x", wrong, right), Pair("x", right, wrong)):
        with pytest.raises(UserError, match=complaint) as caught:
            evaluate([pair])
        assert str(wrong) in str(caught.value)


# ------------------------------------------------------------------------------------ names


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (
            {"0": "background", "1": "liver", "2": "tumour"},
            {0: "background", 1: "liver", 2: "tumour"},
        ),
        (
            {"background": 0, "liver": 4, "bones": [5, 6]},
            {0: "background", 4: "liver", 5: "bones"},
        ),
        # By number, in the order of the names.
        ({"background": 0, "liver": 7, "whole": [7, 2]}, {1: "liver", 2: "whole"}),
    ],
    ids=["MSD", "nnU-Net", "regions"],
)
def test_names_from_dataset_json_one_folder_up(tmp_path, labels, expected):
    reference = save(tmp_path / "labelsTr" / "a.nii.gz", volume())
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels}))
    assert label_names_near(tmp_path / "labelsTr") == expected
    assert label_names_near(reference) == expected


def test_names_beside_the_references_win(tmp_path):
    (tmp_path / "labels").mkdir()
    (tmp_path / "dataset.json").write_text('{"labels": {"far": 1}}')
    (tmp_path / "labels" / "dataset.json").write_text('{"labels": {"near": 1}}')
    assert label_names_near(tmp_path / "labels") == {1: "near"}


def test_no_names(tmp_path):
    (tmp_path / "labels").mkdir()
    assert label_names_near(tmp_path / "labels") == {}
    (tmp_path / "dataset.json").write_text('["something else"]')
    assert label_names_near(tmp_path / "labels") == {}
    (tmp_path / "dataset.json").write_text('{"labels": ')
    with pytest.raises(UserError, match=r"dataset\.json is not valid JSON"):
        label_names_near(tmp_path / "labels")


def test_values_without_a_name_are_not_dropped(three_cases):
    assert evaluate_folders(three_cases, {0: "background", 1: "liver"}).names == {
        1: "liver",
        4: "label 4",
    }


# ---------------------------------------------------------------------------------- outputs


def refuse(constant: str) -> float:
    raise AssertionError(f"{constant} is not JSON")


def test_json_is_strict_and_complete(three_cases):
    evaluation = evaluate_folders(three_cases, {1: "Leber ü", 4: "tumour"})
    folder = output_folder(three_cases / "predictions")
    json_path, _ = write_metrics(evaluation, folder)
    assert json_path == three_cases / "predictions" / "metrics.json"
    content = json.loads(json_path.read_text(encoding="utf-8"), parse_constant=refuse)

    assert content["foreground_mean_dice"] == pytest.approx(0.35)
    assert content["summary"]["1"]["name"] == "Leber ü"
    nothing = {"mean": 0.0, "std": 0.0, "median": 0.0, "low": 0.0, "high": 0.0}
    assert content["summary"]["4"]["dice"] == {**nothing, "cases": 2}
    case = content["cases"]["a"]
    assert case["reference"] == str(three_cases / "labels" / "a.nii.gz")
    assert case["labels"]["4"]["dice"] is None
    # Six of ten voxels in a row: one ends beyond the other by one and by two.
    measured = {name: case["labels"]["1"].pop(name) for name in MEASURES}
    assert measured["dice"] == 0.6
    assert measured["iou"] == pytest.approx(3 / 7)
    assert (measured["precision"], measured["recall"]) == (0.5, 0.75)
    assert measured["volume_difference_ml"] == pytest.approx(0.002)
    assert measured["lesion_f1"] == 1
    assert 0 < measured["assd_mm"] < measured["hd95_mm"] <= measured["hd_mm"]
    assert case["labels"]["1"] == {
        "name": "Leber ü",
        "reference_ml": pytest.approx(0.004),
        "predicted_ml": pytest.approx(0.006),
        "reference_voxels": 4,
        "predicted_voxels": 6,
        "intersection_voxels": 3,
        "lesions_reference": 1,
        "lesions_predicted": 1,
        "lesions_found": 1,
        "lesions_false": 0,
    }
    assert {"dice", "foreground_mean_dice", "missing"} <= content["definitions"].keys()
    assert content["seg3d_version"]


def test_std_of_one_case_is_null(tmp_path):
    save_cases(tmp_path, {"a": (volume((1, 7, 1)), volume((0, 4, 1)))})
    evaluation = evaluate_folders(tmp_path)
    content = json.loads(write_metrics(evaluation, tmp_path)[0].read_text())
    assert content["summary"]["1"]["dice"] == {
        "mean": 0.6,
        "std": None,
        "median": 0.6,
        "cases": 1,
        "low": None,
        "high": None,
    }


def test_csv_has_one_row_per_case_and_class(three_cases, tmp_path):
    evaluation = evaluate_folders(three_cases, {1: 'a, "quoted" name'})
    _, csv_path = write_metrics(evaluation, tmp_path / "new" / "folder")
    with csv_path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["case"], row["label"]) for row in rows] == [
        (case, label) for case in "abc" for label in "14"
    ]
    assert rows[0]["name"] == 'a, "quoted" name'
    assert float(rows[0]["dice"]) == 0.6
    assert float(rows[0]["predicted_ml"]) == pytest.approx(0.006)
    assert rows[1]["dice"] == ""
    assert (rows[3]["dice"], rows[3]["reference_voxels"]) == ("0.0", "2")


def test_output_that_cannot_be_written(three_cases, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(UserError, match="--output"):
        write_metrics(evaluate_folders(three_cases), blocked)
    assert blocked.read_text() == ""


def test_output_folder_of_a_file_is_where_it_lies(tmp_path):
    assert output_folder(save(tmp_path / "a.nii", volume())) == tmp_path


def test_table_shows_cases_and_classes(three_cases):
    text = printed(evaluate_folders(three_cases, {1: "liver", 4: "[red]tumour[/red]"}))
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "a liver 0.600 1.75 0.9 0.004 0.006" in lines
    assert "[red]tumour[/red] – – – 0 0" in lines
    assert "liver 0.700 ± 0.265 0.500 to 1.000 0.600 3 of 3" in lines
    assert "[red]tumour[/red] 0.000 ± 0.000 0.000 to 0.000 0.000 2 of 3" in lines
    assert any(line.startswith("liver 1.217 0.8833") and line.endswith(" 1") for line in lines)
    assert "foreground mean 0.350" in lines


def test_table_fits_80_columns_and_cuts_nothing(tmp_path):
    case, name = "sub-0123456789_ses-baseline_acq-highres_T1w_run-02", "left_" + "x" * 60
    save_cases(tmp_path, {case: (volume((1, 7, 1)), volume((0, 4, 1)))})
    text = printed(evaluate_folders(tmp_path, {1: name}))
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "…" not in text
    assert "0.600" in text and "reference" in text and "ml" in text and "1 of 1" in text
    assert text.count("x") >= 2 * 60


def test_table_of_many_cases_shows_only_the_classes(tmp_path):
    full = volume((0, 4, 1))
    overlaps = {1: Overlap(0.004, 0.004, 4, 4, 4)}
    pair = save_cases(tmp_path, {"a": (full, full)})
    cases = {Pair(f"case{n}", pair, pair): overlaps for n in range(21)}
    text = printed(Evaluation({1: "liver"}, cases, (), ()))
    assert "case20" not in text
    assert "21 of 21" in text
