"""What the documentation says is what the program does."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from seg3d.config import load_config
from tests.conftest import ROOT


def test_config_reference_is_up_to_date() -> None:
    path = str(ROOT / "scripts" / "make_config_reference")
    loader = importlib.machinery.SourceFileLoader("make_config_reference", path)
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    assert (ROOT / "docs" / "config.md").read_text() == module.reference()


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.stem)
def test_configs_are_valid_and_in_the_readme(path: Path) -> None:
    load_config(path)
    assert f"configs/{path.name}" in (ROOT / "README.md").read_text()


def test_relative_links_of_the_documentation_lead_somewhere() -> None:
    for page in (ROOT / "README.md", ROOT / "data" / "README.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page}: {target}"


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["train", "--help"]])
def test_help_does_not_load_pytorch(arguments: list[str]) -> None:
    program = (
        "import sys; from seg3d.cli import main\n"
        f"try: main({arguments})\nexcept SystemExit: pass\n"
        "assert not {'torch', 'monai', 'numpy', 'pydantic'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
