"""Every layout is recognised from real files, and every mistake in one is named."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from seg3d.common.errors import UserError
from seg3d.config import FilesConfig
from seg3d.data.cases import Case, Dataset
from seg3d.data.layouts import describe, find_dataset
from seg3d.io import read_labels, read_volume, write_volume
from tests.volumes import write_nifti

LIVER = {"background": 0, "liver": 1, "tumour": 2}


def write_files(root: Path, *names: str) -> None:
    for seed, name in enumerate(names):
        write_nifti(root / name, seed=seed)


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def write_csv(root: Path, *lines: str) -> Path:
    path = root / "dataset.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def relative(dataset: Dataset, root: Path) -> list[tuple[str, list[str], str | None]]:
    """Name, images and label of the cases to train on."""
    return [one(case, root) for case in dataset.cases]


def one(case: Case, root: Path) -> tuple[str, list[str], str | None]:
    images = [path.relative_to(root).as_posix() for path in case.images]
    return case.name, images, case.label and case.label.relative_to(root).as_posix()


def message_of(source: Path) -> str:
    with pytest.raises(UserError) as caught:
        find_dataset(source)
    return str(caught.value)


def msd(root: Path, **changes: Any) -> Path:
    """Two labelled spleens and one for testing, as the Decathlon lays them out."""
    names = ("imagesTr/s_2", "labelsTr/s_2", "imagesTr/s_10", "labelsTr/s_10", "imagesTs/s_1")
    write_files(root, *(f"{name}.nii.gz" for name in names))
    content = {
        "name": "Spleen",
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "spleen"},
        "numTraining": 2,
        "training": [
            {"image": "./imagesTr/s_2.nii.gz", "label": "./labelsTr/s_2.nii.gz"},
            {"image": "./imagesTr/s_10.nii.gz", "label": "./labelsTr/s_10.nii.gz"},
        ],
        "test": ["./imagesTs/s_1.nii.gz"],
    }
    return write_json(root / "dataset.json", content | changes)


def nnunet(root: Path, **changes: Any) -> Path:
    """Two labelled cases of two channels and one for testing, as nnU-Net v2 wants them."""
    names = ("imagesTr/a_0000", "imagesTr/a_0001", "imagesTr/b_0000", "imagesTr/b_0001")
    tests = ("imagesTs/c_0000", "imagesTs/c_0001")
    write_files(root, *(f"{name}.nii.gz" for name in (*names, *tests, "labelsTr/a", "labelsTr/b")))
    content = {
        "channel_names": {"0": "T1", "1": "T2"},
        "labels": {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3},
        "numTraining": 2,
        "file_ending": ".nii.gz",
    }
    return write_json(root / "dataset.json", content | changes)


# --- Medical Segmentation Decathlon and MONAI data lists


def test_msd(tmp_path: Path):
    msd(tmp_path)
    dataset = find_dataset(tmp_path)
    assert dataset.layout == "MSD"
    assert relative(dataset, tmp_path) == [
        ("s_10", ["imagesTr/s_10.nii.gz"], "labelsTr/s_10.nii.gz"),
        ("s_2", ["imagesTr/s_2.nii.gz"], "labelsTr/s_2.nii.gz"),
    ]
    assert [one(case, tmp_path) for case in dataset.test] == [
        ("s_1", ["imagesTs/s_1.nii.gz"], None)
    ]
    assert dataset.channels == ("CT",)
    assert dataset.labels == {"background": 0, "spleen": 1}
    assert dataset.left_out == ()
    assert {case.split for case in dataset.cases} == {None}


def test_the_files_found_are_those_that_can_be_read(tmp_path: Path):
    msd(tmp_path)
    for case in find_dataset(tmp_path).cases:
        assert case.label is not None
        image, label = read_volume(case.images[0]), read_labels(case.label)
        assert image.grid.differences(label.grid) == []


def test_a_path_to_the_json_is_as_good_as_the_folder_and_may_be_relative(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = msd(tmp_path)
    monkeypatch.chdir(tmp_path)
    dataset = find_dataset(Path("dataset.json"))
    assert dataset == find_dataset(path) == find_dataset(tmp_path) == find_dataset(".")
    assert all(file.is_absolute() for case in dataset.cases for file in case.images)


def test_msd_hidden_files_are_ignored_and_unlisted_ones_left_out(tmp_path: Path):
    msd(tmp_path)
    (tmp_path / "imagesTr" / "._s_2.nii.gz").write_bytes(b"\x00\x05\x16\x07")
    (tmp_path / "imagesTr" / "notes.txt").write_text("two spleens")
    (tmp_path / "imagesTr" / "gone.nii.gz").symlink_to(tmp_path / "nowhere.nii.gz")
    write_files(tmp_path, "labelsTr/s_3.nii.gz", "imagesTs/s_4.nii.gz")
    assert find_dataset(tmp_path).left_out == (
        ("imagesTr/gone.nii.gz", "a link to a file that does not exist"),
        ("imagesTr/notes.txt", "not a volume that seg3d reads"),
        ("labelsTr/s_3.nii.gz", "not listed in dataset.json"),
        ("imagesTs/s_4.nii.gz", "not listed in dataset.json"),
    )


def test_msd_references_of_test_cases_are_found(tmp_path: Path):
    msd(tmp_path)
    write_files(tmp_path, "labelsTs/s_1.nii.gz")
    dataset = find_dataset(tmp_path)
    assert [one(case, tmp_path) for case in dataset.test] == [
        ("s_1", ["imagesTs/s_1.nii.gz"], "labelsTs/s_1.nii.gz")
    ]
    assert dataset.left_out == ()


def test_msd_test_images_need_not_be_there(tmp_path: Path):
    msd(tmp_path, test=["./imagesTs/s_1.nii.gz", "./imagesTs/s_9.nii.gz"])
    dataset = find_dataset(tmp_path)
    assert [case.name for case in dataset.test] == ["s_1"]
    assert dataset.left_out == (
        (
            "dataset.json: ./imagesTs/s_9.nii.gz",
            "listed for testing, but not all its files exist",
        ),
    )


@pytest.mark.parametrize("key", ["image", "label"])
def test_msd_missing_training_files_are_named_with_their_key(tmp_path: Path, key: str):
    path = msd(tmp_path)
    gone = tmp_path / f"{key}sTr" / "s_10.nii.gz"
    gone.unlink()
    message = message_of(tmp_path)
    assert f"{path} lists 1 files that do not exist" in message
    assert f'training[1], "{key}": {gone}' in message


def test_five_missing_files_are_shown_and_the_rest_counted(tmp_path: Path):
    rows = [{"image": f"i{n}.nii", "label": f"l{n}.nii"} for n in range(4)]
    message = message_of(write_json(tmp_path / "list.json", {"training": rows}))
    assert "lists 8 files" in message
    assert message.count(".nii\n") == 5
    assert 'training[2], "image"' in message
    assert 'training[2], "label"' not in message
    assert "and 3 more" in message


@pytest.mark.parametrize("key", ["test", "testing"])
def test_test_entries_may_carry_a_label(tmp_path: Path, key: str):
    row = {"image": "imagesTr/s_2.nii.gz", "label": "labelsTr/s_2.nii.gz"}
    other = {"image": "imagesTr/s_10.nii.gz", "label": "labelsTr/s_10.nii.gz"}
    msd(tmp_path, **{"training": [other], "test": [], key: [row]})
    dataset = find_dataset(tmp_path)
    assert [case.name for case in dataset.cases] == ["s_10"]
    assert one(dataset.test[0], tmp_path) == ("s_2", [row["image"]], row["label"])


def test_several_images_of_a_monai_entry_are_channels(tmp_path: Path):
    write_files(tmp_path, "p/t1.nii", "p/t2.nii", "p/seg.nii")
    row = {"image": ["p/t1.nii", "p/t2.nii"], "label": "p/seg.nii"}
    path = write_json(tmp_path / "list.json", {"training": [row]})
    assert relative(find_dataset(path), tmp_path) == [("t1", row["image"], row["label"])]


def test_a_validation_list_states_the_split(tmp_path: Path):
    row = {"image": "imagesTr/s_10.nii.gz", "label": "labelsTr/s_10.nii.gz"}
    other = {"image": "imagesTr/s_2.nii.gz", "label": "labelsTr/s_2.nii.gz"}
    msd(tmp_path, training=[row], validation=[other])
    dataset = find_dataset(tmp_path)
    assert [(case.name, case.split) for case in dataset.cases] == [
        ("s_10", "train"),
        ("s_2", "val"),
    ]
    assert "split: 1 train, 1 val, as stated" in describe(dataset)


@pytest.mark.parametrize(
    ("extra", "splits"),
    [
        (({"split": "Val"}, {"split": "train"}), ["train", "val"]),
        (({"fold": 0}, {"fold": 3}), ["train", "val"]),
        (({"fold": 0}, {}), ["train", "val"]),
        (({"fold": 0}, {"fold": 0}), [None, None]),
        (({"fold": 1}, {"fold": 2}), [None, None]),
    ],
)
def test_entries_may_state_split_or_fold(
    tmp_path: Path, extra: tuple[dict[str, Any], ...], splits: list[str | None]
):
    rows = [
        {"image": f"imagesTr/{name}.nii.gz", "label": f"labelsTr/{name}.nii.gz"} | more
        for name, more in zip(("s_2", "s_10"), extra, strict=True)
    ]
    msd(tmp_path, training=rows)
    dataset = find_dataset(tmp_path)
    assert [case.split for case in dataset.cases] == splits
    assert any('"fold"' in what for what, _ in dataset.left_out) == any("fold" in e for e in extra)


def test_keys_without_use_are_left_out(tmp_path: Path):
    row = {"image": "imagesTr/s_10.nii.gz", "label": "labelsTr/s_10.nii.gz", "site": "A"}
    msd(tmp_path, training=[row, row | {"image": "imagesTr/s_2.nii.gz", "age": 5}])
    assert find_dataset(tmp_path).left_out[:2] == (
        ('dataset.json: "age"', "a key that seg3d has no use for"),
        ('dataset.json: "site"', "a key that seg3d has no use for"),
    )


@pytest.mark.parametrize("section", ["training", "validation"])
def test_training_entries_need_a_label(tmp_path: Path, section: str):
    path = msd(tmp_path, **{section: [{"image": "imagesTr/s_2.nii.gz"}]})
    assert f'{path}, {section}[0] is to train on or to validate with, but has no "label"' in (
        message_of(tmp_path)
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"training": {"a": 1}}, '"training" is not a list'),
        ({"training": ["imagesTr/s_2.nii.gz"]}, "training[0] is not an object"),
        ({"training": [{"label": "x.nii"}]}, 'training[0]: "image" does not name'),
        ({"training": [{"image": 3, "label": "x.nii"}]}, 'training[0]: "image" does not name'),
        ({"training": [{"image": "x.nii", "label": ["y.nii"]}]}, '"label" is not text'),
        (
            {"training": [{"image": "x.nii", "label": "y.nii", "split": "dev"}]},
            '"split" is unknown\n  given: dev\n  legal: train, val, test',
        ),
        ({"training": [{"image": "x.png", "label": "y.nii"}]}, "training[0]: x.png is not a vol"),
        ({"training": []}, "has no labelled case to train on"),
    ],
)
def test_malformed_data_lists(tmp_path: Path, changes: dict[str, Any], expected: str):
    msd(tmp_path, **changes)
    assert expected in message_of(tmp_path)


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ({"0": "background", "1": "liver", "2": "tumour"}, LIVER),
        (LIVER, LIVER),
        ({"background": "0", "liver": "1", "tumour": "2"}, LIVER),
        ({"background": 0, "whole": [1, 2]}, {"background": 0, "whole": [1, 2]}),
        ({"1": 1, "2": 2}, {"1": 1, "2": 2}),
        (None, None),
    ],
)
def test_both_forms_of_labels(tmp_path: Path, stated: Any, expected: Any):
    msd(tmp_path, labels=stated)
    assert find_dataset(tmp_path).labels == expected


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ({"background": 0, "liver": "one"}, "given: {'liver': 'one'}"),
        ({"background": 0, "liver": 1.5}, "given: {'liver': 1.5}"),
        ({"background": 0, "liver": True}, "given: {'liver': True}"),
        ({"background": 0, "liver": []}, "given: {'liver': []}"),
        (["background", "liver"], "given: ['background', 'liver']"),
        ({}, "given: {}"),
        ({"0": "background", "1": "liver", "2": "liver"}, "two values the name 'liver'"),
    ],
)
def test_labels_that_are_not_whole_numbers(tmp_path: Path, stated: Any, expected: str):
    path = msd(tmp_path, labels=stated)
    message = message_of(tmp_path)
    assert f'{path}: "labels"' in message
    assert expected in message


def test_channel_names_are_in_order_of_their_numbers(tmp_path: Path):
    names = {str(number): f"c{number}" for number in reversed(range(12))}
    msd(tmp_path, modality=names)
    assert find_dataset(tmp_path).channels == tuple(f"c{number}" for number in range(12))


@pytest.mark.parametrize("stated", [{"1": "CT"}, {"0": "T1", "2": "T2"}, {"0": 1}, {}, "CT", 3])
def test_channel_names_must_be_numbered_from_zero(tmp_path: Path, stated: Any):
    path = msd(tmp_path, modality=stated)
    assert f'{path}: "modality" does not name the channels' in message_of(tmp_path)


# --- nnU-Net


def test_nnunet(tmp_path: Path):
    nnunet(tmp_path)
    dataset = find_dataset(tmp_path)
    assert dataset.layout == "nnU-Net"
    assert relative(dataset, tmp_path) == [
        (name, [f"imagesTr/{name}_0000.nii.gz", f"imagesTr/{name}_0001.nii.gz"], label)
        for name, label in (("a", "labelsTr/a.nii.gz"), ("b", "labelsTr/b.nii.gz"))
    ]
    assert [one(case, tmp_path) for case in dataset.test] == [
        ("c", ["imagesTs/c_0000.nii.gz", "imagesTs/c_0001.nii.gz"], None)
    ]
    assert dataset.channels == ("T1", "T2")
    assert dataset.labels == {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}
    assert dataset.left_out == ()


def test_nnunet_test_labels_are_used_if_there(tmp_path: Path):
    nnunet(tmp_path)
    write_files(tmp_path, "labelsTs/c.nii.gz", "labelsTs/d.nii.gz")
    dataset = find_dataset(tmp_path)
    assert dataset.test[0].label == tmp_path / "labelsTs" / "c.nii.gz"
    assert [case.name for case in dataset.cases] == ["a", "b"]
    assert dataset.left_out == (("labelsTs/d.nii.gz", "no image of this name in imagesTs"),)


def test_nnunet_left_out(tmp_path: Path):
    nnunet(tmp_path, numTraining=7)
    extra = (
        "imagesTr/d_0000.nii.gz",
        "labelsTr/e.nii.gz",
        "labelsTr/a.nii",
        "imagesTs/f_0001.nii.gz",
    )
    write_files(tmp_path, *extra)
    left_out = dict(find_dataset(tmp_path).left_out)
    assert left_out == {
        "dataset.json: numTraining": "states 7, but 2 are there",
        "imagesTr/d_0000.nii.gz": "no label of this name in labelsTr, "
        "or an earlier channel is missing",
        "labelsTr/a.nii": "does not end in .nii.gz",
        "labelsTr/e.nii.gz": "no image of this name in imagesTr",
        "imagesTs/f_0001.nii.gz": "an earlier channel is missing",
    }


def test_case_names_may_end_in_four_digits(tmp_path: Path):
    write_files(tmp_path, "imagesTr/scan_2021_0000.nii.gz", "labelsTr/scan_2021.nii.gz")
    write_files(tmp_path, "imagesTs/scan_2022_0000.nii.gz")
    write_json(tmp_path / "dataset.json", {"channel_names": {"0": "CT"}, "file_ending": ".nii.gz"})
    dataset = find_dataset(tmp_path)
    assert [case.name for case in (*dataset.cases, *dataset.test)] == ["scan_2021", "scan_2022"]


def test_msd_may_have_all_channels_in_one_file(tmp_path: Path):
    msd(tmp_path, modality={"0": "T1", "1": "T2"})
    assert find_dataset(tmp_path).channels == ("T1", "T2")


def test_nnunet_unreadable_file_ending(tmp_path: Path):
    path = nnunet(tmp_path, file_ending=".png")
    message = message_of(tmp_path)
    assert f'{path}: "file_ending" is not that of a volume' in message
    assert "given: .png" in message
    assert ".nii.gz" in message


def test_nnunet_without_matching_files(tmp_path: Path):
    nnunet(tmp_path, file_ending=".nrrd")
    assert "no image in imagesTr belongs to a label in labelsTr" in message_of(tmp_path)
    write_json(tmp_path / "empty" / "dataset.json", {"file_ending": ".nii.gz"})
    assert "no folder imagesTr; no folder labelsTr" in message_of(tmp_path / "empty")


def test_nnunet_v1_lists_files_without_the_number_of_the_channel(tmp_path: Path):
    nnunet(tmp_path)
    rows = [
        {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"}
        for name in "ab"
    ]
    content = {
        "modality": {"0": "T1", "1": "T2"},
        "labels": {"0": "background", "1": "whole"},
        "training": rows,
        "test": ["./imagesTs/c.nii.gz"],
    }
    write_json(tmp_path / "dataset.json", content)
    v1 = find_dataset(tmp_path)
    assert v1.layout == "nnU-Net v1"
    nnunet(tmp_path)
    v2 = find_dataset(tmp_path)
    assert (v1.cases, v1.test, v1.left_out) == (v2.cases, v2.test, v2.left_out)


def test_nnunet_explicit_files(tmp_path: Path):
    write_files(tmp_path, "a/t1.nii.gz", "a/t2.nii.gz", "a/seg.nii.gz", "d/imagesTs/c_0000.nii.gz")
    write_files(tmp_path, "d/imagesTs/c_0001.nii.gz")
    images = ["../a/t1.nii.gz", "../a/t2.nii.gz"]
    files = {"case a": {"images": images, "label": str(tmp_path / "a" / "seg.nii.gz")}}
    content = {"channel_names": ["T1", "T2"], "file_ending": ".nii.gz", "dataset": files}
    write_json(tmp_path / "d" / "dataset.json", content)
    dataset = find_dataset(tmp_path / "d")
    (case,) = dataset.cases
    assert case.name == "case a"
    assert [path.resolve() for path in case.images] == [
        tmp_path.resolve() / "a" / "t1.nii.gz",
        tmp_path.resolve() / "a" / "t2.nii.gz",
    ]
    assert [test.name for test in dataset.test] == ["c"]

    write_json(tmp_path / "d" / "dataset.json", content | {"dataset": {"case a": images}})
    assert 'dataset["case a"] does not name its files' in message_of(tmp_path / "d")


# --- Folders


@pytest.mark.parametrize("folders", [("images", "labels"), ("imagesTr", "labelsTr")])
def test_folders(tmp_path: Path, folders: tuple[str, str]):
    images, labels = folders
    write_files(tmp_path, f"{images}/x.nii.gz", f"{images}/y.v2.nii", f"{images}/z.nii")
    write_files(tmp_path, f"{labels}/x.nii", f"{labels}/y.v2.nii.gz", f"{labels}/w.nii")
    write_files(tmp_path, "imagesTs/x9.nii")
    dataset = find_dataset(tmp_path)
    assert dataset.layout == f"folders {images} and {labels}"
    assert relative(dataset, tmp_path) == [
        ("x", [f"{images}/x.nii.gz"], f"{labels}/x.nii"),
        ("y.v2", [f"{images}/y.v2.nii"], f"{labels}/y.v2.nii.gz"),
    ]
    assert [case.name for case in dataset.test] == ["x9"]
    assert dataset.channels is None
    assert dataset.labels is None
    assert [what for what, _ in dataset.left_out] == [f"{images}/z.nii", f"{labels}/w.nii"]


def test_folders_with_numbered_channels(tmp_path: Path):
    write_files(tmp_path, "images/x_0000.nii", "images/x_0001.nii", "labels/x.nii.gz")
    write_files(tmp_path, "imagesTs/y_0000.nii", "imagesTs/y_0001.nii")
    dataset = find_dataset(tmp_path)
    files = ["images/x_0000.nii", "images/x_0001.nii"]
    assert relative(dataset, tmp_path) == [("x", files, "labels/x.nii.gz")]
    assert [(case.name, len(case.images)) for case in dataset.test] == [("y", 2)]


def test_folders_whose_names_do_not_match(tmp_path: Path):
    write_files(tmp_path, "images/x.nii.gz", "labels/x_seg.nii.gz")
    message = message_of(tmp_path)
    assert "given: images holds x.nii.gz; labels holds x_seg.nii.gz" in message
    assert "dataset.csv" in message


def test_links_to_nowhere_are_no_files(tmp_path: Path):
    write_files(tmp_path, "images/x.nii", "labels/x.nii", "labels/y.nii")
    (tmp_path / "images" / "y.nii").symlink_to(tmp_path / "nowhere.nii")
    dataset = find_dataset(tmp_path)
    assert [case.name for case in dataset.cases] == ["x"]
    assert dataset.left_out == (
        ("images/y.nii", "a link to a file that does not exist"),
        ("labels/y.nii", "no image of this name in images"),
    )


def test_two_files_of_one_name(tmp_path: Path):
    write_files(tmp_path, "images/x.nii.gz", "images/x.nii", "labels/x.nii.gz")
    assert "given: x.nii and x.nii.gz" in message_of(tmp_path)


def test_same_name_for_training_and_testing(tmp_path: Path):
    write_files(tmp_path, "images/x.nii", "labels/x.nii", "images/y.nii", "labels/y.nii")
    write_files(tmp_path, "imagesTs/x.nii")
    dataset = find_dataset(tmp_path)
    assert [case.name for case in dataset.cases] == ["images_x", "y"]
    assert [case.name for case in dataset.test] == ["imagesTs_x"]


# --- Lists


def test_csv(tmp_path: Path):
    write_files(tmp_path, "t1/a.nii", "t2/a.nii", "seg/a.nii", "t1/b.nii", "t2/b.nii", "seg/b.nii")
    write_files(tmp_path, "t1/c.nii", "t2/c.nii", "t1/d.nii", "t2/d.nii", "seg/d.nii")
    path = write_csv(
        tmp_path,
        "Label,image2,IMAGE,split,name",
        "seg/b.nii,t2/b.nii,t1/b.nii,val,Bob",
        f"{tmp_path}/seg/a.nii, t2/a.nii,t1/a.nii,train,",
        ",,,,",
        ",t2/c.nii,t1/c.nii,,",
        "seg/d.nii,t2/d.nii,t1/d.nii,test,",
    )
    dataset = find_dataset(path)
    assert dataset.layout == "CSV list"
    assert relative(dataset, tmp_path) == [
        ("Bob", ["t1/b.nii", "t2/b.nii"], "seg/b.nii"),
        ("a", ["t1/a.nii", "t2/a.nii"], "seg/a.nii"),
    ]
    assert [case.split for case in dataset.cases] == ["val", "train"]
    assert [one(case, tmp_path) for case in dataset.test] == [
        ("c", ["t1/c.nii", "t2/c.nii"], None),
        ("d", ["t1/d.nii", "t2/d.nii"], "seg/d.nii"),
    ]
    assert dataset == find_dataset(tmp_path)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_csv_as_spreadsheets_write_it(tmp_path: Path, separator: str, newline: str, mark: str):
    write_files(tmp_path, "a, b.nii", "é.nii")
    text = newline.join([f"image{separator}label", f'"a, b.nii"{separator}é.nii', ""])
    (tmp_path / "dataset.csv").write_bytes((mark + text).encode())
    assert relative(find_dataset(tmp_path), tmp_path) == [("a, b", ["a, b.nii"], "é.nii")]


def test_image_columns_are_in_order_of_their_numbers(tmp_path: Path):
    numbers = [10, 2, 9, 3, 8, 4, 7, 5, 6]
    write_files(tmp_path, "s.nii", "1.nii", *(f"{number}.nii" for number in numbers))
    columns = ",".join(f"image{number}" for number in numbers)
    files = ",".join(f"{number}.nii" for number in numbers)
    write_csv(tmp_path, f"{columns},image,label", f"{files},1.nii,s.nii")
    (case,) = find_dataset(tmp_path).cases
    assert [path.name for path in case.images] == [f"{number}.nii" for number in range(1, 11)]


def test_json_list(tmp_path: Path):
    write_files(tmp_path, "a1.nii", "a2.nii", "as.nii", "b1.nii", "b2.nii")
    rows = [
        {"image": ["a1.nii", "a2.nii"], "label": "as.nii", "name": "Ann"},
        {"image": "b1.nii", "image2": "b2.nii", "label": None},
    ]
    write_json(tmp_path / "dataset.json", rows)
    dataset = find_dataset(tmp_path)
    assert dataset.layout == "JSON list"
    assert relative(dataset, tmp_path) == [("Ann", ["a1.nii", "a2.nii"], "as.nii")]
    assert [one(case, tmp_path) for case in dataset.test] == [("b1", ["b1.nii", "b2.nii"], None)]


def test_repeated_names_get_their_folder_in_front(tmp_path: Path):
    scans = ["A/1/t1", "A/2/t1", "B/1/t1", "B/1/t2"]
    write_files(tmp_path, *(f"{scan}{end}.nii" for scan in scans for end in ("", "_seg")))
    write_csv(tmp_path, "image,label", *(f"{scan}.nii,{scan}_seg.nii" for scan in scans))
    names = [case.name for case in find_dataset(tmp_path).cases]
    assert names == ["2_t1", "A_1_t1", "B_1_t1", "t2"]


def test_names_that_differ_in_case_only_repeat(tmp_path: Path):
    write_files(tmp_path, "p/x.nii", "q/X.nii", "s.nii")
    write_csv(tmp_path, "image,label", "p/x.nii,s.nii", "q/X.nii,s.nii")
    assert [case.name for case in find_dataset(tmp_path).cases] == ["p_x", "q_X"]


@pytest.mark.skipif(sys.platform != "linux", reason="names are text")
def test_names_that_are_no_text(tmp_path: Path):
    write_files(tmp_path, "images/\udcff.nii.gz", "labels/\udcff.nii.gz")
    with pytest.raises(UserError, match=r"\\udcff: this name is not in UTF-8"):
        find_dataset(tmp_path)


def test_names_are_safe_as_file_names(tmp_path: Path):
    write_files(tmp_path, "a.nii", "s.nii")
    write_csv(tmp_path, "image,label,name", "a.nii,s.nii,../sub-1/ses:2?")
    assert [case.name for case in find_dataset(tmp_path).cases] == ["_sub-1_ses_2_"]


def test_a_name_of_nothing_but_dots(tmp_path: Path):
    write_files(tmp_path, "a.nii", "s.nii")
    write_csv(tmp_path, "image,label,name", "a.nii,s.nii,..")
    assert "given: '..'" in message_of(tmp_path)


def test_a_case_listed_twice(tmp_path: Path):
    write_files(tmp_path, "a.nii", "s.nii")
    write_csv(tmp_path, "image,label", "a.nii,s.nii", "a.nii,s.nii")
    message = message_of(tmp_path)
    assert "more than one case called 'a'" in message
    assert str(tmp_path / "a.nii") in message


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["image,lable"], "line 1: 'lable' is unknown\n  given: image, lable\n  legal: image, "),
        (["image,label,label"], "line 1: 'label' occurs twice"),
        (["label,name"], "line 1: 'image' is missing"),
        ([""], "is empty"),
        (["image,label", "", "a.nii,s.nii,x"], "line 3 does not fit the header"),
        (["image,label", "a.nii"], "line 2 does not fit the header\n  given: 1 cells: a.nii"),
        (["image,label", 'a.nii,"s.nii'], "line 2 is not valid CSV"),
        (["image,label", ",s.nii"], 'line 2: "image" does not name'),
        (["image,image2,label", "a.nii,,s.nii"], 'line 2: "image" does not name'),
        (["image,label", "a.nii,s.tif"], "line 2: s.tif is not a volume that seg3d reads"),
        (["image,label,split", "a.nii,s.nii,dev"], 'line 2: "split" is unknown\n  given: dev'),
        (["image,label,split", "a.nii,,val"], "line 2 is to train on or to validate with, but has"),
        (["image,label", "a.nii,gone.nii"], 'line 2, "label": '),
        (["image,label", "a.nii,"], "has no labelled case to train on"),
        (["image,label,split", "a.nii,s.nii,test"], "given: CSV list: 1 cases, all for testing"),
    ],
)
def test_malformed_tables(tmp_path: Path, lines: list[str], expected: str):
    write_files(tmp_path, "a.nii", "s.nii")
    path = write_csv(tmp_path, *lines)
    message = message_of(tmp_path)
    assert message.startswith(str(path))
    assert expected in message


def test_a_table_that_is_not_text(tmp_path: Path):
    (tmp_path / "dataset.csv").write_bytes(b"image,label\n\xff\xfe,x\n")
    assert "dataset.csv is not a text file" in message_of(tmp_path)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], "no labelled case"),
        (["a.nii"], "[0] is not an object"),
        ([{"image": "a.nii", "label": "s.nii"}, {"img": "a.nii"}], "[1]: 'img' is unknown"),
        ([{"image": [], "label": "s.nii"}], '[0]: "image" does not name'),
        ([{"image": "a.nii", "label": "s.nii", "name": 7}], '[0]: "name" is not text'),
    ],
)
def test_malformed_json_lists(tmp_path: Path, rows: Any, expected: str):
    write_files(tmp_path, "a.nii", "s.nii")
    write_json(tmp_path / "dataset.json", rows)
    assert expected in message_of(tmp_path)


# --- What is not a dataset


def test_missing_source(tmp_path: Path):
    assert f"{tmp_path / 'nowhere'} does not exist" in message_of(tmp_path / "nowhere")


def test_a_file_of_another_kind(tmp_path: Path):
    write_files(tmp_path, "a.nii")
    message = message_of(tmp_path / "a.nii")
    assert "a.nii is not a dataset" in message
    assert ".json or .csv" in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{\n"training": [,]}', "not valid JSON\n  given: Expecting value: line 2"),
        ('{"name": "x", "size": 3}', "does not describe a dataset\n  given: keys name, size"),
        ('"spleen"', "does not describe a dataset\n  given: 'spleen'"),
    ],
)
def test_json_that_is_no_dataset(tmp_path: Path, text: str, expected: str):
    (tmp_path / "dataset.json").write_text(text)
    assert expected in message_of(tmp_path)


def test_unrecognised_folder_says_what_was_looked_for_and_what_is_there(tmp_path: Path):
    for number in range(12):
        (tmp_path / f"scan_{number:02d}.dcm").touch()
    (tmp_path / "imagesTr").mkdir()
    message = message_of(tmp_path)
    assert "it holds imagesTr/, scan_00.dcm" in message
    assert "scan_08.dcm, and 3 more" in message
    assert "dataset.json" in message
    assert "dataset.csv" in message
    assert "labelsTr" in message


def test_empty_folder(tmp_path: Path):
    assert "it holds nothing" in message_of(tmp_path)


def test_a_dataset_one_folder_further_down_is_pointed_at(tmp_path: Path):
    msd(tmp_path / "Task09_Spleen")
    assert f"did you mean {tmp_path / 'Task09_Spleen'}?" in message_of(tmp_path)


def test_two_lists_in_one_folder(tmp_path: Path):
    path = msd(tmp_path)
    write_csv(tmp_path, "image,label", "imagesTr/s_2.nii.gz,labelsTr/s_2.nii.gz")
    assert "holds both dataset.json and dataset.csv" in message_of(tmp_path)
    assert len(find_dataset(path).cases) == 2


# --- In words


def test_describe(tmp_path: Path):
    path = nnunet(tmp_path)
    write_files(tmp_path, *(f"labelsTr/z{number:02d}.nii.gz" for number in range(12)))
    assert describe(find_dataset(tmp_path)).splitlines() == [
        f"dataset: {path} (nnU-Net)",
        "  cases: 2 with label, 1 for testing",
        "  images: 2 files per case: T1, T2",
        "  labels: background 0, whole 1+2, core 2, ignore 3",
        "  left out: 12",
        *(
            f"    labelsTr/z{number:02d}.nii.gz: no image of this name in imagesTr"
            for number in range(10)
        ),
        "    and 2 more",
    ]


def test_describe_says_no_more_than_the_source(tmp_path: Path):
    write_files(tmp_path, "images/x.nii", "labels/x.nii")
    assert describe(find_dataset(tmp_path)).splitlines() == [
        f"dataset: {tmp_path} (folders images and labels)",
        "  cases: 1 with label, 0 for testing",
        "  images: 1 file per case",
    ]


# Folders within folders, and segmentations of 3D Slicer


def test_files_by_pattern(tmp_path):
    for case in ("01", "02", "03"):
        anat = f"sub-{case}/anat/sub-{case}"
        write_files(tmp_path, f"{anat}_T1w.nii.gz", f"{anat}_acq-x_T2w.nii.gz")
    write_files(tmp_path, *(f"derivatives/m/sub-0{n}/sub-0{n}_dseg.nii" for n in (1, 2)))
    write_files(tmp_path, "sub-04/anat/sub-04_T1w.nii.gz", "sub-05/anat/sub-50_T1w.nii.gz")
    files = FilesConfig(
        images=["sub-CASE/anat/sub-CASE_T1w.nii.gz", "sub-CASE/anat/sub-CASE_*_T2w.nii.gz"],
        label="derivatives/m/sub-CASE/sub-CASE_dseg.nii",
    )
    dataset = find_dataset(tmp_path, files=files)
    assert relative(dataset, tmp_path) == [
        (case, [f"sub-{case}/anat/sub-{case}_{image}.nii.gz" for image in ("T1w", "acq-x_T2w")],
         f"derivatives/m/sub-{case}/sub-{case}_dseg.nii")
        for case in ("01", "02")
    ]  # fmt: skip
    assert [case.name for case in dataset.test] == ["03"]
    assert [what for what, _ in dataset.left_out] == ["sub-04/anat/sub-04_T1w.nii.gz"]


def test_a_pattern_for_images_may_fit_the_labels(tmp_path):
    write_files(tmp_path, "a.nii", "a_seg.nii", "b.nii")
    dataset = find_dataset(tmp_path, files=FilesConfig(images=["CASE.nii"], label="CASE_seg.nii"))
    assert relative(dataset, tmp_path) == [("a", ["a.nii"], "a_seg.nii")]
    assert [case.name for case in dataset.test] == ["b"]


@pytest.mark.parametrize(
    "images, label, expected",
    [
        (["CASE/a.nii"], None, "only the images or only the label"),
        ([], "CASE/a.nii", "only the images or only the label"),
        (["x/a.nii"], "CASE/b.nii", "does not say where cases are found"),
        (["../CASE.nii"], "CASE/b.nii", "does not say where cases are found"),
        (["/CASE.nii"], "CASE/b.nii", "does not say where cases are found"),
        (["CASE/*.nii"], "CASE/b.nii", "fits two volumes of p"),
        (["CASE/c.nii"], "CASE/b.nii", "CASE/c.nii fits 0 files; CASE/b.nii fits 1 files"),
    ],
)
def test_patterns_that_find_nothing(tmp_path, images, label, expected):
    write_files(tmp_path, "p/a.nii", "p/b.nii", "p/d.nii")
    with pytest.raises(UserError, match=expected):
        find_dataset(tmp_path, files=FilesConfig(images=images, label=label))


def write_nrrd(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    volume = read_volume(write_nifti(path.parent / "x.nii"))
    write_volume(path, volume.array, volume.header)
    (path.parent / "x.nii").unlink()


def test_segmentations_beside_their_images(tmp_path):
    for name in ("a.nrrd", "a.seg.nrrd", "b.nrrd", "b.seg.nrrd", "c.nrrd", "d.seg.nrrd"):
        write_nrrd(tmp_path / name)
    dataset = find_dataset(tmp_path)
    assert relative(dataset, tmp_path) == [
        ("a", ["a.nrrd"], "a.seg.nrrd"), ("b", ["b.nrrd"], "b.seg.nrrd")
    ]  # fmt: skip
    assert [case.name for case in dataset.test] == ["c"]
    assert dataset.left_out == (("d.seg.nrrd", "no image of this name"),)


def test_segmentations_among_images_and_labels(tmp_path):
    for name in ("images/a.nrrd", "images/a.seg.nrrd", "labels/a.seg.nrrd", "labels/a.nrrd"):
        write_nrrd(tmp_path / name)
    dataset = find_dataset(tmp_path)
    assert relative(dataset, tmp_path) == [("a", ["images/a.nrrd"], "labels/a.seg.nrrd")]
    assert ("images/a.seg.nrrd", "a segmentation beside its image") in dataset.left_out
