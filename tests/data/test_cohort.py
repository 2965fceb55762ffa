"""Synthetic subjects: reproducible, unfolded, anatomically the template."""

from __future__ import annotations

import filecmp
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from seg3d.common.errors import UserError
from seg3d.data.cohort import NOISE, add_noise, make_subject, smooth_warp, write_cohort

BRAIN = Path(__file__).resolve().parents[2] / "data" / "brain"


def load(path: Path) -> np.ndarray:
    return np.asanyarray(nib.load(path).dataobj)


@pytest.fixture(scope="module")
def template() -> tuple[np.ndarray, np.ndarray]:
    return load(BRAIN / "template_t1.nii.gz"), load(BRAIN / "template_labels.nii.gz")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohorts") / "brains"
    write_cohort(BRAIN, folder, subjects=2, seed=7)
    return folder


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def test_same_seed_same_subject_and_the_global_generator_is_left_alone(template):
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    first, second = (make_subject(*template, seed=[3, 1]) for _ in range(2))
    assert np.array_equal(first[0], second[0])
    assert np.array_equal(first[1], second[1])
    assert np.array_equal(before, np.random.get_state()[1])


def test_different_seeds_give_different_anatomy(template):
    (image, labels), (other_image, other_labels) = (
        make_subject(*template, seed=seed) for seed in (1, 2)
    )
    assert not np.array_equal(image, other_image)
    # Two subjects overlap as two brains do after alignment, neither alike nor unrelated.
    for tissue in (2, 3):
        assert 0.5 < dice(labels == tissue, other_labels == tissue) < 0.95


@pytest.mark.parametrize("seed", range(4))
def test_a_subject_keeps_tissues_volumes_and_contrast(template, seed):
    image, labels = template
    subject, subject_labels = make_subject(image, labels, seed=seed)
    assert subject.shape == subject_labels.shape == image.shape
    assert subject.dtype == np.float32
    assert subject_labels.dtype == labels.dtype
    assert np.array_equal(np.unique(subject_labels), np.unique(labels))
    assert np.isfinite(subject).all()
    assert subject.min() >= 0
    for tissue in (1, 2, 3):
        ratio = (subject_labels == tissue).sum() / (labels == tissue).sum()
        assert 0.75 < ratio < 1.35
    medians = [np.median(subject[subject_labels == tissue]) for tissue in range(4)]
    assert medians == sorted(medians)
    assert medians[3] - medians[2] > 2 * NOISE * image.max()


@pytest.mark.parametrize("shape", [(80, 96, 80), (33, 20, 47)])
@pytest.mark.parametrize("seed", range(5))
def test_the_warp_bends_but_never_folds(shape, seed):
    warp = smooth_warp(shape, np.random.default_rng(seed)).astype(np.float64)
    # Forward differences see a fold between neighbours that central differences step over.
    columns = [np.diff(warp, axis=1)[:, :, :-1, :-1]]
    columns.append(np.diff(warp, axis=2)[:, :-1, :, :-1])
    columns.append(np.diff(warp, axis=3)[:, :-1, :-1, :])
    jacobian = np.linalg.det(np.stack(columns).transpose(2, 3, 4, 1, 0))
    assert jacobian.min() > 0.2
    assert jacobian.max() - jacobian.min() > 0.2
    moved = np.linalg.norm(warp - np.indices(shape), axis=0)
    assert 0.5 < moved.mean() < 6


def test_labels_travel_with_the_image():
    """With one bright ball, brightness and label must stay on the same voxels."""
    ball = np.linalg.norm(np.indices((32, 40, 36)).T - [16, 20, 18], axis=-1).T < 9
    image, labels = make_subject(ball * 100.0, ball.astype(np.int32) * 5, seed=0)
    assert set(np.unique(labels)) == {0, 5}
    assert dice(image > 50, labels == 5) > 0.98
    assert dice(ball, labels == 5) < 0.97


def test_noise_is_rician():
    """Far above the noise it is Gaussian; in air it is Rayleigh, mean sigma * sqrt(pi / 2)."""
    rng = np.random.default_rng(0)
    bright = add_noise(np.full((50, 50, 50), 1000.0), 10.0, rng)
    air = add_noise(np.zeros((50, 50, 50)), 10.0, rng)
    assert bright.std() == pytest.approx(10, rel=0.02)
    assert bright.mean() == pytest.approx(1000 + 10**2 / (2 * 1000), abs=0.15)
    assert air.mean() == pytest.approx(10 * np.sqrt(np.pi / 2), rel=0.01)


