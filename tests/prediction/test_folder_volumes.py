"""Volumes that are folders (Zarr stores, DICOM series) go where volume files go."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from seg3d.common.errors import UserError
from seg3d.data.layouts import find_dataset
from seg3d.evaluation import Pair, find_pairs
from seg3d.evaluation.report import output_folder
from seg3d.geometry import Grid
from seg3d.io import Header, read_labels, write_volume
from seg3d.prediction.jobs import Job, plan_jobs
from seg3d.prediction.predictor import Predictor
from tests.dicom_series import write_series
from tests.plans import classes, small_config, small_plan
from tests.volumes import write_nifti

pytest.importorskip("SimpleITK")

SHAPE = (9, 8, 7)
AFFINE = np.diag([-0.5, -1, 2, 1])


def write_zarr(path: Path, channels: int = 1) -> Path:
    array = np.random.default_rng(0).integers(0, 2, (channels, *SHAPE)).astype("int16")
    write_volume(path, array, Header(Grid(SHAPE, AFFINE), channels, None))
    return path


def series(path: Path) -> Path:
    return write_series(path, np.zeros(SHAPE, "int16"))


class Sign(nn.Module):
    """Class 1 where the intensity is positive."""

    def forward(self, x: Tensor) -> Tensor:
        return 20 * torch.cat([0.5 - x, x - 0.5], 1)


def test_a_store_is_predicted_into_a_store(tmp_path):
    plan = small_plan(classes=classes([0], [3]), orientation="RAS", patch_size=(8, 8, 8))
    predictor = Predictor(Sign(), small_config(), plan, torch.device("cpu"))
    image = write_zarr(tmp_path / "scan.ome.zarr")
    (job,) = plan_jobs([image], tmp_path / "out.ome.zarr")
    predictor.run(job)
    labels = read_labels(tmp_path / "out.ome.zarr")
    np.testing.assert_array_equal(labels.array, 3 * read_labels(image).array)
    assert labels.grid.differences(Grid(SHAPE, AFFINE)) == []


def test_what_is_predicted_of_a_folder_of_folders(tmp_path):
    scans = tmp_path / "scans"
    store = write_zarr(scans / "a.zarr")
    write_zarr(scans / ".hidden.zarr")
    dicom = series(scans / "b")
    file = write_nifti(scans / "c.nii.gz")
    (scans / "empty").mkdir()
    out = tmp_path / "out"
    expected = [
        Job((store,), out / "a.zarr"),
        Job((dicom,), out / "b.nii.gz"),
        Job((file,), out / "c.nii.gz"),
    ]
    assert plan_jobs([scans], out) == expected
    assert plan_jobs([dicom], tmp_path / "label.mha") == [Job((dicom,), tmp_path / "label.mha")]


def test_a_level_is_predicted_beside_its_store(tmp_path):
    store = write_zarr(tmp_path / "scan.ome.zarr")
    (job,) = plan_jobs([store / "0"], tmp_path / "out")
    assert job == Job((store / "0",), tmp_path / "out" / "scan.ome.zarr")
    for output in (store, tmp_path):
        with pytest.raises(UserError, match="would overwrite its input"):
            plan_jobs([store / "0"], output)


def test_an_older_store_is_not_a_folder_for_outputs(tmp_path):
    images = [write_nifti(tmp_path / f"{name}.nii") for name in "ab"]
    store = write_zarr(tmp_path / "out.zarr")
    assert plan_jobs(images[:1], store) == [Job((images[0],), store)]
    with pytest.raises(UserError, match="is one file, but there are 2 cases"):
        plan_jobs(images, store)


def test_stores_are_compared(tmp_path):
    prediction = write_zarr(tmp_path / "predictions" / "a.ome.zarr")
    reference = write_nifti(tmp_path / "references" / "a.nii")
    pairs = [Pair("a", prediction, reference)]
    assert find_pairs(tmp_path / "predictions", tmp_path / "references") == pairs
    assert find_pairs(prediction, reference) == pairs
    assert output_folder(prediction) == tmp_path / "predictions"


def test_datasets_of_folders(tmp_path):
    image = write_zarr(tmp_path / "images" / "a.ome.zarr", channels=2)
    label = write_zarr(tmp_path / "labels" / "a.zarr")
    dicom = series(tmp_path / "images" / "b")
    other = write_nifti(tmp_path / "labels" / "b.nii.gz")
    found = find_dataset(tmp_path)
    assert [(case.name, case.images, case.label) for case in found.cases] == [
        ("a", (image,), label),
        ("b", (dicom,), other),
    ]
    (tmp_path / "list.csv").write_text(
        "image,label\nimages/a.ome.zarr,labels/a.zarr\nimages/b,labels/b.nii.gz\n"
    )
    listed = find_dataset(tmp_path / "list.csv")
    assert [case.images for case in listed.cases] == [(image,), (dicom,)]
