"""Preprocessed cases: as MONAI makes them of whole volumes, the same in RAM and on disk."""

from __future__ import annotations

import errno
import multiprocessing
import os
import re
import time
import tracemalloc
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from seg3d.common.errors import UserError
from seg3d.data import cache as cache_module
from seg3d.data import case_reader, training_case
from seg3d.data.cache import Cache, DiskCache, RamCache, training_cache
from seg3d.data.cases import Case
from seg3d.data.grid_map import GridMap
from seg3d.data.training_case import TrainingCase
from seg3d.data.transforms import CENTRES, IMAGE, LABEL
from seg3d.io import read_header
from seg3d.io.regions import portions
from seg3d.plan import ChannelIntensity, Plan
from tests import monai_preprocessing
from tests.data.conftest import NAMES
from tests.plans import classes, small_config, small_plan
from tests.volumes import affine_of, save_nifti, write_nifti


def filled(cache: Cache) -> Cache:
    cache.fill()
    return cache


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(
        one[key].dtype == other[key].dtype and np.array_equal(one[key], other[key])
        for key in (IMAGE, LABEL)
    ) and all(map(np.array_equal, one[LABEL + CENTRES], other[LABEL + CENTRES]))


# What is in it


SHEAR = np.array([[1, 0.2, -0.1, 0], [0, 1, 0.3, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
AFFINES = {
    "straight": affine_of((0.8, 1.0, 2.5), origin=(-40, 13, 7)),
    "flipped": affine_of((0.8, 1.0, 2.5)) @ np.diag([-1, 1, -1, 1]),
    "permuted": affine_of((0.8, 1.0, 2.5))[:, [2, 0, 1, 3]] @ np.diag([1, -1, 1, 1]),
    "oblique": affine_of((0.9, 1.1, 2.5), degrees=(20, -35, 10), origin=(3, 4, 5)),
    "sheared": affine_of((1.0, 1.2, 2.0)) @ SHEAR,
}


@pytest.mark.parametrize("name", AFFINES)
@pytest.mark.parametrize("spacing", [None, (0.8, 1.0, 2.5), (1.7, 0.6, 1.9), (0.31, 3.0, 2.7)])
@pytest.mark.parametrize("patch_size", [(4, 4, 4), (16, 20, 40)])
def test_a_case_is_what_monai_makes_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, spacing: Any, patch_size: Any
) -> None:
    """Resampled up and down, turned, padded; with slabs so thin that there are several."""
    monkeypatch.setattr(case_reader, "SLAB", 700)
    plan = small_plan(
        orientation="LAS", spacing=spacing, patch_size=patch_size, classes=classes([0, 3], [2])
    )
    generator = np.random.default_rng(0)
    image = generator.normal(size=(13, 17, 11)).astype(np.float32)
    label = generator.integers(0, 4, image.shape).astype(np.int16)
    case = Case(
        "one",
        (save_nifti(tmp_path / "image.nii", image, AFFINES[name]),),
        save_nifti(tmp_path / "label.nii", label, AFFINES[name]),
    )
    (made,) = filled(RamCache([case], plan))
    expected = monai_preprocessing.training_case(plan, case.images, case.label)
    assert made[IMAGE].shape == made[LABEL].shape == expected[IMAGE].shape
    np.testing.assert_allclose(made[IMAGE], expected[IMAGE], atol=2e-5)
    clear = ~half_way(case, plan, made[LABEL].shape[1:])
    assert np.array_equal(made[LABEL][0][clear], expected[LABEL][0][clear])
    assert clear.mean() > 0.5
    for kind, (centres, all_of_them) in enumerate(
        zip(made[LABEL + CENTRES], expected[LABEL + CENTRES], strict=True)
    ):
        assert (made[LABEL].reshape(-1)[centres] == kind).all()
        if clear.all():
            assert len(centres) == min(len(all_of_them), training_case.CENTRES_PER_CLASS)
            assert set(centres) <= set(all_of_them)


def half_way(case: Case, plan: Plan, shape: tuple[int, ...]) -> np.ndarray:
    """Voxels of the padded network's grid that lie between two voxels of the file."""
    grid_map = GridMap.of(read_header(case.images[0]).grid, 0, plan)
    forward = grid_map.forward
    places = np.moveaxis(np.indices(forward.shape), 0, -1) @ forward.matrix.T + forward.offset
    between = (np.abs(places % 1 - 0.5) < 1e-4).any(-1)
    turned = np.flip(between.transpose(grid_map.permutation), grid_map.flips)
    gaps = np.array(shape) - turned.shape
    return np.pad(turned, [(gap // 2, gap - gap // 2) for gap in gaps])


def test_centres_are_drawn_evenly_and_depend_on_the_case_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    label = np.zeros((24, 30, 40), np.uint8)
    label[:, 10:, :] = 1
    label[3, 4, 5] = 2
    paths = save_nifti(tmp_path / "image.nii", label), save_nifti(tmp_path / "label.nii", label)
    cases = [Case(name, paths[:1], paths[1]) for name in ("one", "two")]
    plan = small_plan(classes=classes([0], [1], [2], [3]))
    one, two = filled(RamCache(cases, plan))
    none, background, many, single, absent = one[LABEL + CENTRES]
    assert len(none) == len(absent) == 0 and single.tolist() == [(3 * 30 + 4) * 40 + 5]
    assert len(background) == 24 * 10 * 40 - 1
    assert len(set(many)) == training_case.CENTRES_PER_CLASS < 24 * 20 * 40
    # An even draw has its mean within 4 standard errors of the middle, along every axis.
    for places, middle, side in zip(np.unravel_index(many, label.shape), (11.5, 19.5, 19.5),
                                    (24, 20, 40), strict=True):  # fmt: skip
        assert places.mean() == pytest.approx(middle, abs=4 * side / np.sqrt(12 * len(many)))
    assert not np.array_equal(many, two[LABEL + CENTRES][2])
    monkeypatch.setattr(training_case, "portions", partial(portions, voxels=5000))
    assert same(one, filled(RamCache(cases[:1], plan))[0])


@pytest.mark.parametrize("kind", ["ct", "zscore"])
def test_thickness_of_slabs_and_place_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Two channels in one file and a third in another, on a grid that is turned and resampled."""
    generator = np.random.default_rng(0)
    affine = AFFINES["permuted"]
    two = generator.normal(100, 20, (11, 13, 17, 2)).astype(np.float32)
    one = generator.normal(100, 20, (11, 13, 17)).astype(np.float32)
    case = Case(
        "one",
        (save_nifti(tmp_path / "a.nii", two, affine), save_nifti(tmp_path / "b.nii", one, affine)),
        save_nifti(tmp_path / "label.nii", (one > 110).astype(np.uint8), affine),
    )
    channels = [
        ChannelIntensity(name=name, kind=kind, low=80, high=120, mean=99, std=17) for name in "abc"
    ]
    plan = small_plan(orientation="RAS", spacing=(1.1, 1.3, 0.9), channels=channels)
    whole = filled(RamCache([case], plan))[0]
    assert whole[IMAGE].shape[0] == 3 and whole[IMAGE].shape[1:] == whole[LABEL].shape[1:]
    for voxels in (1, 900):
        monkeypatch.setattr(case_reader, "SLAB", voxels)
        for cache in (RamCache([case], plan), DiskCache([case], plan, tmp_path / str(voxels))):
            thin = filled(cache)[0]
            np.testing.assert_allclose(thin[IMAGE], whole[IMAGE], atol=1e-6)
            assert np.array_equal(thin[LABEL], whole[LABEL])
            assert all(map(np.array_equal, thin[LABEL + CENTRES], whole[LABEL + CENTRES]))


def test_a_volume_is_never_held_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.zeros((96, 128, 128), np.int16)
    image[:, :, 64:] = 1
    case = Case(
        "one",
        (save_nifti(tmp_path / "image.nii", image),),
        save_nifti(tmp_path / "label.nii", image.astype(np.uint8)),
    )
    monkeypatch.setattr(case_reader, "SLAB", 2**16)
    monkeypatch.setattr(training_case, "portions", partial(portions, voxels=2**16))
    channel = ChannelIntensity(name="T1", kind="zscore")
    plan = small_plan(orientation="RAS", spacing=(1.0, 1.0, 0.8), channels=[channel])
    filled(DiskCache([case], plan, tmp_path / "first"))
    tracemalloc.start()
    (made,) = filled(DiskCache([case], plan, tmp_path / "second"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert made[IMAGE].shape == (1, 96, 128, 160)
    assert peak < image.size


# Where it is


def test_ram_and_disk_hold_the_same(cases: list[Case], tmp_path: Path) -> None:
    ram, disk = RamCache(cases, small_plan()), DiskCache(cases, small_plan(), tmp_path / "disk")
    steps: list[int] = []
    for cache in (ram, disk):
        cache.fill(lambda: steps.append(1))
    assert len(steps) == 10
    assert all(map(same, ram, disk))
    assert re.fullmatch(r"\d+\.\d\d KiB in RAM", str(ram))
    assert str(disk).endswith(f" KiB on disk, in {disk.folder}")
    assert sorted(entry.name.split(".")[0] for entry in disk.entries) == list(NAMES)


def files(folder: Path) -> dict[Path, Any]:
    return {
        path: (path.stat().st_mtime_ns, path.read_bytes()) if path.is_file() else None
        for path in folder.rglob("*")
    }


def test_the_disk_cache_is_used_again(cases: list[Case], tmp_path: Path) -> None:
    first = filled(DiskCache(cases, small_plan(), tmp_path))
    stored = files(tmp_path)
    steps: list[int] = []
    second = DiskCache(cases, small_plan(), tmp_path)
    second.fill(lambda: steps.append(1))
    assert len(steps) == 5
    assert files(tmp_path) == stored
    assert all(map(same, first, second))
    assert " (5 of 5 from before), in " in str(second)


@pytest.mark.parametrize("changed", ["image", "label"])
def test_the_disk_cache_sees_that_a_file_has_changed(tmp_path: Path, changed: str) -> None:
    image = write_nifti(tmp_path / "image.nii", (16, 16, 16), seed=1)
    label = write_nifti(tmp_path / "label.nii", (16, 16, 16), seed=2)
    case = Case("one", (image,), label)
    (before,) = filled(DiskCache([case], small_plan(), tmp_path / "cache"))
    path = tmp_path / f"{changed}.nii"
    seen = path.stat()
    write_nifti(path, (16, 16, 16), seed=3)
    os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns + 1_000_000))
    (after,) = filled(DiskCache([case], small_plan(), tmp_path / "cache"))
    assert np.array_equal(before[IMAGE], after[IMAGE]) == (changed == "label")
    assert np.array_equal(before[LABEL], after[LABEL]) == (changed == "image")


def test_the_disk_cache_sees_that_the_plan_has_changed(cases: list[Case], tmp_path: Path) -> None:
    plan = small_plan(spacing=(1.5, 1.5, 1.5), patch_size=(8, 8, 8))
    filled(DiskCache(cases, small_plan(), tmp_path))
    disk, ram = DiskCache(cases, plan, tmp_path), filled(RamCache(cases, plan))
    assert all(map(same, ram, filled(disk)))
    # Cases that nobody will ask for again would only take space.
    assert {path for path in tmp_path.iterdir() if path.is_dir()} == set(disk.entries)


def test_what_a_killed_process_left_is_not_taken_for_a_case(
    cases: list[Case], tmp_path: Path
) -> None:
    disk = DiskCache(cases, small_plan(), tmp_path)
    for entry in disk.entries[:2]:
        unfinished = entry.with_name(f".{entry.name}")
        unfinished.mkdir()
        (unfinished / "image.npy").write_bytes(b"half")
    assert all(map(same, filled(disk), filled(RamCache(cases, small_plan()))))
    assert {path for path in tmp_path.iterdir() if path.is_dir()} == set(disk.entries)


def test_two_processes_make_each_case_once(
    cases: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, make = tmp_path / "made", cache_module._on_disk

    def noted(case: Case, plan: Plan, folder: Path, over: Event) -> None:
        with log.open("a") as file:
            file.write(f"{case.name}\n")
        make(case, plan, folder, over)

    def fill() -> None:
        # After a fork PyTorch makes its threads anew; two threads must not have it do so at once.
        torch.get_num_threads()
        DiskCache(cases, small_plan(), tmp_path / "cache").fill()

    monkeypatch.setattr(cache_module, "_on_disk", noted)
    fork = multiprocessing.get_context("fork")
    both = [fork.Process(target=fill) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(timeout=120)
    assert [process.exitcode for process in both] == [0, 0]
    assert sorted(log.read_text().split()) == list(NAMES)


def test_too_little_space_is_said_before_anything_is_written(
    cases: list[Case], tmp_path: Path
) -> None:
    plan = small_plan(spacing=(1e-3, 1e-3, 1e-3))
    with pytest.raises(UserError, match="not enough space on the disk") as raised:
        training_cache(cases, small_config(), plan, tmp_path / "run" / "cache")
    assert "--run" in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_explained(
    cases: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(array: Any, *arguments: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(UserError, match=r"(?s)no more space on the disk.*free some space"):
        filled(DiskCache(cases, small_plan(), tmp_path / "cache"))
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_after_an_error_no_other_case_is_finished(
    cases: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks_of, deadline = TrainingCase.blocks, time.monotonic() + 60

    def blocks(self: TrainingCase) -> Any:
        for block in blocks_of(self):
            while self._name == "b" and time.monotonic() < deadline:
                yield block
            yield block

    monkeypatch.setattr(TrainingCase, "blocks", blocks)
    damaged = tmp_path / "damaged.nii"
    damaged.write_bytes(b"nothing")
    wrong = [replace(cases[0], label=damaged), cases[1]]
    for cache in (RamCache(wrong, small_plan()), DiskCache(wrong, small_plan(), tmp_path / "disk")):
        with pytest.raises(UserError, match="damaged"):
            cache.fill()
    assert time.monotonic() < deadline


@pytest.mark.parametrize("cache", ["1kib", "1gib"])
def test_a_file_that_has_gone_is_named(tmp_path: Path, cache: str) -> None:
    image = write_nifti(tmp_path / "image.nii", (16, 16, 16))
    cases = [Case("one", (image,), tmp_path / "gone.nii")]
    config = small_config(data={"cache": cache})
    with pytest.raises(UserError, match=r"gone\.nii does not exist"):
        filled(training_cache(cases, config, small_plan(), tmp_path / "cache"))
    assert not list(tmp_path.glob("cache/*one*"))


@pytest.mark.parametrize("spacing", [None, (2.0, 1.0, 0.5)])
def test_the_size_of_a_case_is_known_beforehand(
    cases: list[Case], tmp_path: Path, spacing: Any
) -> None:
    plan = small_plan(spacing=spacing)
    cache = filled(DiskCache(cases[:1], plan, tmp_path))
    assert cache.sizes == [cache[0][IMAGE].nbytes + cache[0][LABEL].nbytes]


def test_auto_cache_is_half_of_the_free_memory(
    cases: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = sum(RamCache(cases, small_plan()).sizes)
    for available, kind in ((2.1 * needed, RamCache), (1.9 * needed, DiskCache)):
        memory = psutil.virtual_memory()._replace(available=available)
        monkeypatch.setattr(psutil, "virtual_memory", lambda memory=memory: memory)
        assert type(training_cache(cases, small_config(data={}), small_plan(), tmp_path)) is kind
