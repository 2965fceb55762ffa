"""The floors of the house: which room may import which, and that no file imports in a circle."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.conftest import ROOT, environment

# From the ground up. A room may import the rooms that stand behind it, all of them above it here.
MAY_IMPORT = {
    # What every room needs.
    "common": "",
    "geometry": "",
    "io": "common geometry",
    # The engine: plain arguments in; it knows no config, no plan, no data and no files.
    "losses": "common",
    "memory": "common losses",
    "probing": "common losses memory",
    "networks": "common losses probing",
    # What is to be done.
    "config": "common",
    "plan": "common geometry losses memory probing networks config",
    "data": "common geometry io config plan",
    "checking": "common geometry io config plan data",
    "pictures": "common geometry io",
    "synth": "common geometry io",
    # Those who do it.
    "runs": "common config plan",
    "nnunet": "common geometry config plan data runs",
    "prediction": "common geometry io losses memory probing networks config plan data runs nnunet",
    "training": "common geometry io losses memory probing config plan data pictures runs nnunet "
    "prediction",
    "evaluation": "common geometry io config plan data runs prediction",
    # The doors.
    "info": "common io probing config plan runs",
    "demo": "common io config data pictures synth runs prediction training evaluation",
    "benchmarks": "common geometry io losses memory probing networks config plan data synth runs "
    "prediction training evaluation",
    "cli": "common geometry io config plan data checking synth runs nnunet prediction training "
    "evaluation info demo benchmarks",
    "__main__": "cli",
}
# What a user's program imports: names from all rooms, none of them before it is asked for.
FACE = "seg3d"


@cache
def imports() -> dict[str, set[str]]:
    """What every module of the package imports of it, at whatever place, for whatever purpose."""
    files = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in (ROOT / "seg3d").rglob("*.py")
    }
    found: dict[str, set[str]] = {module: set() for module in files}
    for module, path in files.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found[module] |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert not node.level, f"{path}: imports say the whole name"
                assert node.module
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    found[module].add(inner if inner in files else node.module)
        found[module] = {name for name in found[module] if name in files}
    return found


def room(module: str) -> str:
    """``seg3d.io.segy.reader`` gives ``io``."""
    return module.split(".")[1] if "." in module else FACE


def test_rooms_import_only_what_the_table_allows() -> None:
    assert {room(module) for module in imports()} == {*MAY_IMPORT, FACE}
    forbidden = [
        f"{module} imports {other}"
        for module, others in imports().items()
        for other in others
        if room(module) not in (FACE, room(other))
        and room(other) not in MAY_IMPORT[room(module)].split()
    ]
    assert forbidden == []


def test_the_table_goes_from_the_ground_up() -> None:
    below: list[str] = []
    for name, allowed in MAY_IMPORT.items():
        assert set(allowed.split()) <= set(below), name
        below.append(name)


def test_no_file_imports_in_a_circle() -> None:
    # The rooms ask their face for nothing, so what it offers closes no circle.
    graph = {module: others for module, others in imports().items() if module != FACE}
    assert not any(FACE in others for others in graph.values())
    list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("name", ["probing", "memory", "losses", "networks"])
def test_the_engine_is_a_library_of_its_own(name: str) -> None:
    program = f"import sys, seg3d.{name}\nprint(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", program],
        env=environment(),
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    assert f"seg3d.{name}" in loaded
    for foreign in ("pydantic", "yaml", "monai", "nibabel", "seg3d.config", "seg3d.data"):
        assert foreign not in loaded


def test_few_files_stand_at_the_root() -> None:
    assert len(list(Path(ROOT, "seg3d").glob("*.py"))) <= 6
