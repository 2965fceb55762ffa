"""Predictions by models of nnU-Net's are those that nnU-Net has made."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from seg3d.common.errors import UserError
from seg3d.io import read_volume, write_volume
from seg3d.prediction.models import load_model
from seg3d.prediction.predictor import Predictor
from tests.conftest import Cli
from tests.nnunet.conftest import MODELS, NAMES, expected, scan_of

MIB = 2**20


def require_agreement(found: np.ndarray, theirs: np.ndarray) -> None:
    """Of 1000 voxels that either calls something, at most one is called something else."""
    assert found.shape == theirs.shape
    foreground = (found > 0) | (theirs > 0)
    assert theirs.any() and (found == theirs)[foreground].mean() >= 0.999
    for value in np.unique(theirs):
        one, other = found == value, theirs == value
        assert 2 * (one & other).sum() / (one.sum() + other.sum()) >= 0.998, value


@pytest.mark.parametrize("mirrored", [True, False], ids=["mirrored", "plain"])
@pytest.mark.parametrize("name", NAMES)
def test_labels_are_those_of_nnunet(name: str, mirrored: bool) -> None:
    overrides = () if mirrored else ("predict.mirror=false",)
    predictor = Predictor.from_checkpoint(MODELS / name / "model", "cpu", overrides)
    assert predictor.config.predict.mirror is mirrored
    require_agreement(predictor.segment(scan_of(name)), expected(name, mirrored=mirrored))


def test_the_command_line_recognises_a_model(tmp_path: Path, cli: Cli) -> None:
    scans = tmp_path / "scans"
    shutil.copytree(MODELS / "transposed" / "scans", scans)
    done = cli(
        "predict", MODELS / "transposed" / "model", scans, "--output", tmp_path / "out",
        "--set", "predict.mirror=false", "--probabilities",
    )  # fmt: skip
    assert done.stderr == ""
    found = nib.load(tmp_path / "out" / "scan.nii.gz")  # type: ignore[attr-defined]
    labels = np.asanyarray(found.dataobj)
    require_agreement(labels, expected("transposed", mirrored=False))
    affine = nib.load(scan_of("transposed")[0]).affine  # type: ignore[attr-defined]
    np.testing.assert_allclose(found.affine, affine, atol=1e-5)
    probable = read_volume(tmp_path / "out" / "scan_probabilities.nii.gz").array
    np.testing.assert_allclose(probable.sum(0), 1, atol=1e-5)
    np.testing.assert_array_equal(probable.argmax(0), labels)
    # What is cropped away is certain to be background.
    assert (probable[0] == 1).any()


@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".zarr"])
def test_other_formats_are_read_alike(tmp_path: Path, ending: str) -> None:
    (scan,) = scan_of("anisotropic")
    volume = read_volume(scan)
    path = tmp_path / f"scan{ending}"
    write_volume(path, volume.array, volume.header)
    predictor = Predictor.from_checkpoint(
        MODELS / "anisotropic" / "model", "cpu", ("predict.mirror=false",)
    )
    require_agreement(predictor.segment(path), expected("anisotropic", mirrored=False))


@pytest.mark.parametrize("name", ["isotropic", "transposed"])
def test_little_memory_changes_nothing(name: str) -> None:
    overrides = ("predict.mirror=false", "predict.folds=[0]")
    whole, tiled = (
        Predictor.from_checkpoint(MODELS / name / "model", "cpu", overrides, memory)
        for memory in (4096 * MIB, 645.5 * MIB)
    )
    scan = scan_of(name)
    found = whole.segment(scan)
    cut = tiled.segment(scan)
    assert (found != cut).sum() <= 1
    with pytest.raises(Exception, match="too little memory"):
        Predictor.from_checkpoint(MODELS / name / "model", "cpu", overrides, 600 * MIB).segment(
            scan
        )


def test_folds_are_chosen() -> None:
    model, scan = MODELS / "isotropic" / "model", scan_of("isotropic")
    found = {}
    for folds in ("[0]", "[1]", "auto"):
        overrides = ("predict.mirror=false", "predict.overlap=0.25", f"predict.folds={folds}")
        found[folds] = Predictor.from_checkpoint(model, "cpu", overrides).probabilities(scan)
    assert np.abs(found["[0]"] - found["[1]"]).max() > 0.01
    # The mean of the scores, which the logarithms of the probabilities are up to a constant.
    mean = (np.log(found["[0]"].clip(1e-9)) + np.log(found["[1]"].clip(1e-9))) / 2
    product = np.exp(mean - mean.max(0))
    np.testing.assert_allclose(found["auto"], product / product.sum(0), atol=5e-3)
    with pytest.raises(UserError, match=r"has no fold 3\n.*\n  legal: 0, 1"):
        load_model(model, ("predict.folds=[0,3]",))


def test_regions_overlap_in_probabilities() -> None:
    predictor = Predictor.from_checkpoint(
        MODELS / "regions" / "model", "cpu", ("predict.mirror=false",)
    )
    probable = predictor.probabilities(scan_of("regions"))
    assert [one.name for one in predictor.plan.classes] == ["whole", "core", "enhancing"]
    assert (probable.sum(0) > 1.5).any() and probable.shape[0] == 3
    labels = predictor.segment(scan_of("regions"))
    written = np.zeros(labels.shape)
    for one, value in zip(probable, (1, 2, 3), strict=True):
        written[one > 0.5] = value
    np.testing.assert_array_equal(labels, written)


def test_a_volume_of_nothing_but_zeros_is_predicted_whole() -> None:
    predictor = Predictor.from_checkpoint(
        MODELS / "old" / "model", "cpu", ("predict.mirror=false",)
    )
    assert predictor.segment(np.zeros((20, 9, 33), np.float32)).shape == (20, 9, 33)
