"""The stream of patches depends on seed and number alone; caches give what they were given."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from seg3d.data.cases import Case
from seg3d.data.loaders import (
    PatchStream,
    patch_loader,
    patch_stream,
    preprocessed_bytes,
    training_volumes,
    validation_volumes,
    worker_count,
)
from seg3d.data.transforms import IMAGE, LABEL
from seg3d.errors import UserError
from tests.plans import small_config, small_plan
from tests.volumes import write_nifti

NAMES = ("a", "b", "c", "d", "e")


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    """Five cases of different shapes."""
    folder = tmp_path_factory.mktemp("cases")
    return [
        Case(
            name,
            (write_nifti(folder / f"{name}.nii.gz", (18 + number, 20, 22), seed=number),),
            write_nifti(folder / f"{name}_label.nii.gz", (18 + number, 20, 22), seed=number),
        )
        for number, name in enumerate(NAMES)
    ]


def stream_of(cases: list[Case], folder: Path, plan: Any = None, **sections: Any) -> PatchStream:
    config, plan = small_config(**{"augment": {}} | sections), plan or small_plan()
    return patch_stream(
        training_volumes(cases, config, plan, folder, progress=False), cases, config, plan
    )


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
    config = small_config(augment={}, data={"workers": workers}, train={"batch_size": 3})
    batches = list(patch_loader(stream, config, 6, 12))
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
    list(patch_loader(stream, config, 0, 4))
    assert states() == before


def test_global_seeds_do_not_change_the_patches(cases: list[Case], tmp_path: Path) -> None:
    stream = stream_of(cases, tmp_path)
    first = stream[0]
    np.random.seed(3)
    torch.manual_seed(3)
    assert same(first, stream[0])


TINY: dict[str, Any] = {"data": {"cache": "1kib", "workers": 0}}


def test_ram_and_disk_give_the_same_patches(cases: list[Case], tmp_path: Path) -> None:
    ram, disk = stream_of(cases, tmp_path / "ram"), stream_of(cases, tmp_path / "disk", **TINY)
    for _ in range(2):
        assert all(same(ram[index], disk[index]) for index in range(10))
    assert not (tmp_path / "ram").exists()
    assert len(list((tmp_path / "disk").iterdir())) == 5


def test_the_disk_cache_is_used_again_and_is_not_changed_by_augmentation(
    cases: list[Case], tmp_path: Path
) -> None:
    first = stream_of(cases, tmp_path, **TINY)
    patches = [first[index] for index in range(5)]
    stored = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in tmp_path.iterdir()}
    second = stream_of(cases, tmp_path, **TINY)
    assert all(same(one, second[index]) for index, one in enumerate(patches))
    assert stored == {
        path: (path.stat().st_mtime_ns, path.read_bytes()) for path in tmp_path.iterdir()
    }


@pytest.mark.parametrize("changed", ["image", "label"])
def test_the_disk_cache_sees_that_a_file_has_changed(tmp_path: Path, changed: str) -> None:
    image = write_nifti(tmp_path / "image.nii", (16, 16, 16), seed=1)
    label = write_nifti(tmp_path / "label.nii", (16, 16, 16), seed=2)
    cases = [Case("one", (image,), label)]
    before = stream_of(cases, tmp_path / "cache", augment=small_config().model_dump()["augment"],
                       **TINY)[0]  # fmt: skip
    path = tmp_path / f"{changed}.nii"
    seen = path.stat()
    write_nifti(path, (16, 16, 16), seed=3)
    os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns + 1_000_000))
    after = stream_of(cases, tmp_path / "cache", augment=small_config().model_dump()["augment"],
                      **TINY)[0]  # fmt: skip
    assert torch.equal(before[IMAGE], after[IMAGE]) == (changed == "label")
    assert torch.equal(before[LABEL], after[LABEL]) == (changed == "image")


def test_the_disk_cache_sees_that_the_plan_has_changed(cases: list[Case], tmp_path: Path) -> None:
    plan = small_plan(spacing=(1.5, 1.5, 1.5), patch_size=(8, 8, 8))
    stream_of(cases, tmp_path, **TINY)[0]
    disk = stream_of(cases, tmp_path, plan, **TINY)
    ram = stream_of(cases, tmp_path, plan)
    assert all(same(ram[index], disk[index]) for index in range(5))


def test_two_workers_fill_the_disk_cache_together(cases: list[Case], tmp_path: Path) -> None:
    config = small_config(**{"data": {"cache": "1kib", "workers": 2}, "train": {"batch_size": 5}})
    stream = stream_of(cases, tmp_path, augment=small_config().model_dump()["augment"], **TINY)
    batches = list(patch_loader(stream, config, 0, 20))
    assert [batch[IMAGE].shape[0] for batch in batches] == [5] * 4
    assert len(list(tmp_path.iterdir())) == 5


@pytest.mark.parametrize("cache", ["1kib", "1gib"])
def test_a_file_that_has_gone_is_named(tmp_path: Path, cache: str) -> None:
    image = write_nifti(tmp_path / "image.nii", (16, 16, 16))
    cases = [Case("one", (image,), tmp_path / "gone.nii")]
    with pytest.raises(UserError, match=r"gone\.nii does not exist"):
        stream_of(cases, tmp_path / "cache", data={"cache": cache, "workers": 0})[0]


@pytest.mark.parametrize("spacing", [None, (2.0, 1.0, 0.5)])
def test_the_size_of_a_case_is_known_beforehand(
    cases: list[Case], tmp_path: Path, spacing: Any
) -> None:
    plan = small_plan(spacing=spacing)
    (volume,) = training_volumes(cases[:1], small_config(), plan, tmp_path, progress=False)
    held = sum(volume[key].numel() * volume[key].element_size() for key in (IMAGE, LABEL))
    assert preprocessed_bytes(cases[0], plan) == pytest.approx(held, rel=1e-6)


def test_auto_cache_is_half_of_the_free_memory(
    cases: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = sum(preprocessed_bytes(case, small_plan()) for case in cases)
    for available, files in ((2.1 * needed, 0), (1.9 * needed, 1)):
        memory = psutil.virtual_memory()._replace(available=available)
        monkeypatch.setattr(psutil, "virtual_memory", lambda memory=memory: memory)
        stream_of(cases, tmp_path)[0]
        assert len(list(tmp_path.iterdir())) == files


def test_worker_count() -> None:
    assert worker_count(small_config(data={"workers": 0})) == 0
    assert worker_count(small_config(data={"workers": 3})) == 3
    assert 1 <= worker_count(small_config(data={})) <= 12


def test_validation_volumes_are_whole(cases: list[Case]) -> None:
    volumes = validation_volumes(cases, small_plan())
    assert [volumes[number][IMAGE].shape[1] for number in range(5)] == [18, 19, 20, 21, 22]
    assert volumes[2]["name"] == "c"
    assert torch.equal(volumes[2][IMAGE].as_tensor() + 1, volumes[2][LABEL].as_tensor().float())
