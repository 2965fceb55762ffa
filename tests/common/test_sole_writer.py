"""An output has one writer at a time, and a killed one leaves nothing in the way."""

from __future__ import annotations

import os
import time
from pathlib import Path
from threading import Thread

import pytest

from seg3d.common.errors import UserError
from seg3d.common.files import UnfinishedFile, remove_unfinished
from seg3d.common.sole_writer import NOTES, sole_writer
from tests.writers import another_writer, start

# When told to, tries to be the writer for a while.
RIVAL = """
import sys, time
from pathlib import Path
from seg3d.common.errors import UserError
from seg3d.common.sole_writer import sole_writer
print("ready", flush=True)
sys.stdin.readline()
try:
    with sole_writer(Path(sys.argv[1])):
        print("won", flush=True)
        sys.stdin.readline()
except UserError:
    print("lost", flush=True)
"""


def names(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.iterdir())


def test_a_second_writer_is_refused_in_one_line_until_the_first_has_ended(tmp_path):
    output, other = tmp_path / "new" / "liver.nii.gz", tmp_path / "new" / "spleen.nii.gz"
    with another_writer(output):
        with pytest.raises(UserError) as raised, sole_writer(other, output):
            raise AssertionError
        assert str(raised.value).startswith(f"{output} is being written by another process")
        assert "\n" not in str(raised.value)
        # By another way to the same folder, too.
        (tmp_path / "link").symlink_to(output.parent)
        with pytest.raises(UserError), sole_writer(tmp_path / "link" / output.name):
            raise AssertionError
        with sole_writer(other):
            other.touch()
    with sole_writer(output):
        output.touch()
    assert names(output.parent) == [output.name, other.name]


def test_of_processes_that_start_together_one_wins(tmp_path):
    rivals = [start(RIVAL, tmp_path / "out" / "file") for _ in range(4)]
    for rival in rivals:
        assert rival.stdout.readline() == "ready\n"
    for rival in rivals:
        rival.stdin.write("\n")
        rival.stdin.flush()
    said = [rival.stdout.readline().strip() for rival in rivals]
    assert sorted(said) == ["lost", "lost", "lost", "won"]
    # The one that won has held it until all others have tried.
    for rival in rivals:
        rival.communicate("\n", timeout=60)
    assert not (tmp_path / "out").exists()


def test_whoever_is_first_by_the_clock_has_seen_that_the_folder_was_missing(tmp_path, monkeypatch):
    """Or the folder would stay: who made it has lost, and who has won took it for an old one."""
    output, clock, seen = tmp_path / "out" / "file", time.time_ns, []

    def read_clock():
        seen.append(output.parent.exists())
        return clock()

    monkeypatch.setattr(time, "time_ns", read_clock)
    with sole_writer(output):
        assert output.parent.exists()
    assert seen == [False] and not output.parent.exists()


def test_what_a_killed_writer_leaves_is_removed_and_nothing_else(tmp_path):
    output = tmp_path / "liver.nii.gz"
    own = tmp_path / ".liver.nii.gz.mybackup"
    own.touch()
    os.utime(own, (1, 1))
    (tmp_path / ".liver.nii.gz.unfinished").mkdir()
    with another_writer(output, tmp_path / "stack.zarr") as process:
        # As it would have written.
        (tmp_path / ".liver.nii.gz.abcd_123").touch()
        (tmp_path / ".stack.zarr.abcd_123").mkdir()
        (tmp_path / ".spleen.nii.gz.abcd_123").touch()
        process.kill()
    assert (tmp_path / NOTES).is_dir()
    # Whatever the next one writes there.
    with sole_writer(tmp_path / "other"):
        pass
    assert names(tmp_path) == [
        ".liver.nii.gz.mybackup",
        ".liver.nii.gz.unfinished",
        ".spleen.nii.gz.abcd_123",
    ]


def test_a_writer_that_was_killed_before_it_had_said_what_it_writes(tmp_path):
    (tmp_path / NOTES).mkdir()
    (tmp_path / NOTES / "1.lock").touch()
    (tmp_path / NOTES / "1.begun").write_text("[")
    with sole_writer(tmp_path / "file"):
        pass
    assert names(tmp_path) == []


def test_a_killed_writer_does_not_keep_the_next_one_waiting(tmp_path):
    with another_writer(tmp_path / "file") as process:
        process.kill()
    began = time.monotonic()
    with sole_writer(tmp_path / "file"):
        pass
    assert time.monotonic() - began < 0.4


def test_the_same_block_may_ask_again_but_not_another_thread(tmp_path):
    refused = []

    def ask() -> None:
        try:
            with sole_writer(tmp_path / "a"):
                pass
        except UserError as error:
            refused.append(error)

    with sole_writer(tmp_path / "a", tmp_path / "b"):
        with sole_writer(tmp_path / "b"):
            pass
        thread = Thread(target=ask)
        thread.start()
        thread.join()
    assert len(refused) == 1
    assert names(tmp_path) == []


def test_more_outputs_than_files_that_may_be_open(tmp_path):
    with sole_writer(*(tmp_path / str(number) for number in range(3000))):
        assert len(os.listdir("/proc/self/fd") if Path("/proc").is_dir() else []) < 1000


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc")
def test_a_folder_that_cannot_be_written_to():
    # Nor can root.
    with (
        pytest.raises(UserError, match="/proc/x: nothing can be written there"),
        sole_writer(Path("/proc/x/file")),
    ):
        raise AssertionError


def test_a_folder_that_was_about_to_be_replaced_gets_its_name_back(tmp_path):
    # As `put_in_place` leaves them between its two renames.
    aside, made = tmp_path / ".stack.zarr.abcd_123", tmp_path / ".stack.zarr.efgh_456"
    (aside / "stack.zarr" / "old").mkdir(parents=True)
    (made / "new").mkdir(parents=True)
    remove_unfinished(tmp_path / "stack.zarr")
    assert names(tmp_path) == ["stack.zarr"]
    assert names(tmp_path / "stack.zarr") == ["old"]


@pytest.mark.parametrize("name, suffix", [("last.pt", ""), ("splits.json", ".json")])
def test_a_file_that_is_being_written_is_known_by_its_name(tmp_path, name, suffix):
    unfinished = UnfinishedFile(tmp_path / name, suffix)
    assert len(names(tmp_path)) == 1
    remove_unfinished(tmp_path / "other")
    assert unfinished.temporary.exists()
    # As if the process that writes it were dead.
    remove_unfinished(tmp_path / name)
    assert names(tmp_path) == []
