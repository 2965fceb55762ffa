"""What is said about data that can be used, and where it is written down."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from rich.console import Console

from seg3d.common.errors import UserError
from seg3d.common.notes import SHOWN, Note, in_lines
from seg3d.config import config_from_tree
from seg3d.data.training_case import TrainingCase
from seg3d.info import volume_info
from seg3d.io.convert import convert_volume
from seg3d.runs.run_folder import Run
from seg3d.training.loop import train_prepared
from seg3d.training.preparation import PRINTED_NOTES, Prepared, prepare
from tests.conftest import Cli
from tests.plans import only
from tests.volumes import affine_of, save_nifti

SHAPE = (18, 17, 16)
NAMES = tuple("abcdef")


def write_case(folder: Path, name: str, **replaced: Any) -> None:
    """A noisy volume with a cube in it; ``image`` and ``label`` can be given instead."""
    label = np.zeros(SHAPE, np.uint8)
    label[5:11, 4:11, 3:12] = 1
    image = np.random.default_rng(ord(name[-1])).normal(0, 20, SHAPE) + 50 * label
    for part, voxels in {"image": image.astype(np.int16), "label": label, **replaced}.items():
        save_nifti(folder / f"{part}s" / f"{name}.nii.gz", voxels)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Six cases of which nothing is to be said."""
    for name in NAMES:
        write_case(tmp_path / "data", name)
    return tmp_path / "data"


def prepared_from(data: Path, *overrides: str) -> tuple[Prepared, str]:
    """What training would go on with, and what was printed."""
    tree = {"data": {"folder": str(data), "workers": 0, "folds": 2}}
    console = Console(file=io.StringIO(), width=200)
    prepared = prepare(
        config_from_tree(tree, overrides), Run(data / "run"), False, console, torch.device("cpu")
    )
    return prepared, console.file.getvalue()  # type: ignore[attr-defined]


def told(data: Path, *overrides: str) -> tuple[list[str], str]:
    """The notes, and what was printed."""
    prepared, printed = prepared_from(data, *overrides)
    return prepared.notes, printed


def test_headers_that_do_not_fit_are_refused_before_voxels_are_read(data: Path) -> None:
    cut = data / "images" / "a.nii.gz"
    cut.write_bytes(cut.read_bytes()[:-100])
    write_case(data, "b", label=np.zeros((5, 6, 7), np.uint8))
    with pytest.raises(UserError) as refused:
        prepared_from(data)
    message = str(refused.value)
    assert "1 of 6 labelled cases cannot be used:" in message and "seg3d check" in message
    assert "damaged" not in message
    write_case(data, "b")
    with pytest.raises(UserError, match="damaged"):
        prepared_from(data)


def test_nothing_is_said_about_usual_data(data: Path) -> None:
    notes, printed = told(data)
    assert notes == []
    assert "Note" not in printed


def test_labels_of_background_alone(data: Path) -> None:
    write_case(data, "b", label=np.zeros(SHAPE, np.uint8))
    write_case(data, "e", label=np.full(SHAPE, 9, np.uint8))
    notes, printed = told(data, "data.labels={cube: 1, ignore: 9}")
    assert notes == [
        "nothing but background in the label: b.",
        "no voxel has a label, and no patch is drawn: e.",
    ]
    assert "Note: nothing but background in the label: b.\n" in printed


def test_volumes_of_one_value(data: Path) -> None:
    write_case(data, "c", image=np.full(SHAPE, -7, np.int16))
    assert told(data)[0] == ["all voxels of channel 0 have the same value: c (-7)."]


def test_intensities_like_those_of_ct(data: Path) -> None:
    image = np.random.default_rng(0).normal(0, 200, SHAPE).astype(np.int16).clip(-500)
    write_case(data, "a", image=image)
    assert told(data)[0] == []
    image[0, 0, 0] = -1024
    write_case(data, "a", image=image)
    (note,) = told(data)[0]
    assert note.startswith("values below -500, as of CT, and no name of the channel: a (-1024). If")
    assert told(data, "preprocess.intensity=ct")[0] == []
    assert told(data, "preprocess.intensity=zscore")[0] == []
    rows = [{"image": f"images/{n}.nii.gz", "label": f"labels/{n}.nii.gz"} for n in NAMES]
    described = {"training": rows, "modality": {"0": "MR"}, "labels": {"0": "rest", "1": "cube"}}
    (data / "dataset.json").write_text(json.dumps(described))
    assert told(data)[0] == []


