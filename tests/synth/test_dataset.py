"""Synthetic datasets on disk: the same whoever makes them, found by the dataset finder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import segyio

from seg3d.common.errors import UserError
from seg3d.data.layouts import find_dataset
from seg3d.io import read_labels, read_volume
from seg3d.synth.dataset import make_volume, write_dataset
from tests.conftest import Cli
from tests.full_disk import files_no_longer_than

SHAPE = (24, 20, 32)


def test_the_command_line_makes_what_the_number_of_workers_does_not_change(
    tmp_path: Path, cli: Cli
) -> None:
    shape = ("--shape", *SHAPE, "--seed", 4)
    cli("synth", "faults", "--out", tmp_path / "one", "--count", 2, *shape, "--workers", 1)
    done = cli(
        "synth", "faults", "--out", tmp_path / "two", "--count", 3, *shape, "--workers", 2,
        "--format", "sgy",
    )  # fmt: skip
    assert done.stdout.strip() == str(tmp_path / "two")
    for number in (1, 2):
        case = f"faults_{number:04d}"
        expected = make_volume("faults", SHAPE, [4, 0, number])
        for folder, ending in (("one", ".nii.gz"), ("two", ".sgy")):
            image = read_volume(tmp_path / folder / "imagesTr" / f"{case}_0000{ending}").array
            label = read_labels(tmp_path / folder / "labelsTr" / f"{case}{ending}").array
            assert image.dtype == np.float32 and label.dtype.itemsize == 1
            np.testing.assert_array_equal(image[0], expected.image)
            np.testing.assert_array_equal(label[0], expected.faults)
    dataset = find_dataset(tmp_path / "two")
    assert [case.name for case in dataset.cases] == [f"faults_{n:04d}" for n in (1, 2, 3)]
    assert dataset.channels == ("amplitude",) and not dataset.left_out
    assert dataset.labels == {"background": 0, "fault": 1}


def test_a_survey_in_segy(tmp_path: Path) -> None:
    write_dataset(tmp_path / "x", "faults", count=1, shape=SHAPE, seed=0, ending=".sgy")
    path = tmp_path / "x" / "imagesTr" / "faults_0001_0000.sgy"
    with segyio.open(path) as survey:
        assert list(survey.ilines) == [*range(1, 25)] and list(survey.xlines) == [*range(1, 21)]
        assert survey.samples.tolist() == [4.0 * n for n in range(32)]
        field = segyio.TraceField
        header = survey.header[20 + 3]
        assert (header[field.INLINE_3D], header[field.CROSSLINE_3D]) == (2, 4)
        scalar = abs(header[field.SourceGroupScalar])
        assert header[field.CDP_X] / scalar == 500_000 + 25
        assert header[field.CDP_Y] / scalar == 6_000_000 + 3 * 25
    assert find_dataset(tmp_path / "x").cases[0].images == (path,)


def test_facies_and_volumes_set_aside(tmp_path: Path) -> None:
    made: list[None] = []
    write_dataset(
        tmp_path / "layers", "layers", count=1, test=1, shape=SHAPE, seed=0, workers=1,
        advance=lambda: made.append(None),
    )  # fmt: skip
    assert len(made) == 2
    about = json.loads((tmp_path / "layers" / "dataset.json").read_text())
    assert "seg3d synth layers, seed 0" in about["description"] and about["numTraining"] == 1
    dataset = find_dataset(tmp_path / "layers")
    assert [case.name for case in dataset.test] == ["layers_test_0001"]
    assert dataset.labels == {"background": 0, "transparent": 1, "strong": 2}
    test, training = (
        read_labels(tmp_path / "layers" / part).array[0]
        for part in ("labelsTs/layers_test_0001.nii.gz", "labelsTr/layers_0001.nii.gz")
    )
    np.testing.assert_array_equal(test, make_volume("layers", SHAPE, [0, 1, 1]).facies)
    assert not np.array_equal(test, training)


def test_a_disk_that_is_full_leaves_nothing(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match="no more space on the disk"),
        files_no_longer_than(2**14),
    ):
        write_dataset(tmp_path / "new" / "faults", "faults", count=3, shape=SHAPE, seed=0)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use_and_volumes_too_small(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="not an empty folder"):
        write_dataset(tmp_path, "faults", count=1, shape=SHAPE, seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    out = tmp_path / "small"
    refused = cli("synth", "faults", "--out", out, "--count", 1, "--shape", 8, 99, 99, status=2)
    assert "8 × 99 × 99" in refused.stderr and "at least 16" in refused.stderr
    assert not out.exists()
    blocked = tmp_path / "notes.txt" / "faults"
    with pytest.raises(UserError, match="is a file"):
        write_dataset(blocked, "faults", count=1, shape=SHAPE, seed=0)
