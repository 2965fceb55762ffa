"""Free RAM, on machines and in control groups that are made of files."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from seg3d.common import free_ram as module
from seg3d.common.free_ram import VERSION_1, VERSION_2, free_ram

FREE = 1000


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    memory = psutil.virtual_memory()._replace(available=FREE)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(module, "GROUPS_OF_PROCESS", tmp_path / "self")
    monkeypatch.setattr(module, "GROUPS", tmp_path / "cgroup")
    return tmp_path


def limited(folder: Path, names: module._Names, limit: object, used: int, cached: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names.limit).write_text(f"{limit}\n")
    (folder / names.used).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\n{names.files} {cached}\nslab 7\n")


def test_without_groups_it_is_the_machines(groups: Path) -> None:
    assert free_ram() == FREE
    (groups / "self").write_text("0::/\n")
    assert free_ram() == FREE


def test_the_narrowest_limit_counts(groups: Path) -> None:
    (groups / "self").write_text("1:name=systemd:/job\n0::/job/step\n")
    limited(groups / "cgroup" / "job" / "step", VERSION_2, "max", 90, 0)
    assert free_ram() == FREE
    limited(groups / "cgroup" / "job", VERSION_2, 400, 350, 200)
    assert free_ram() == 250
    limited(groups / "cgroup" / "job" / "step", VERSION_2, 90, 100, 0)
    assert free_ram() == 0


@pytest.mark.parametrize("place", ["/job", "/docker/outside/of/it"])
def test_version_1_and_containers(groups: Path, place: str) -> None:
    (groups / "self").write_text(f"5:cpu:/\n4:hugetlb,memory:{place}\n0::/\n")
    limited(groups / "cgroup" / "memory", VERSION_1, 300, 100, 50)
    limited(groups / "cgroup" / "memory" / "job", VERSION_1, 2**63 - 4096, 100, 50)
    limited(groups / "cgroup", VERSION_1, 10, 0, 0)  # not where version 1 has its limits
    assert free_ram() == 250
