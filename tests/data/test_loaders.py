"""The stream of patches depends on seed and number alone; caches give what they were given."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seg3d.common.errors import RunFailed
from seg3d.data.cache import DiskCache, training_cache
from seg3d.data.cases import Case
from seg3d.data.loaders import PatchStream, patch_batches, patch_stream
from seg3d.data.transforms import IMAGE, LABEL
from seg3d.data.worker_failures import WORKER, ends_of_workers_explained
from seg3d.data.workers import share_ram, start_method, worker_count
from tests.data.conftest import NAMES
from tests.plans import small_config, small_plan


def stream_of(cases: list[Case], folder: Path, plan: Any = None, **sections: Any) -> PatchStream:
    config, plan = small_config(**{"augment": {}} | sections), plan or small_plan()
    cache = training_cache(cases, config, plan, folder)
    cache.fill()
    return patch_stream(cache, config, plan)


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return (
        torch.equal(one[IMAGE], other[IMAGE])
        and torch.equal(one[LABEL], other[LABEL])
        and one["name"] == other["name"]
    )


def test_every_case_comes_once_per_turn_in_an_order_of_its_own(
    cases: list[Case], tmp_path: Path
) -> None:
    stream = stream_of(cases, tmp_path)
    turns = [[stream[turn * 5 + place]["name"] for place in range(5)] for turn in range(8)]
    assert all(sorted(turn) == list(NAMES) for turn in turns)
    assert len({tuple(turn) for turn in turns}) > 4


def test_a_patch_depends_on_seed_and_number_alone(cases: list[Case], tmp_path: Path) -> None:
    stream, again = stream_of(cases, tmp_path), stream_of(cases, tmp_path)
    forwards = [stream[index] for index in range(12)]
    backwards = [again[index] for index in reversed(range(12))][::-1]
    assert all(same(one, other) for one, other in zip(forwards, backwards, strict=True))
    other = stream_of(cases, tmp_path, train={"seed": 1})
    assert not any(same(one, other[index]) for index, one in enumerate(forwards))
    assert len({float(patch[IMAGE].double().sum()) for patch in forwards}) == 12


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_do_not_depend_on_workers_or_on_where_they_begin(
    cases: list[Case], tmp_path: Path, workers: int
) -> None:
    stream = stream_of(cases, tmp_path)
    config, plan = small_config(augment={}, data={"workers": workers}), small_plan(batch_size=3)
    with patch_batches(stream, config, plan, 6, 12) as drawn_batches:
        batches = list(drawn_batches)
    assert len(batches) == 2
    for number, batch in enumerate(batches):
        assert batch[IMAGE].shape == batch[LABEL].shape == (3, 1, 16, 16, 16)
        assert batch[IMAGE].dtype == torch.float32 and batch[LABEL].dtype == torch.int16
        for place in range(3):
            one = stream[6 + 3 * number + place]
            drawn = {key: batch[key][place] for key in (IMAGE, LABEL, "name")}
            assert same(one, drawn)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_global_random_generators_are_left_alone(
    cases: list[Case], tmp_path: Path, workers: int
) -> None:
    def states() -> tuple[Any, ...]:
        _, words, position, *_ = np.random.get_state()
        return random.getstate(), words.tobytes(), position, torch.get_rng_state().tolist()

    before = states()
    config = small_config(augment={}, data={"workers": workers})
    stream = stream_of(cases, tmp_path)
    with patch_batches(stream, config, small_plan(), 0, 4) as batches:
        list(batches)
    assert states() == before


def test_global_seeds_do_not_change_the_patches(cases: list[Case], tmp_path: Path) -> None:
    stream = stream_of(cases, tmp_path)
    first = stream[0]
    np.random.seed(3)
    torch.manual_seed(3)
    assert same(first, stream[0])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_case_that_has_gone_is_named_and_the_workers_end(
    cases: list[Case], tmp_path: Path, workers: int
) -> None:
    config, plan = small_config(augment={}, data={"workers": workers}), small_plan()
    cache = DiskCache(cases, plan, tmp_path / "cache")
    cache.fill()
    lost = cache.entries[2] / "image.npy"
    lost.unlink()
    stream = patch_stream(cache, config, plan)
    with (
        pytest.raises(RunFailed) as raised,
        patch_batches(stream, config, plan, 0, 10**6) as batches,
    ):
        deque(batches, 0)
    first, *advice = str(raised.value).splitlines()
    assert first == f"no patch can be cut from case c: {lost}: No such file or directory"
    assert advice == [
        "  to do: --resume goes on from the last checkpoint, and prepares anew what is missing"
    ]
    # Though the error, and so all that was at work, is still at hand.
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    "number, words",
    [
        (signal.SIGKILL, "a data worker was killed, most likely for lack of memory"),
        (signal.SIGBUS, "a data worker found no room in shared memory"),
        (signal.SIGSEGV, r"a data worker has ended \(SIGSEGV\)"),
    ],
)
def test_a_worker_that_is_killed(
    cases: list[Case], tmp_path: Path, number: int, words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    config, plan = small_config(augment={}, data={"workers": 2}), small_plan()
    stream = stream_of(cases, tmp_path)
    with (
        pytest.raises(RunFailed, match=rf"{words}.*\n  to do: .*fewer data\.workers"),
        patch_batches(stream, config, plan, 0, 10**6) as batches,
    ):
        next(batches)
        killed = multiprocessing.active_children()[0].pid
        assert killed is not None
        os.kill(killed, number)
        deque(batches, 0)
    assert not multiprocessing.active_children()
    assert capfd.readouterr().err == ""


def closes_all_and_lingers() -> None:
    os.closerange(3, 1024)
    time.sleep(0.3)
    os.kill(os.getpid(), signal.SIGBUS)


@pytest.mark.skipif(sys.platform == "win32", reason="no signals")
def test_a_worker_that_has_hung_up_but_not_yet_ended() -> None:
    worker = multiprocessing.get_context("fork").Process(target=closes_all_and_lingers)
    worker.start()
    with (
        pytest.raises(RunFailed, match="a data worker found no room in shared memory"),
        ends_of_workers_explained([worker]),
    ):
        raise RuntimeError(f"{WORKER} hung up")


def test_worker_count() -> None:
    assert worker_count(small_config(data={"workers": 0})) == 0
    assert worker_count(small_config(data={"workers": 3})) == 3
    assert 1 <= worker_count(small_config(data={})) <= 12


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_the_ram_is_shared_where_workers_are_forked_or_absent(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda allow_none: method)
    assert start_method() == method
    assert share_ram(small_config(data={"workers": 2})) == (method == "fork")
    assert share_ram(small_config(data={"workers": 0}))
