"""What is written can be read: by TensorBoard, line by line, and after a kill."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout

from seg3d.common.errors import UserError
from seg3d.training.journal import Journal
from tests.full_disk import files_no_longer_than


def open_journal(folder: Path, epochs_done: int = 0) -> Journal:
    return Journal(folder / "tensorboard", folder / "log.jsonl", epochs_done)


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def events(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder / "tensorboard"), {"images": 0}).Reload()


def test_scalars_and_pictures_are_readable(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    journal.scalars(1, {"loss/loss": 1.2345678, "dice/liver": float("nan"), "dice/mean": 0.0})
    journal.scalars(2, {"loss/loss": 1e-9, "dice/liver": 0.75, "dice/mean": float("inf")})
    picture = np.zeros((20, 30, 3), np.uint8)
    picture[:10, :, 0] = 255
    journal.picture(2, "validation", picture)
    journal.close()
    assert rows(tmp_path) == [
        {"epoch": 1, "loss/loss": 1.23457, "dice/liver": None, "dice/mean": 0.0},
        {"epoch": 2, "loss/loss": 1e-9, "dice/liver": 0.75, "dice/mean": None},
    ]
    read = events(tmp_path)
    assert set(read.Tags()["scalars"]) == {"loss/loss", "dice/liver", "dice/mean"}
    assert [(one.step, one.value) for one in read.Scalars("loss/loss")] == [
        (1, pytest.approx(1.2345678)),
        (2, pytest.approx(1e-9)),
    ]
    assert [one.step for one in read.Scalars("dice/liver")] == [2]
    (shown,) = read.Images("validation")
    assert (shown.step, shown.width, shown.height) == (2, 30, 20)


def test_what_belongs_together_has_one_chart(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    tags = ("noise/encoder.0", "noise/up.1", "bits/up.1", "memory/peak_gib", "memory/planned_gib")
    journal.scalars(1, dict.fromkeys(tags, 1.0))
    journal.close()
    (stored,) = events(tmp_path).Tensors("custom_scalars__config__")
    layout = Layout.FromString(stored.tensor_proto.string_val[0])
    shown = {
        chart.title: [
            tag for tag in tags if any(re.fullmatch(one, tag) for one in chart.multiline.tag)
        ]
        for category in layout.category
        for chart in category.chart
    }
    assert shown["noise"] == list(tags[:2]) and shown["bits"] == [tags[2]]
    assert shown["memory in GiB"] == list(tags[3:])


def test_an_epoch_can_be_read_while_training_goes_on(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    journal.scalars(1, {"loss/loss": 1.0})
    assert len(rows(tmp_path)) == 1
    assert len(events(tmp_path).Scalars("loss/loss")) == 1
    journal.close()


def test_a_resumed_run_drops_what_it_does_again(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    for epoch in range(1, 6):
        journal.scalars(epoch, {"loss/loss": float(epoch)})
    journal.close()
    journal = open_journal(tmp_path, epochs_done=3)
    assert [row["epoch"] for row in rows(tmp_path)] == [1, 2, 3]
    journal.scalars(4, {"loss/loss": 40.0})
    journal.close()
    assert [row["loss/loss"] for row in rows(tmp_path)] == [1, 2, 3, 40]
    read = [(one.step, one.value) for one in events(tmp_path).Scalars("loss/loss")]
    assert read == [(1, 1), (2, 2), (3, 3), (4, 40)]


@pytest.mark.parametrize(
    "half", ['{"epoch": 3, "loss/lo', '{"epoch": 3', "[3]", '{"loss": 3}', "3"]
)
def test_half_a_line_is_dropped(tmp_path: Path, half: str) -> None:
    journal = open_journal(tmp_path)
    for epoch in (1, 2):
        journal.scalars(epoch, {"loss/loss": 1.0})
    journal.close()
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write(half)
    journal = open_journal(tmp_path, epochs_done=5)
    journal.scalars(3, {"loss/loss": 2.0})
    journal.close()
    assert [row["epoch"] for row in rows(tmp_path)] == [1, 2, 3]


def test_a_new_run_starts_with_an_empty_log(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"epoch": 1, "loss/loss": 9.0}\n')
    before = torch.get_rng_state()
    open_journal(tmp_path).close()
    assert rows(tmp_path) == []
    assert torch.equal(before, torch.get_rng_state())


# TensorBoard writes in a thread, which ends by what the next call raises.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_full_disk_is_explained(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    with pytest.raises(UserError, match=r"tensorboard: no more space"), files_no_longer_than(1000):
        for epoch in range(1, 100):
            journal.scalars(epoch, {"loss/loss": 1.0})
    other = tmp_path / "other"
    other.mkdir()
    (other / "log.jsonl").write_text('{"epoch": 1}\n' * 1500)
    journal = open_journal(other, 1)
    with pytest.raises(UserError, match=r"log.jsonl: no more space"), files_no_longer_than(19_500):
        journal.scalars(2, {"loss/loss": 1.0})


def test_a_log_that_is_no_text_does_not_keep_a_run_from_going_on(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_bytes(b'{"epoch": 1}\n\xff\xfe\x00\n{"epoch": 2}\n')
    open_journal(tmp_path, 1).close()
    assert rows(tmp_path) == [{"epoch": 1}]