def test_patches_larger_than_volumes(data: Path) -> None:
    larger = np.zeros((32, 32, 32), np.uint8)
    larger[4:9] = 1
    write_case(data, "a", image=larger.astype(np.int16), label=larger)
    assert told(data)[0] == []
    (note,) = told(data, "patch.size=[32, 16, 16]")[0]
    assert note == (
        "patch.size, [32, 16, 16], is larger than the volume, which is padded: "
        "b ([18, 17, 16]), c ([18, 17, 16]), d ([18, 17, 16]), e ([18, 17, 16]), f ([18, 17, 16])."
    )
    # Half the spacing makes twice the voxels.
    assert told(data, "patch.size=[32, 16, 16]", "preprocess.spacing=[0.5, 1, 1]")[0] == []


def test_one_volume_under_two_names(data: Path) -> None:
    for name in "abcdef":
        write_case(data, name, image=nib.load(data / "images/a.nii.gz").get_fdata().astype("f4"))
    (note,) = told(data)[0]
    assert note.startswith("the same voxels in training and in validation: ")
    assert note.count(" and ") == 1 + SHOWN + 1  # "training and", the pairs, how many more
    assert " and 4 more. Validation" in note  # of three times three pairs


def test_twins_on_one_side_are_not_worth_a_word(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for name in "abc":
        write_case(data, name)
    write_case(data, "b", image=nib.load(data / "images/a.nii.gz").get_fdata().astype("i2"))
    rows = [
        {"image": f"images/{n}.nii.gz", "label": f"labels/{n}.nii.gz", "split": split}
        for n, split in (("a", "train"), ("b", "train"), ("c", "val"))
    ]
    (data / "dataset.json").write_text(json.dumps(rows))
    assert told(data)[0] == []
    rows[1]["split"], rows[2]["split"] = "val", "train"
    (data / "dataset.json").write_text(json.dumps(rows))
    assert told(data)[0] == [
        "the same voxels in training and in validation: a and b. "
        "Validation scores say less about new volumes."
    ]


@pytest.mark.parametrize(("shift", "odd"), [(0.4, False), (0.6, True)])
def test_two_positions_in_one_header(data: Path, shift: float, odd: bool) -> None:
    path = data / "images" / "d.nii.gz"
    image = nib.load(path)
    spacing = (2, 2, 3)
    image.set_sform(affine_of(spacing), 1)
    image.set_qform(affine_of(spacing, origin=(0, 2 * shift, 0)), 1)
    nib.save(image, path)
    label = nib.load(data / "labels" / "d.nii.gz")
    label.set_sform(affine_of(spacing), 2)
    label.set_qform(None, 0)
    nib.save(label, data / "labels" / "d.nii.gz")
    said = f"sform and qform put voxels in different places; the sform is used: {path} (0.6 voxels"
    assert [note.startswith(said) for note in told(data)[0]] == [True] * odd


def test_a_qform_that_is_not_one(data: Path) -> None:
    path = data / "images" / "d.nii"
    image = nib.load(data / "images" / "d.nii.gz")
    image.set_sform(np.eye(4), 1)
    image.set_qform(np.eye(4), 1)
    image.header["quatern_b"] = 5
    nib.save(image, path)
    (data / "images" / "d.nii.gz").unlink()
    assert told(data)[0] == [f"the qform is not a position; the sform is used: {path}."]


def test_test_cases_without_a_channel(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for name in ("a", "b"):
        write_case(data, name)
        for part, ending in (("images", "_0000"), ("labels", "")):
            target = data / f"{part}Tr" / f"{name}{ending}.nii.gz"
            target.parent.mkdir(exist_ok=True)
            (data / part / f"{name}.nii.gz").rename(target)
        image = nib.load(data / "imagesTr" / f"{name}_0000.nii.gz").get_fdata().astype("f4")
        save_nifti(data / "imagesTr" / f"{name}_0001.nii.gz", image + 1)
    save_nifti(data / "imagesTs" / "c_0000.nii.gz", np.zeros(SHAPE, np.int16))
    assert told(data)[0] == ["for testing, and without the 2 image files of the others: c."]


@pytest.mark.parametrize(("rest", "stands_for"), [("background", 0), ("ignore", 9)])
def test_values_that_no_class_has(data: Path, rest: str, stands_for: int) -> None:
    """They train as if the files had the value that they stand for."""
    strays = np.zeros(SHAPE, np.int32)
    strays[5:11, 4:11, 3:12] = 1
    as_stored, as_meant = strays.copy(), strays.copy()
    as_stored[0, 0, :4] = -1, 7, 70_000, 2**31 - 1
    as_meant[0, 0, :4] = stands_for
    overrides = f"data.labels={{cube: 1, ignore: [9, 8], rest: {rest}}}"
    with pytest.raises(UserError, match=r"values from -1 to 2147483647"):
        write_case(data, "b", label=as_stored)
        told(data, "data.labels={cube: 1, ignore: [9, 8]}")
    arrays = []
    for label in (as_stored, as_meant):
        write_case(data, "b", label=label)
        prepared, printed = prepared_from(data, overrides)
        [case] = [one for one in prepared.train + prepared.val if one.name == "b"]
        assert prepared.plan.rest == rest
        said = "ignored" if rest == "ignore" else rest
        assert f"classes: background, cube; other values are {said}\n" in printed
        with TrainingCase(case, prepared.plan) as opened:
            arrays.append([numbers for _, _, numbers in opened.blocks()])
    assert np.array_equal(*arrays)
    assert set(np.unique(arrays[0])) == ({1, 2} if rest == "background" else {0, 1, 2})


def test_convert_and_info_say_it_too(tmp_path: Path) -> None:
    image = nib.nifti1.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4))
    image.set_qform(affine_of(origin=(0, 0, 9)), 1)
    path = tmp_path / "a.nii"
    nib.save(image, path)
    said = "sform and qform put voxels in different places; the sform is used"
    notes = convert_volume(path, tmp_path / "b.nii.gz", Console(quiet=True))
    assert notes == [f"{path} (9 voxels apart): {said}"]
    assert f"note        {said}: {path} (9 voxels apart)" in volume_info(path)


