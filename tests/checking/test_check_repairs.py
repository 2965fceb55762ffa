"""What `seg3d check --fix` writes, what it leaves, and that it touches nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from seg3d.checking.copy import copy_dataset, require_copyable
from seg3d.checking.repair import Repaired, repair_dataset
from seg3d.checking.repairs import find_repairs
from seg3d.checking.words import repair_lines
from seg3d.common.errors import UserError
from seg3d.common.printing import make_console
from seg3d.config import config_from_tree
from seg3d.data.layouts import find_dataset
from seg3d.io import read_volume
from tests.broken import (
    AFFINE,
    GOOD,
    check,
    cut,
    fingerprint_of,
    found,
    image,
    label,
    moved,
    write_case,
    write_good,
)
from tests.volumes import reorder, save_nifti

MIRROR = np.diag([-1, 1, 1, 1.0])


def repair(root: Path, target: Path, nan: float | None = None, **data: Any) -> Repaired:
    before = fingerprint_of(root)
    config = config_from_tree({"data": data})
    done = repair_dataset(check(root, **data), config, target, nan, make_console(quiet=True))
    assert fingerprint_of(root) == before
    # Nothing unfinished lies beside the copy.
    assert not [path for path in target.parent.iterdir() if path.name.startswith(f".{target.name}")]
    return done


def repaired_label(root: Path, tmp_path: Path, **data: Any) -> tuple[np.ndarray, nib.Nifti1Image]:
    """Voxels and file of the label of x, when everything could be repaired."""
    done = repair(root, tmp_path / "copy", **data)
    assert done.folder == tmp_path / "copy" and found(done.left) == set()
    for name in GOOD:
        for folder in ("images", "labels"):
            file = f"{folder}/{name}.nii.gz"
            assert (done.folder / file).read_bytes() == (root / file).read_bytes()
    stored = nib.load(done.folder / "labels" / "x.nii.gz")
    assert np.array_equal(stored.affine, nib.load(done.folder / "images" / "x.nii.gz").affine)
    return np.asanyarray(stored.dataobj), stored


def test_axes_are_put_in_the_order_of_the_image(tmp_path: Path) -> None:
    root = write_good(tmp_path / "data")
    write_case(root, "x", labels=label(5))
    reorder(root / "labels" / "x.nii.gz", np.array([[2, 1], [0, -1], [1, 1]]))
    voxels, _ = repaired_label(root, tmp_path)
    assert np.array_equal(voxels, label(5)) and voxels.dtype == np.uint8


@pytest.mark.parametrize("affine", [moved(3, 0, 0), moved(0.004, 0, 0), np.eye(4)])
def test_the_affine_of_the_image_is_copied(tmp_path: Path, affine: np.ndarray) -> None:
    root = write_good(tmp_path / "data")
    write_case(root, "x", labels=label(5), label_affine=affine)
    voxels, _ = repaired_label(root, tmp_path)
    assert np.array_equal(voxels, label(5))


def test_an_affine_that_says_nothing_gives_way_to_any(tmp_path: Path) -> None:
    for name in (*GOOD, "x"):
        affine = np.eye(4) if name == "x" else None
        write_case(tmp_path / "data", name, affine=MIRROR @ AFFINE, label_affine=affine)
    repaired_label(tmp_path / "data", tmp_path)


def test_whole_numbers_become_integers(tmp_path: Path) -> None:
    root = write_good(tmp_path / "data")
    write_case(root, "x", labels=label(5) * np.float32(1.0004))
    write_case(root, "a", labels=label(6) * 2)
    voxels, stored = repaired_label(root, tmp_path)
    assert np.array_equal(voxels, label(5)) and stored.get_data_dtype() == np.uint8


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_255_becomes_1(tmp_path: Path, dtype: str) -> None:
    root = write_good(tmp_path / "data")
    write_case(root, "x", labels=(label(5) * 255).astype(dtype))
    voxels, stored = repaired_label(root, tmp_path, labels={"liver": 1})
    assert np.array_equal(voxels, label(5)) and stored.get_data_dtype() == np.uint8


def test_255_stays_where_it_could_be_one_of_several(tmp_path: Path) -> None:
    root = write_good(tmp_path / "data")
    write_case(root, "a", labels=label(5) * 2)
    write_case(root, "x", labels=label(5) * 255)
    done = repair(root, tmp_path / "copy")
    assert done.folder is None and not (tmp_path / "copy").exists()
    assert ("mask-255", "x") in found(done.left)
    assert list(repair_lines(done))[0].startswith("nothing that --fix could repair")


def test_nan_becomes_what_was_said(tmp_path: Path) -> None:
    root = write_good(tmp_path / "data")
    voxels = image(5).astype("float32")
    voxels[0, 0, :3] = np.nan, np.inf, -np.inf
    write_case(root, "x", voxels)
    assert repair(root, tmp_path / "copy").folder is None
    done = repair(root, tmp_path / "copy", nan=-7)
    assert found(done.left) == set()
    expected = voxels.copy()
    expected[0, 0, :3] = -7
    copied = read_volume(tmp_path / "copy" / "images" / "x.nii.gz")
    assert np.array_equal(copied.array[0], expected)
    assert np.array_equal(copied.grid.affine, AFFINE)


def test_values_without_a_name_survive(tmp_path: Path) -> None:
    root = write_good(tmp_path / "data")
    labels = label(5).astype("float32")
    labels[0, 0, 0] = 300
    write_case(root, "x", labels=labels)
    voxels, stored = repaired_label(root, tmp_path, labels={"liver": 1, "rest": "background"})
    assert np.array_equal(voxels, labels) and stored.get_data_dtype() == np.int32


def test_only_the_channel_with_nan_is_written_anew(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for name in "abc":
        for channel in (0, 1):
            voxels = image(channel + 2 * ord(name)).astype("float32")
            voxels[0, 0, 0] = np.nan if (name, channel) == ("c", 1) else 0
            save_nifti(root / "images" / f"{name}_000{channel}.nii.gz", voxels, AFFINE)
        save_nifti(root / "labels" / f"{name}.nii.gz", label(), AFFINE)
    done = repair(root, tmp_path / "copy", nan=0)
    assert done.done == ("images/c_0001.nii.gz: NaN and infinities replaced by 0",)
    assert found(done.left) == set()


def test_channels_get_the_affine_of_the_first(tmp_path: Path) -> None:
    for name in "abc":
        for channel, affine in enumerate((AFFINE, moved(5, 0, 0) if name == "c" else AFFINE)):
            path = tmp_path / "data" / "images" / f"{name}_000{channel}.nii.gz"
            save_nifti(path, image(channel + ord(name)), affine)
        save_nifti(tmp_path / "data" / "labels" / f"{name}.nii.gz", label(), AFFINE)
    done = repair(tmp_path / "data", tmp_path / "copy")
    assert found(done.left) == set()
    assert done.done == ("images/c_0001.nii.gz: affine of the first channel copied",)


def test_what_is_in_doubt_is_left_and_said(tmp_path: Path) -> None:
    root = write_good(tmp_path / "data")
    write_case(root, "small", labels=label()[1:])
    write_case(root, "mirrored", label_affine=MIRROR @ AFFINE)
    write_case(root, "half", labels=label() * np.float32(0.5))
    write_case(root, "cut", labels=label().astype("float32"), label_affine=moved(1, 0, 0))
    cut(root / "labels" / "cut.nii.gz")
    write_case(root, "x", labels=label().astype("float32"))
    save_nifti(root / "images" / "alone.nii.gz", image())
    done = repair(root, tmp_path / "copy")
    assert done.done == (
        "labels/x.nii.gz: whole numbers stored as integers",
        "1 file that no case uses was not copied",
    )
    assert found(done.left) == {
        ("grid", "small"), ("grid", "mirrored"), ("label-values", "half"),
        ("grid", "cut"), ("unreadable", "cut"),
    }  # fmt: skip
    lines = "\n".join(repair_lines(done))
    assert f"repaired copy: {tmp_path / 'copy'}" in lines and "5 errors" in lines
    assert not (tmp_path / "copy" / "images" / "alone.nii.gz").exists()
    for name in ("small", "mirrored", "half", "cut"):
        file = f"labels/{name}.nii.gz"
        assert (tmp_path / "copy" / file).read_bytes() == (root / file).read_bytes()


def test_lists_descriptions_and_detached_files_come_along(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_good(root)
    nib.save(nib.Nifti1Pair(image(9), AFFINE), root / "images" / "pair.img")
    save_nifti(root / "labels" / "pair.nii.gz", label(9).astype("float32"), AFFINE)
    rows = ["image,label", *(f"images/{name}.nii.gz,labels/{name}.nii.gz" for name in GOOD)]
    (root / "dataset.csv").write_text("\n".join([*rows, "images/pair.hdr,labels/pair.nii.gz"]))
    (root / "LICENSE").write_text("free")
    done = repair(root, tmp_path / "copy")
    assert found(done.left) == set()
    assert fingerprint_of(tmp_path / "copy").keys() == fingerprint_of(root).keys()


def test_a_file_that_cases_share_is_left(tmp_path: Path) -> None:
    root = write_good(tmp_path / "data")
    save_nifti(root / "labels" / "a.nii.gz", label().astype("float32"), AFFINE)
    rows = ["image,label", *(f"images/{name}.nii.gz,labels/a.nii.gz" for name in GOOD)]
    (root / "dataset.csv").write_text("\n".join(rows))
    assert repair(root, tmp_path / "copy").folder is None


def refusal(root: Path, target: Path) -> str:
    with pytest.raises(UserError) as refused:
        require_copyable(find_dataset(root), target)
    return str(refused.value)


def test_targets_that_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    root = write_good(tmp_path / "data")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    (tmp_path / "link").symlink_to(root)
    for target in (root, root / "copy", tmp_path, tmp_path / "link" / "copy"):
        assert "would change the dataset itself" in refusal(root, target)
    assert "is not an empty folder" in refusal(root, tmp_path / "full")
    assert "is not an empty folder" in refusal(root, tmp_path / "full" / "x")


def test_lists_that_name_files_elsewhere_are_refused(tmp_path: Path) -> None:
    write_good(tmp_path / "data")
    (tmp_path / "lists").mkdir()
    relative = "../data/images/{0}.nii.gz,../data/labels/{0}.nii.gz"
    rows = ["image,label", *(relative.format(name) for name in GOOD)]
    (tmp_path / "lists" / "dataset.csv").write_text("\n".join(rows))
    assert "names files outside of its folder" in refusal(tmp_path / "lists", tmp_path / "copy")
    # Absolute paths would lead back from the copy to where they have led.
    write_case(tmp_path / "data", "a", labels=label().astype("float32"))
    absolute = f"{tmp_path}/data/images/{{0}}.nii.gz,{tmp_path}/data/labels/{{0}}.nii.gz"
    rows = ["image,label", *(absolute.format(name) for name in GOOD)]
    (tmp_path / "data" / "dataset.csv").write_text("\n".join(rows))
    with pytest.raises(UserError, match="names files outside of its folder"):
        repair(tmp_path / "data", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_nothing_remains_of_a_copy_that_fails(tmp_path: Path) -> None:
    root = write_good(tmp_path / "data")
    write_case(root, "x", labels=label().astype("float32"))
    report = check(root)
    repairs = find_repairs(report, None)
    assert list(repairs) == [root / "labels" / "x.nii.gz"]
    # Between the look and the copy a file is damaged.
    cut(root / "labels" / "x.nii.gz")
    with pytest.raises(UserError, match="damaged"):
        copy_dataset(report.dataset, config_from_tree({}), repairs, tmp_path / "in" / "copy")
    assert not (tmp_path / "in").exists()


def test_an_empty_folder_is_a_target(tmp_path: Path) -> None:
    root = write_good(tmp_path / "data")
    write_case(root, "x", labels=label().astype("float32"))
    (tmp_path / "copy").mkdir()
    assert repair(root, tmp_path / "copy").folder is not None
