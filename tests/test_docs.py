"""What the documentation says is what the program does."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from PIL import Image

import seg3d
from seg3d.cli import main
from seg3d.config import config_from_tree, load_config
from seg3d.io import segy
from tests.cli.test_help import parsed
from tests.conftest import ROOT, environment

PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "data/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
# A file that a page tells people to make.
OWN_CONFIG = "my.yaml"


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def script(name: str) -> ModuleType:
    """One of `scripts/` as a module."""
    loader = importlib.machinery.SourceFileLoader(name, str(ROOT / "scripts" / name))
    spec = importlib.util.spec_from_loader(name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@dataclass(frozen=True)
class Block:
    """Code on a page, in the language that stands behind the backquotes."""

    page: Path
    language: str
    text: str


def blocks(language: str) -> Iterator[Block]:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for found, inside in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S):
            if found == language:
                yield Block(page, found, inside)


def commands() -> Iterator[tuple[Path, str]]:
    """Every line of a block that a person would type, whole if it goes on over several."""
    for block in blocks(""):
        for line in block.text.replace("\\\n", " ").splitlines():
            words = line.removeprefix("$ ")
            if re.match(r"(seg3d|torchrun|scripts/\w+|pip|tensorboard)( |$)", words):
                yield block.page, words


ALL_COMMANDS = sorted({(named(page), words) for page, words in commands()})


# --- commands ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("page", "line"), ALL_COMMANDS)
def test_every_command_can_be_typed(page: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    # It would hold for the whole process.
    monkeypatch.setattr(segy, "assume", lambda **what: None)
    words = shlex.split(line.split(" > ")[0], comments=True)
    if words[0] == "torchrun":
        words = words[words.index("-m") + 1 :]
    if words[0].startswith("scripts/"):
        assert Path(words[0]).stat().st_mode & 0o111
        return
    if words[0] != "seg3d":
        return
    with parsed(words[1:]) as context:
        config, overrides = (context.params.get(name) for name in ("config", "overrides"))
        if config and config.name != OWN_CONFIG:
            load_config(config, overrides or ())
        elif overrides:
            config_from_tree({}, overrides)


def test_commands_are_found_on_the_pages() -> None:
    pages = [page for page, _ in ALL_COMMANDS]
    assert {"README.md", "docs/training.md", "docs/prediction.md", "docs/segy.md"} <= set(pages)
    assert len(pages) > 30


def test_commands_and_scripts_within_sentences_exist() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for name in re.findall(r"`seg3d ([a-z][a-z-]*)", text):
            assert name in main.commands, f"{page}: seg3d {name}"
        for name in re.findall(r"`scripts/(\w+)", text):
            assert (ROOT / "scripts" / name).is_file(), f"{page}: scripts/{name}"


def test_every_script_is_described() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    described = set(re.findall(r"^\| `scripts/(\w+)` \| \w", page, re.M))
    assert described == {path.name for path in (ROOT / "scripts").iterdir() if path.is_file()}


def test_extras_that_are_named_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [
        name
        for page in PAGES
        for names in re.findall(r"pip install [^`\n]*\.\[([\w,]+)\]", page.read_text())
        for name in names.split(",")
    ]
    assert asked and set(asked) <= project["optional-dependencies"].keys()


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["train", "--help"]])
def test_help_does_not_load_pytorch(arguments: list[str]) -> None:
    program = (
        "import sys; from seg3d.cli import main\n"
        f"try: main({arguments})\nexcept SystemExit: pass\n"
        "assert not {'torch', 'monai', 'numpy', 'pydantic'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


# --- configs -----------------------------------------------------------------------------------


def test_config_reference_is_up_to_date() -> None:
    assert (ROOT / "docs" / "config.md").read_text() == script("make_config_reference").reference()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configs_are_valid_and_listed(path: Path) -> None:
    load_config(path)
    assert f"configs/{path.name}" in (ROOT / "docs" / "training.md").read_text()


def test_configs_that_are_named_exist() -> None:
    sources = [*PAGES, *CONFIGS, *(ROOT / "seg3d").rglob("*.py"), *(ROOT / "scripts").iterdir()]
    for source in sources:
        for name in re.findall(r"configs/\w+\.yaml", source.read_text(encoding="utf-8")):
            assert (ROOT / name).is_file(), f"{source}: {name}"


@pytest.mark.parametrize("block", list(blocks("yaml")), ids=lambda block: block.page.stem)
def test_parts_of_configs_are_valid(block: Block) -> None:
    config_from_tree(yaml.safe_load(block.text))


# --- Python ------------------------------------------------------------------------------------


def test_the_examples_in_python_run(tmp_path: Path) -> None:
    program = "\n".join(block.text for block in blocks("python") if block.page.name == "api.md")
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "finished runs/balls/checkpoints/best.pt" in done.stdout
    assert "array is not a 3D volume" in done.stdout


def test_the_page_on_python_shows_every_name() -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    shown = ", ".join(re.findall(r"^from seg3d import (.*?)  #", page, re.M)).split(", ")
    assert {*shown, "__version__"} == set(seg3d.__all__)


# --- pages -------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_link_leads_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r'(?:\]\(|src=")([^)\s"]+)[)"]', text):
        if target.startswith("https://"):
            continue
        name, _, heading = target.partition("#")
        there = page.parent / name if name else page
        assert there.exists(), target
        if heading:
            assert heading in headings(there), target


def headings(page: Path) -> set[str]:
    """What links call the headings of a page."""
    lines = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_file_of_the_project_that_is_named_exists(page: Path) -> None:
    names = re.findall(r"\b(?:seg3d|tests|docs)/[\w/]*\w\.(?:py|md|png|json)\b", page.read_text())
    for name in names:
        assert (ROOT / name).exists(), name


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, left = set(), [ROOT / "README.md"]
    while left:
        page = left.pop().resolve()
        if page in reached:
            continue
        reached.add(page)
        targets = re.findall(r"\]\(([^)#\s]+\.md)", page.read_text(encoding="utf-8"))
        left += [page.parent / one for one in targets if not one.startswith("https://")]
    assert {page.resolve() for page in PAGES} <= reached


def test_figures_of_the_readme_are_those_of_the_benchmarks() -> None:
    benchmarks = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme.split("## Memory")[1].split("## Speed")[0]
    rows = [line for line in section.splitlines() if re.match(r"\|.*\d", line)]
    assert len(rows) >= 4
    for row in rows:
        assert row in benchmarks.splitlines()
    speed = readme.split("## Speed")[1].split("##")[0]
    for number in re.findall(r"\d+\.\d+", speed):
        assert f"({number} times)" in benchmarks or f"({number}\ntimes)" in benchmarks


def test_the_picture_of_the_rooms_is_up_to_date() -> None:
    architecture = script("draw_architecture")
    with Image.open(architecture.PICTURE) as picture:
        assert picture.info["Description"] == architecture.description()
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for room in ("common", "io", "probing", "training", "prediction", "evaluation", "cli"):
        assert f"({'../seg3d/' + room}/)" in page
