"""What `seg3d check` finds, and what it leaves in peace."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from seg3d.checking import Kind, Level, check_dataset
from seg3d.checking.json_report import as_json
from seg3d.checking.words import problem_lines, summary
from seg3d.common.errors import UserError
from seg3d.config import config_from_tree
from seg3d.data.fingerprint import take_fingerprints
from seg3d.data.layouts import find_dataset
from seg3d.synth.dataset import write_dataset
from tests.broken import (
    AFFINE,
    SHAPE,
    check,
    cut,
    found,
    image,
    label,
    moved,
    seed_of,
    write_case,
    write_good,
)
from tests.dicom_series import write_slice
from tests.io.segy.test_interpretations import made
from tests.volumes import reorder, save_nifti

MIRROR = np.diag([-1, 1, 1, 1.0])


def with_numbers(value: float) -> np.ndarray:
    voxels = image().astype("float32")
    voxels[0, 0, :3] = value
    return voxels


def image_and_label_that_are_cut(root: Path) -> None:
    write_case(root, "x")
    cut(root / "images" / "x.nii.gz")
    write_case(root, "y")
    cut(root / "labels" / "y.nii.gz")


def two_headers_that_are_cut(root: Path) -> None:
    write_case(root, "x")
    for path in (root / "images" / "x.nii.gz", root / "labels" / "x.nii.gz"):
        path.write_bytes(path.read_bytes()[:50])


def sform_and_qform(root: Path) -> None:
    write_case(root, "x")
    one = nib.Nifti1Image(image(), AFFINE)
    one.set_sform(AFFINE, 1)
    one.set_qform(moved(20, 0, 0), 1)
    nib.save(one, root / "images" / "x.nii.gz")


def other_order(root: Path) -> None:
    write_case(root, "x")
    reorder(root / "labels" / "x.nii.gz", np.array([[2, 1], [0, -1], [1, 1]]))


def same_voxels(root: Path) -> None:
    write_case(root, "x")
    shutil.copy(root / "images" / "a.nii.gz", root / "images" / "x.nii.gz")


def leftovers(root: Path) -> None:
    save_nifti(root / "images" / "alone.nii.gz", image())
    save_nifti(root / "labels" / "lonely.nii.gz", label())
    (root / "labels" / "notes.txt").write_text("x")


BROKEN: dict[str, tuple[Callable[[Path], object], set[tuple[str, str]]]] = {
    "cut": (image_and_label_that_are_cut, {("unreadable", "x"), ("unreadable", "y")}),
    "cut headers": (two_headers_that_are_cut, {("unreadable", "x")}),
    "channels": (
        lambda root: write_case(root, "x", np.stack([image(7), image(8)], -1)),
        {("channels", "x")},
    ),
    "shape": (lambda root: write_case(root, "x", labels=label()[1:]), {("grid", "x")}),
    "shift": (lambda root: write_case(root, "x", label_affine=moved(3, 0, 0)), {("grid", "x")}),
    "mirrored label": (
        lambda root: write_case(root, "x", label_affine=MIRROR @ AFFINE),
        {("grid", "x")},
    ),
    "a little apart": (
        lambda root: write_case(root, "x", label_affine=moved(0, 0.004, 0)),
        {("apart", "x")},
    ),
    "nan": (lambda root: write_case(root, "x", with_numbers(np.nan)), {("not-finite", "x")}),
    "inf": (lambda root: write_case(root, "x", with_numbers(-np.inf)), {("not-finite", "x")}),
    "all nan": (
        lambda root: write_case(root, "x", np.full(SHAPE, np.nan, "float32")),
        {("not-finite", "x")},
    ),
    "fractions": (
        lambda root: write_case(root, "x", labels=label() * np.float32(0.5)),
        {("label-values", "x")},
    ),
    "negative": (
        lambda root: write_case(root, "x", labels=-label().astype("int16")),
        {("label-values", "x")},
    ),
    "label of channels": (
        lambda root: write_case(root, "x", labels=np.stack([label(), label()], -1)),
        {("label-values", "x")},
    ),
    "image as label": (
        lambda root: write_case(root, "x", labels=np.arange(720, dtype="int16").reshape(SHAPE)),
        {("label-values", "x")},
    ),
    "floats": (
        lambda root: write_case(root, "x", labels=label().astype("float32")),
        {("float-labels", "x")},
    ),
    "255": (lambda root: write_case(root, "x", labels=label() * 255), {("mask-255", "x")}),
    "empty": (lambda root: write_case(root, "x", labels=label() * 0), {("empty", "x")}),
    "mirrored": (lambda root: write_case(root, "x", affine=MIRROR @ AFFINE), {("mirrored", "x")}),
    "forms": (sform_and_qform, {("header", "x")}),
    "constant": (
        lambda root: write_case(root, "x", np.full(SHAPE, 3, "int16")),
        {("constant", "x")},
    ),
    "hounsfield": (lambda root: write_case(root, "x", image() - 1024), {("hounsfield", "x")}),
    "same voxels": (same_voxels, {("same-voxels", "x")}),
    "leftovers": (leftovers, {("left-out", "")}),
    "order of axes": (other_order, {("axes", "x")}),
}


@pytest.mark.parametrize("name", BROKEN)
def test_every_kind_is_found_and_nothing_else(tmp_path: Path, name: str) -> None:
    spoil, expected = BROKEN[name]
    spoil(write_good(tmp_path))
    report = check(tmp_path)
    assert found(report) == expected
    [worst] = {Kind(kind).level for kind, _ in expected}
    assert report.level == worst
    lines = "\n".join(problem_lines(report.problems))
    assert "to do: " in lines or "legal: " in lines


def test_a_good_dataset_has_no_problem(tmp_path: Path) -> None:
    report = check(write_good(tmp_path))
    assert found(report) == set() and report.level == Level.HARMLESS == 0
    assert summary(report) == "3 cases: nothing is wrong"
    look = report.looks[0]
    stored = image(seed_of("a"))
    assert look.image is not None and look.image.grid.shape == SHAPE
    assert (look.lowest, look.highest) == ([stored.min()], [stored.max()])
    marked = int(label(seed_of("a")).sum())
    assert look.labels == {0: stored.size - marked, 1: marked}


def test_one_case_is_looked_at_for_all_that_is_wrong_with_it(tmp_path: Path) -> None:
    voxels = with_numbers(np.nan) - 2000
    labels = label().astype("float32") * 255
    write_case(write_good(tmp_path), "x", voxels, labels, label_affine=moved(3, 0, 0))
    (tmp_path / "images" / "alone.nii").write_bytes(b"")
    report = check(tmp_path, labels={"liver": 1, "spleen": 2})
    assert found(report) == {
        ("grid", "x"), ("not-finite", "x"), ("unnamed", "x"), ("float-labels", "x"),
        ("mask-255", "x"), ("hounsfield", "x"), ("absent", ""), ("left-out", ""),
    }  # fmt: skip
    [absent] = [one for one in report.problems if one.kind is Kind.ABSENT]
    assert absent.what == "no labelled case contains spleen"


def test_errors_are_said_as_training_says_them(tmp_path: Path) -> None:
    root = write_good(tmp_path)
    write_case(root, "nan", with_numbers(np.nan))
    write_case(root, "shift", label_affine=moved(3, 0, 0))
    write_case(root, "half", labels=label() * np.float32(0.5))
    write_case(root, "five", labels=label() * 5)
    write_case(root, "two", np.stack([image(1), image(2)], -1))
    image_and_label_that_are_cut(root)
    report = check(root, labels={"liver": 1})
    with pytest.raises(UserError) as refused:
        take_fingerprints(find_dataset(root), "RAS", {0, 1}, {0})
    errors = [one for one in report.problems if one.kind.level == Level.ERROR]
    assert len(errors) == 7
    for one in errors:
        for words in (one.what, one.given, one.legal, one.fix):
            assert words is None or words in str(refused.value)


def test_channels_in_files_that_do_not_fit(tmp_path: Path) -> None:
    for name in "abc":
        for channel, affine in enumerate((AFFINE, moved(5, 0, 0) if name == "c" else AFFINE)):
            voxels = image(channel + ord(name)).astype("float32")
            if name == "c" and channel == 1:
                voxels[0, 0, 0] = np.nan
            save_nifti(tmp_path / "images" / f"{name}_000{channel}.nii.gz", voxels, affine)
        save_nifti(tmp_path / "labels" / f"{name}.nii.gz", label(), AFFINE)
    shutil.copy(tmp_path / "images" / "b_0000.nii.gz", tmp_path / "images" / "b_0001.nii.gz")
    report = check(tmp_path)
    # The channels of c are looked at one by one.
    assert found(report) == {("channels", "c"), ("not-finite", "c"), ("same-voxels", "b")}


def test_missing_slices_of_dicom(tmp_path: Path) -> None:
    write_good(tmp_path)
    for number in (0, 1, 2, 4, 5):
        write_slice(
            tmp_path / "series" / f"{number}.dcm", image()[..., number].copy(), (0, 0, 2 * number)
        )
    rows = ["image,label", *(f"images/{name}.nii.gz,labels/{name}.nii.gz" for name in "abc")]
    (tmp_path / "dataset.csv").write_text("\n".join([*rows, "series,labels/c.nii.gz"]) + "\n")
    report = check(tmp_path)
    assert found(report) == {("slices", "series")}
    assert report.problems[0].fix == "complete the series"


def test_names_of_labels(tmp_path: Path) -> None:
    write_good(tmp_path)
    assert found(check(tmp_path, labels={"liver": 2})) == {("unnamed", name) for name in "abc"} | {
        ("absent", "")
    }
    assert found(check(tmp_path, labels={"liver": 2, "rest": "background"})) == {
        ("empty", name) for name in "abc"
    } | {("nothing", "")}
    write_case(tmp_path, "a", labels=label() * 255)
    named = {"liver": 1, "ignore": 255}
    assert found(check(tmp_path, labels=named)) == {("empty", "a")}


def test_cases_for_testing_are_looked_at(tmp_path: Path) -> None:
    for name in "abc":
        save_nifti(tmp_path / "imagesTr" / f"{name}_0000.nii.gz", image(ord(name)), AFFINE)
        save_nifti(tmp_path / "labelsTr" / f"{name}.nii.gz", label(ord(name)), AFFINE)
    save_nifti(tmp_path / "imagesTs" / "x_0000.nii.gz", with_numbers(np.nan), AFFINE)
    shutil.copy(tmp_path / "imagesTr" / "a_0000.nii.gz", tmp_path / "imagesTs" / "y_0000.nii.gz")
    for channel in (0, 1):
        save_nifti(tmp_path / "imagesTs" / f"z_000{channel}.nii.gz", image(channel), AFFINE)
    content = {
        "channel_names": {"0": "T1"}, "labels": {"background": 0, "liver": 1},
        "numTraining": 3, "file_ending": ".nii.gz",
    }  # fmt: skip
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    assert found(check(tmp_path)) == {
        ("not-finite", "x"), ("same-voxels", "y"), ("other-files", "z"),
    }  # fmt: skip


def test_what_is_fine(tmp_path: Path) -> None:
    rounded = moved(4e-4, 0, 0)
    write_case(tmp_path, "a", image(1) * np.float32(0.5), label_affine=rounded)
    write_case(tmp_path, "b", labels=label().astype("int64"))
    save_nifti(tmp_path / "images" / "c.nii", image(3), AFFINE)
    save_nifti(tmp_path / "labels" / "c.nii.gz", label(3), AFFINE)
    assert found(check(tmp_path)) == set()
    # All of them stored as radiologists do.
    for name in "abc":
        write_case(tmp_path / "las", name, affine=MIRROR @ AFFINE)
    assert found(check(tmp_path / "las")) == set()


def test_surveys_are_fine_and_have_no_ml(tmp_path: Path) -> None:
    pytest.importorskip("segyio")
    write_dataset(tmp_path / "s", "faults", count=2, shape=(16, 16, 16), seed=0, ending=".sgy")
    report = check(tmp_path / "s")
    assert not {kind for kind, _ in found(report)} & {"float-labels", "mirrored", "unreadable"}
    cases = json.loads(as_json(report))["cases"]
    for one in cases.values():
        assert one["labels"]["0"]["voxels"] > 0 and one["labels"]["0"]["ml"] is None


def test_long_lists_are_cut_and_counted(tmp_path: Path) -> None:
    write_good(tmp_path)
    for number in range(13):
        write_case(tmp_path, f"x{number:02}", labels=label() * 0)
    report = check(tmp_path)
    lines = list(problem_lines(report.problems))
    assert lines[0] == "warning: nothing but background in the label (13)"
    assert lines[1] == "  x00: nothing but background in the label"
    assert lines[11] == "  and 3 more"
    assert lines[12].startswith("  to do: ") and len(lines) == 13
    assert len(json.loads(as_json(report))["problems"]) == 13


def test_json_says_it_all(tmp_path: Path) -> None:
    write_case(write_good(tmp_path), "x", np.full(SHAPE, np.inf, "float32"))
    content = json.loads(as_json(check(tmp_path, labels={"liver": 1})))
    assert (content["errors"], content["warnings"]) == (1, 0)
    assert content["names"] == {"0": "background", "1": "liver"}
    x, a = content["cases"]["x"], content["cases"]["a"]
    assert x["lowest"] == x["highest"] == [None]
    assert a["shape"] == list(SHAPE) and a["spacing"] == [1, 1, 2] and a["orientation"] == "RAS"
    marked = int(label(seed_of("a")).sum())
    assert a["labels"]["1"] == {"voxels": marked, "ml": pytest.approx(marked * 2 / 1000)}
    [problem] = content["problems"]
    assert (problem["level"], problem["kind"], problem["case"]) == ("error", "not-finite", "x")


def test_a_bar_counts_every_case(tmp_path: Path) -> None:
    image_and_label_that_are_cut(write_good(tmp_path))
    steps: list[int] = []
    check_dataset(find_dataset(tmp_path), config_from_tree({}), lambda: steps.append(1))
    assert len(steps) == 5


def test_horizons_are_labels_too(tmp_path: Path) -> None:
    made(tmp_path)
    report = check(tmp_path, labels={"horizons": ["top.dat", "base.dat"], "reach": 2})
    assert found(report) == set()
    assert set(report.looks[0].labels) == {1, 2, 3, 127}
    lowest = report.looks[0].lowest
    picks = tmp_path / "horizons" / "F3" / "base.dat"
    picks.write_text("not a pick")
    report = check(tmp_path, labels={"horizons": ["top.dat", "base.dat"], "reach": 2})
    assert found(report) == {("unreadable", "F3")}
    # The survey itself is looked at all the same.
    assert report.looks[0].lowest == lowest and len(lowest) == 1