def test_notes_are_in_the_log_all_of_them(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seg3d.training.preparation.PRINTED_NOTES", 1)
    write_case(data, "b", label=np.zeros(SHAPE, np.uint8))
    write_case(data, "c", image=np.full(SHAPE, -7, np.int16))
    tree = {
        "data": {"folder": str(data), "workers": 0, "folds": 2},
        "augment": only(),
        "patch": {"size": [16, 16, 16]},
        "network": {"channels": [3, 4]},
        "train": {"epochs": 1, "iterations_per_epoch": 1},
    }
    run, console = Run(data.parent / "run"), Console(file=io.StringIO(), width=200)
    prepared = prepare(config_from_tree(tree), run, False, console, torch.device("cpu"))
    assert train_prepared(prepared, run, "cpu", False, console) == "finished"
    first, *epochs = [json.loads(row) for row in run.log.read_text().splitlines()]
    assert first == {
        "epoch": 0,
        "notes": [
            "nothing but background in the label: b.",
            "all voxels of channel 0 have the same value: c (-7).",
        ],
    }
    assert [row["epoch"] for row in epochs] == [1]
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert printed.count("Note: ") == 2
    assert f"Note: 1 more in {run.log}\n" in printed
    assert PRINTED_NOTES > 1


def test_many_places_are_counted() -> None:
    notes = [Note("odd", str(number)) for number in range(SHOWN + 2)]
    notes.insert(1, Note("even", "x", "Look at it."))
    assert in_lines(notes) == ["odd: 0, 1, 2, 3, 4 and 2 more.", "even: x. Look at it."]


def test_the_command_says_which_settings_have_no_effect(data: Path, cli: Cli) -> None:
    (data / "c.yaml").write_text("train: {epochs: 1}\n")
    overrides = ("train.warmup=0.1", "network.channels=[3, 4]", "data.folder=nowhere")
    settings = [word for one in overrides for word in ("--set", one)]
    # There is no such fold: no time is spent on training.
    train = ("train", data / "c.yaml", "--data", data, "--run", data / "run", "--fold", 9)
    done = cli(*train, *settings, status=2)
    assert "Note: --set train.warmup has no effect: train.optimizer is sgd.\n" in done.stdout
    assert "Note: --set data.folder has no effect: it is set again after that.\n" in done.stdout
    assert done.stdout.count("has no effect") == 2
