"""Shipped configs are found by name; a file of one's own comes first."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from seg3d.common.errors import UserError
from seg3d.config import load_config
from seg3d.config.shipped import find_config, shipped_config, shipped_configs
from tests.conftest import ROOT

SPELLINGS = ["medical_ct", "medical_ct.yaml", "configs/medical_ct", "configs/medical_ct.yaml"]
MINE = "train: {epochs: 3}\n"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tests stand in an empty folder, which holds no ``configs``."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_all_files_of_the_folder_ship() -> None:
    assert list(shipped_configs()) == sorted(path.stem for path in ROOT.glob("configs/*"))


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_shipped_config_is_found_with_or_without_folder_and_ending(name: str) -> None:
    assert find_config(name).samefile(ROOT / "configs" / "medical_ct.yaml")
    assert load_config(name).preprocess.intensity == "ct"


@pytest.mark.parametrize("name", SPELLINGS)
@pytest.mark.parametrize("ending", ["", ".yaml"])
def test_a_file_that_is_there_comes_first(elsewhere: Path, name: str, ending: str) -> None:
    mine = elsewhere / (name.removesuffix(".yaml") + ".yaml" if ending else name)
    mine.parent.mkdir(exist_ok=True)
    mine.write_text(MINE)
    assert load_config(name).train.epochs == 3
    # ... but not where a shipped one is asked for: the shell has made the file before.
    assert shipped_config(name).samefile(ROOT / "configs" / "medical_ct.yaml")


def test_a_folder_of_the_name_is_not_in_the_way(elsewhere: Path) -> None:
    (elsewhere / "medical_ct").mkdir()
    assert load_config("medical_ct").preprocess.intensity == "ct"


def test_a_pipe_is_as_good_as_a_file(elsewhere: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, MINE.encode())
    os.close(writing)
    assert load_config(f"/dev/fd/{reading}").train.epochs == 3
    os.close(reading)


@pytest.mark.parametrize(
    "name", ["medical", "", ".", "..", "/", "Medical_CT", "x" * 5000, "a/medical_ct", "\0"]
)
def test_other_names_are_refused_with_those_that_there_are(name: str) -> None:
    with pytest.raises(UserError, match=r"one of brain_mr, .*seismic_layers\n.*config show"):
        load_config(name)
    with pytest.raises(UserError, match="legal: brain_mr"):
        shipped_config(name)
