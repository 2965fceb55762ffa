"""What is left of a prediction whose process was killed may be damaged too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from seg3d.common.errors import UserError
from seg3d.prediction.tiling import Tiling
from seg3d.prediction.unfinished import Task, Unfinished

SHAPE = (4, 2, 2)
WHOLE = (slice(0, 4), slice(0, 2), slice(0, 2))


@pytest.fixture
def begun(tmp_path: Path) -> Unfinished:
    unfinished = Unfinished(tmp_path / "a.nii")
    task = Task({"network": "x"}, Tiling((2, 2, 2), ((0, 2), (0, 2)), 1, False, 1, 1), [])
    unfinished.begin(task, SHAPE, {"labels": (np.dtype("uint8"), 1)})
    return unfinished


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "",
        lambda text: "[1]",
        lambda text: text[:-9],
        lambda text: text.replace("borders", "edges"),
        lambda text: text.replace("[0, 2]", "[-7, 2]"),
        lambda text: "[" * 300,
    ],
)
def test_a_task_that_is_damaged(begun: Unfinished, change) -> None:
    file = begun.folder / "task.json"
    file.write_text(change(file.read_text()))
    with pytest.raises(UserError, match=r"unfinished is damaged\n.*\n.*leave --resume out"):
        begun.task({"network": "x"})


def test_an_array_that_is_damaged(begun: Unfinished) -> None:
    begun.write("labels", WHOLE, np.ones((1, *SHAPE), np.uint8))
    np.save(begun.folder / "labels.npy", np.ones((1, 2, 2, 2), np.uint8))
    with pytest.raises(UserError, match="unfinished is damaged"):
        begun.write("labels", WHOLE, np.ones((1, *SHAPE), np.uint8))
    (begun.folder / "labels.npy").write_bytes(b"no array")
    with pytest.raises(UserError, match="unfinished is damaged"):
        begun.read("labels", WHOLE)


@pytest.mark.parametrize("line", ["", "[]", "5", "[[0, 4]", "[4]", '[["x", 4]]', "\0\xff", "[[0]]"])
def test_notes_that_are_damaged_count_for_nothing(begun: Unfinished, line: str) -> None:
    assert begun.left(WHOLE) == [WHOLE]
    (begun.folder / "done_0.jsonl").write_text(f"{line}\n", encoding="latin-1")
    assert begun.left(WHOLE) == [WHOLE]
    begun.note(WHOLE, 0)
    assert begun.left(WHOLE) == []


def test_another_memory_is_told_as_the_option(tmp_path: Path) -> None:
    unfinished = Unfinished(tmp_path / "a.nii")
    task = Task({"memory": 700 * 2**20}, Tiling((2, 2, 2), ((0, 2), (0, 2)), 1, False, 1, 1), [])
    unfinished.begin(task, SHAPE, {"labels": (np.dtype("uint8"), 1)})
    with pytest.raises(UserError, match=r"given: no --memory\n.*legal: --memory 700.00MiB\n"):
        unfinished.task({"memory": None})