def test_dataset_json_names_every_file_and_nothing_else(cohort):
    dataset = json.loads((cohort / "dataset.json").read_text())
    assert dataset["numTraining"] == len(dataset["training"]) == 2
    assert dataset["numTest"] == len(dataset["test"]) == 1
    assert dataset["labels"] == {
        "0": "background",
        "1": "CSF",
        "2": "grey matter",
        "3": "white matter",
    }
    assert "not a cohort" in " ".join(dataset["description"].split())
    named = {cohort / path for case in dataset["training"] for path in case.values()}
    named |= {cohort / path for path in dataset["test"]}
    named |= {cohort / "labelsTs" / Path(path).name for path in dataset["test"]}
    named |= {cohort / "dataset.json", cohort / "LICENSE"}
    assert named == {path for path in cohort.rglob("*") if path.is_file()}
    assert filecmp.cmp(cohort / "LICENSE", BRAIN / "LICENSE", shallow=False)


def test_every_file_keeps_the_template_grid(cohort):
    reference = nib.load(BRAIN / "template_t1.nii.gz")
    files = sorted(cohort.rglob("*.nii.gz"))
    assert len(files) == 6
    for path in files:
        image = nib.load(path)
        assert image.shape == reference.shape
        assert np.array_equal(image.affine, reference.affine)
        assert (image.header["sform_code"], image.header["qform_code"]) == (4, 4)
        expected = np.uint8 if path.parent.name.startswith("labels") else np.int16
        assert image.get_data_dtype() == expected


def test_stored_subjects_are_the_made_ones(cohort, template):
    image, labels = make_subject(*template, seed=[7, 2])
    assert np.array_equal(load(cohort / "imagesTr/subject_002.nii.gz"), np.rint(image))
    assert np.array_equal(load(cohort / "labelsTr/subject_002.nii.gz"), labels)


def test_the_test_subject_is_the_template_with_noise(cohort, template):
    image, labels = template
    assert np.array_equal(load(cohort / "labelsTs/template.nii.gz"), labels)
    difference = load(cohort / "imagesTs/template.nii.gz") - image.astype(float)
    assert difference[labels > 0].std() == pytest.approx(NOISE * image.max(), rel=0.02)


def test_a_larger_cohort_begins_with_the_smaller_one(cohort, tmp_path):
    write_cohort(BRAIN, tmp_path / "brains", subjects=1, seed=7, test_subject=False)
    first = Path("imagesTr/subject_001.nii.gz")
    assert filecmp.cmp(cohort / first, tmp_path / "brains" / first, shallow=False)
    assert not (tmp_path / "brains" / "imagesTs").exists()
    assert json.loads((tmp_path / "brains" / "dataset.json").read_text())["test"] == []


def test_an_occupied_folder_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="not an empty folder"):
        write_cohort(BRAIN, tmp_path, subjects=1, seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_no_subjects_is_refused(tmp_path):
    with pytest.raises(UserError, match="1 or more"):
        write_cohort(BRAIN, tmp_path / "brains", subjects=0, seed=0)
    assert not (tmp_path / "brains").exists()


@pytest.mark.parametrize("missing", ["template_labels.nii.gz", "template.json", "LICENSE"])
def test_an_incomplete_template_is_named(tmp_path, missing):
    template = shutil.copytree(BRAIN, tmp_path / "template")
    (template / missing).unlink()
    with pytest.raises(UserError, match=missing):
        write_cohort(template, tmp_path / "brains", subjects=1, seed=0)
    assert not (tmp_path / "brains").exists()


def test_a_template_whose_labels_lie_elsewhere_is_refused(tmp_path):
    template = shutil.copytree(BRAIN, tmp_path / "template")
    path = template / "template_labels.nii.gz"
    labels = nib.load(path)
    nib.save(nib.Nifti1Image(load(path), labels.affine + 5 * np.eye(4, k=3)), path)
    with pytest.raises(UserError, match="same voxels"):
        write_cohort(template, tmp_path / "brains", subjects=1, seed=0)
