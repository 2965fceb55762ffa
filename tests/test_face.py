"""What ``from seg3d import ...`` offers, and what it costs."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import seg3d
from tests.conftest import environment


def test_importing_seg3d_loads_nothing() -> None:
    program = (
        "import sys; before = set(sys.modules); import seg3d; seg3d.__version__; dir(seg3d)\n"
        "print(*{name.split('.')[0] for name in set(sys.modules) - before}"
        " - set(sys.stdlib_module_names))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment(),
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["seg3d"]


def test_every_name_is_the_one_that_editors_and_type_checkers_see() -> None:
    tree = ast.parse(Path(seg3d.__file__).read_text())
    seen = {
        alias.name: node.module
        for branch in tree.body
        if isinstance(branch, ast.If)
        for node in branch.body
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }
    assert {*seen, "__version__"} == set(seg3d.__all__)
    for name, module in seen.items():
        assert getattr(seg3d, name) is getattr(importlib.import_module(module), name)
    assert dir(seg3d) == sorted(seg3d.__all__)


def test_another_name_is_an_ordinary_error() -> None:
    with pytest.raises(AttributeError, match="module 'seg3d' has no attribute 'Predicter'"):
        seg3d.Predicter  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'Predicter'"):
        from seg3d import Predicter  # noqa: F401
