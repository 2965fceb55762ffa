"""A file is there whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import numpy as np
import pytest

from seg3d.common.errors import UserError
from seg3d.common.files import UnfinishedFolder, atomic_write, full_disk_explained, reserve
from seg3d.geometry import Grid
from seg3d.io import Header, create_volume
from seg3d.io.regions import whole
from seg3d.prediction.tiling import Tiling
from seg3d.prediction.unfinished import Task, Unfinished
from tests.full_disk import files_no_longer_than


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_write_makes_the_folder_and_leaves_the_file_alone_in_it(tmp_path):
    target = tmp_path / "a" / "b" / "file.txt"
    with atomic_write(target) as temporary:
        temporary.write_text("whole")
        assert not target.exists()
        assert temporary.parent == target.parent
    assert target.read_text() == "whole"
    assert names(target.parent) == ["file.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failed_write_keeps_the_old_file_and_nothing_else(tmp_path, error):
    target = tmp_path / "file.txt"
    target.write_text("old")
    with pytest.raises(error), atomic_write(target) as temporary:
        temporary.write_text("half")
        raise error
    assert target.read_text() == "old"
    assert names(tmp_path) == ["file.txt"]


def test_a_failed_first_write_leaves_no_file(tmp_path):
    with pytest.raises(ValueError), atomic_write(tmp_path / "file.txt") as temporary:
        temporary.write_text("half")
        raise ValueError
    assert names(tmp_path) == []


def test_a_file_that_cannot_take_its_name_is_removed(tmp_path):
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    with pytest.raises(OSError), atomic_write(tmp_path / "folder") as temporary:
        temporary.write_text("whole")
    assert names(tmp_path) == ["folder"]


def test_the_temporary_name_is_hidden_and_ends_as_asked(tmp_path):
    with atomic_write(tmp_path / "volume.nii.gz", suffix=".nii.gz") as temporary:
        assert temporary.name.startswith(".")
        assert temporary.name.endswith(".nii.gz")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_permissions_follow_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        with atomic_write(tmp_path / "file.txt") as temporary:
            temporary.write_text("")
        assert stat.S_IMODE((tmp_path / "file.txt").stat().st_mode) == 0o666 & ~umask
        assert os.umask(umask) == umask
    finally:
        os.umask(before)


# Folders


def filled(folder: UnfinishedFolder, text: str) -> UnfinishedFolder:
    (folder.temporary / "inside").write_text(text)
    return folder


def test_a_folder_appears_when_it_is_finished(tmp_path):
    folder = filled(UnfinishedFolder(tmp_path / "a" / "b"), "new")
    assert not (tmp_path / "a" / "b").exists()
    folder.finish()
    folder.discard()
    assert (tmp_path / "a" / "b" / "inside").read_text() == "new"
    assert names(tmp_path / "a") == ["b"]


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "old").write_text("old")
    filled(UnfinishedFolder(tmp_path / "b"), "new").finish()
    assert names(tmp_path / "b") == ["inside"]
    assert names(tmp_path) == ["b"]


def test_a_discarded_folder_leaves_what_was_there(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "old").write_text("old")
    filled(UnfinishedFolder(tmp_path / "b"), "new").discard()
    assert names(tmp_path / "b") == ["old"]
    assert names(tmp_path) == ["b"]


def test_a_folder_that_cannot_take_its_name_leaves_the_old_one(tmp_path, monkeypatch):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "old").write_text("old")
    folder = filled(UnfinishedFolder(tmp_path / "b"), "new")
    monkeypatch.setattr(folder.temporary.__class__, "chmod", lambda path, mode: None)
    folder.discard()
    with pytest.raises(FileNotFoundError):
        folder.finish()
    assert names(tmp_path / "b") == ["old"]
    assert names(tmp_path) == ["b"]


# Space


def test_reserved_space_is_there(tmp_path):
    with (tmp_path / "file").open("wb") as file:
        reserve(file, 10_000, tmp_path)
    assert (tmp_path / "file").stat().st_size == 10_000


def test_more_than_the_disk_has_cannot_be_reserved(tmp_path):
    with (
        (tmp_path / "file").open("wb") as file,
        pytest.raises(
            UserError,
            match=r"not enough space .*\n.* [KMG]iB are free\n.* 1000000000\.00 GiB\n.* do: move",
        ),
    ):
        reserve(file, 10**9 * 2**30, tmp_path, fix="move")


def test_no_space_for_the_metadata_of_a_store(tmp_path):
    header = Header(Grid((2, 2, 2), np.eye(4)), 1, None)
    with (
        pytest.raises(UserError, match=r"a\.zarr: no more space on the disk"),
        files_no_longer_than(10),
    ):
        create_volume(tmp_path / "a.zarr", header, "uint8")
    assert list(tmp_path.iterdir()) == []


def test_no_space_for_what_a_prediction_notes_down(tmp_path):
    unfinished = Unfinished(tmp_path / "a.nii")
    task = Task({"network": "x" * 1000}, Tiling((2, 2, 2), ((0, 2), (0, 2)), 1, False, 1, 1), [])
    arrays = {"labels": (np.dtype("uint8"), 1)}
    full = r"a\.nii\.unfinished(/task\.json)?: no more space on the disk"
    with pytest.raises(UserError, match=full), files_no_longer_than(500):
        unfinished.begin(task, (2, 2, 2), arrays)
    assert list(tmp_path.iterdir()) == []
    unfinished.begin(task, (2, 2, 2), arrays)
    with pytest.raises(UserError, match=full), files_no_longer_than(10):
        unfinished.note(whole((2, 2, 2)), 0)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_explained(tmp_path, number):
    with (
        pytest.raises(UserError, match=r"volume.nii: no more space on the disk"),
        full_disk_explained(tmp_path / "volume.nii"),
    ):
        raise OSError(number, os.strerror(number))


def test_other_errors_of_the_system_are_not(tmp_path):
    with pytest.raises(PermissionError), full_disk_explained(tmp_path / "volume.nii"):
        raise PermissionError
