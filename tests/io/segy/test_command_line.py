"""Surveys with horizons through the command line: SEG-Y in, SEG-Y out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import segyio
import yaml
from click.testing import CliRunner, Result

from seg3d.cli import main
from seg3d.io.horizon_layers import NOT_KNOWN
from seg3d.io.segy.survey import _Assumed
from tests.conftest import Cli
from tests.io.segy.files import Spec, Written, write
from tests.io.segy.test_writing import assert_same_headers
from tests.writers import another_writer

SHAPE = (16, 18, 32)
# Lines that no reader would look for, and samples of 5 m in depth.
SPEC = Spec(SHAPE, lines=(57, 61), missing=0.1, interval=5000, delay=50, code=3, endian="little")
OPTIONS = ("--segy-bytes", "57,61", "--segy-depth")

CONFIG = {
    "data": {
        "folds": 2,
        "labels": {"horizons": ["top.xyz"], "layers": ["cover", "basement"], "scale": -1.0},
    },
    "preprocess": {"orientation": "none", "spacing": "none"},
    "patch": {"size": [16, 16, 32]},
    "network": {"channels": [2, 4]},
    "probing": {"sketch": "exact"},
    "train": {"epochs": 1, "iterations_per_epoch": 2, "batch_size": 1},
}


def made(folder: Path, name: str, seed: int) -> tuple[Written, np.ndarray]:
    """A survey, and the depth in m of its horizon at every place, `(X, Y)`; heights in the file."""
    survey = write(folder / "images" / f"{name}.sgy", SPEC.but(seed=seed))
    depths = 90 + 2.0 * np.add(*np.indices(SHAPE[:2]))
    origin, *steps = np.array(SPEC.world)
    world = origin + survey.places @ np.array(steps)
    picks = folder / "horizons" / name
    picks.mkdir(parents=True)
    np.savetxt(
        picks / "top.xyz", np.column_stack([world, -depths[survey.mask]]), header="X Y Z (m)"
    )
    return survey, depths


def traces(path: Path) -> np.ndarray:
    with segyio.open(str(path), ignore_geometry=True, endian=SPEC.endian) as file:
        return file.trace.raw[:]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run ``seg3d ARGUMENTS`` in this process, which forgets what it was told of SEG-Y files."""
    monkeypatch.setattr("seg3d.io.segy.survey._assumed", _Assumed())
    return lambda *arguments: CliRunner().invoke(main, [str(one) for one in arguments])


def test_from_horizons_to_a_score(tmp_path: Path, cli: Cli, here: Callable[..., Result]) -> None:
    surveys = [made(tmp_path / "data", name, seed) for seed, name in enumerate(("east", "west"))]
    (tmp_path / "layers.yaml").write_text(yaml.safe_dump(CONFIG))
    data = ("--data", tmp_path / "data", *OPTIONS)

    layers = ("layers", tmp_path / "layers.yaml", *data, "--output", tmp_path / "layers")
    with another_writer(tmp_path / "layers" / "west.sgy"):
        assert "west.sgy is being written by another process" in here(*layers).stderr
    assert not (tmp_path / "layers").exists()
    said = here(*layers).stdout
    assert "labels: cover 1, basement 2, ignore 127" in said
    for (survey, depths), name in zip(surveys, ("east", "west"), strict=True):
        output = tmp_path / "layers" / f"{name}.sgy"
        assert_same_headers(survey, output, 8)
        below = 50 + 5 * np.arange(SHAPE[2]) >= depths[survey.mask][:, None]
        # Places of the survey without a pick are closed, so that only samples are compared.
        assert np.array_equal(traces(output), np.where(below, 2, 1))

    run = tmp_path / "run"
    said = cli("train", tmp_path / "layers.yaml", *data, "--run", run).stdout
    assert "classes: background, cover, basement" in said
    images = tmp_path / "data" / "images"
    cli("predict", run, images, "--output", tmp_path / "predictions", *OPTIONS)
    for (survey, _), name in zip(surveys, ("east", "west"), strict=True):
        output = tmp_path / "predictions" / f"{name}.sgy"
        assert_same_headers(survey, output, 8)
        assert set(np.unique(traces(output))) <= {0, 1, 2}

    # Known before anything is computed.
    wrong = ("predict", run, images / "east.sgy", "--output", tmp_path / "p.sgy", "--probabilities")
    refused = here(*wrong, *OPTIONS)
    assert refused.exit_code == 2 and "SEG-Y holds one number" in refused.stderr
    assert not list(tmp_path.glob("*p.sgy*"))

    said = here("evaluate", tmp_path / "predictions", tmp_path / "layers", *OPTIONS).stdout
    assert "voxels" in said and "ml" not in said
    metrics = json.loads((tmp_path / "predictions" / "metrics.json").read_text())
    for (survey, depths), name in zip(surveys, ("east", "west"), strict=True):
        labels = metrics["cases"][name]["labels"]
        assert {entry["name"] for entry in labels.values()} == {"cover", "basement"}
        below = 50 + 5 * np.arange(SHAPE[2]) >= depths[survey.mask][:, None]
        assert labels["2"]["reference_voxels"] == below.sum()
        assert str(NOT_KNOWN) not in labels


def test_options_for_surveys_say_what_the_file_does_not(
    tmp_path: Path, here: Callable[..., Result]
) -> None:
    survey = write(tmp_path / "survey.sgy", SPEC)
    refused = here("info", survey.path)
    assert refused.exit_code == 2
    assert "--segy-bytes INLINE,CROSSLINE" in refused.stderr
    said = here("info", survey.path, "--segy-depth", "--segy-bytes", "57,61").stdout
    assert "depth      50 to 205 m" in said
    assert "(bytes 57 to 60)" in said
