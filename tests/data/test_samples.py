"""What ships in data/: small, labelled, placed in the world, and with its licence."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

DATA = Path(__file__).resolve().parents[2] / "data"
VOLUMES = sorted(DATA.rglob("*.nii.gz"))
# SHA-256 of the voxels of slicerio's NRRD files in file order, as int16 and uint8.
CHEST_VOXELS = {
    "imagesTr": "015bec29a8b0ba139a1bed35c7ad4b690132637f3d40a87bee35757938790de4",
    "labelsTr": "05c7f113371396f678bfdd91ed21772414eade96b08a0a64581266a3aa3d0185",
}


def load(name: str) -> np.ndarray:
    return np.asanyarray(nib.load(DATA / name).dataobj)


def table_of_files() -> set[str]:
    """The paths in the first column of the README's table."""
    lines = (DATA / "README.md").read_text().splitlines()
    return {line.split("`")[1] for line in lines if line.startswith("| `")}


def test_readme_lists_every_file_and_nothing_else():
    files = {
        str(path.relative_to(DATA))
        for path in DATA.rglob("*")
        if path.is_file() and path.name != "README.md"
    }
    assert table_of_files() == files


@pytest.mark.parametrize(
    "folder, holder", [("brain", "McGill University"), ("chest_ct", "Andras Lasso")]
)
def test_every_sample_has_its_licence(folder, holder):
    licence = (DATA / folder / "LICENSE").read_text()
    assert "Copyright (" in licence
    assert holder in licence
    assert holder in (DATA / "README.md").read_text()


def test_the_brain_licence_stands_in_the_readme_word_for_word():
    readme = (DATA / "README.md").read_text().replace("\n>", " ").split()
    assert " ".join((DATA / "brain/LICENSE").read_text().split()) in " ".join(readme)


def test_samples_are_small():
    assert sum(path.stat().st_size for path in (DATA / "brain").iterdir()) < 300_000
    assert sum(path.stat().st_size for path in VOLUMES) < 1_000_000


@pytest.mark.parametrize("path", VOLUMES, ids=lambda path: str(path.relative_to(DATA)))
def test_every_volume_is_placed_in_millimetres(path):
    image = nib.load(path)
    code = 4 if "brain" in path.parts else 1
    sform, sform_code = image.get_sform(coded=True)
    qform, qform_code = image.get_qform(coded=True)
    assert (sform_code, qform_code) == (code, code)
    np.testing.assert_allclose(sform, qform, rtol=1e-6)
    assert image.header.get_xyzt_units()[0] == "mm"
    assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
    assert image.header.get_slope_inter() in [(None, None), (1, 0)]


def test_the_brain_lies_in_mni_space():
    labels = nib.load(DATA / "brain/template_labels.nii.gz")
    tissue = np.asanyarray(labels.dataobj)
    assert labels.header.get_zooms() == (2, 2, 2)
    assert np.array_equal(labels.affine, nib.load(DATA / "brain/template_t1.nii.gz").affine)

    def at(x: float, y: float, z: float) -> int:
        voxel = np.rint(np.linalg.inv(labels.affine) @ [x, y, z, 1])[:3].astype(int)
        return int(tissue[tuple(voxel)])

    assert at(0, 28, 4) == 3  # genu of the corpus callosum
    assert {at(-6, 10, 16), at(6, 10, 16)} == {1}  # lateral ventricles
    assert {at(-12, -20, 8), at(12, -20, 8)} == {2}  # thalami
    assert {at(-26, -30, 30), at(26, -30, 30)} == {3}  # corona radiata
    assert at(0, 0, 86) == 0  # above the brain


def test_brain_tissues_have_plausible_volumes_and_contrast():
    image, labels = load("brain/template_t1.nii.gz"), load("brain/template_labels.nii.gz")
    assert image.shape == labels.shape == (80, 96, 80)
    assert image.dtype == labels.dtype == np.uint8
    assert np.array_equal(image > 0, labels > 0)
    fluid, grey, white = (0.008 * (labels == tissue).sum() for tissue in (1, 2, 3))
    assert 60 < fluid < 200  # ml
    assert 1000 < grey < 1300
    assert 500 < white < 750
    medians = [np.median(image[labels == tissue]) for tissue in (1, 2, 3)]
    assert np.diff(medians).min() > 40
    assert ndimage.label(labels > 0)[1] == 1


def test_brain_is_symmetric():
    """The template is; a slip in the cropping or the origin would show."""
    labels = nib.load(DATA / "brain/template_labels.nii.gz")
    tissue = np.asanyarray(labels.dataobj)
    middle = round(-labels.affine[0, 3] / labels.affine[0, 0])
    reach = min(middle, tissue.shape[0] - 1 - middle)
    left = tissue[middle - reach : middle][::-1]
    right = tissue[middle + 1 : middle + 1 + reach]
    assert (left == right).mean() > 0.999


@pytest.mark.parametrize("folder", CHEST_VOXELS)
def test_chest_voxels_are_those_of_the_source(folder):
    voxels = load(f"chest_ct/{folder}/chest.nii.gz").tobytes(order="F")
    assert hashlib.sha256(voxels).hexdigest() == CHEST_VOXELS[folder]


def test_chest_geometry_is_the_source_turned_from_lps_to_ras():
    expected = np.diag([3.04687595367432, 3.04687595367432, 10, 1])
    expected[:3, 3] = [-193.09599304199222, -216.39599609374994, -340.25]
    for folder in CHEST_VOXELS:
        affine = nib.load(DATA / f"chest_ct/{folder}/chest.nii.gz").affine
        np.testing.assert_allclose(affine, expected, rtol=1e-12)


def test_chest_holds_hounsfield_units():
    image, labels = (load(f"chest_ct/{folder}/chest.nii.gz") for folder in CHEST_VOXELS)
    assert image.dtype == np.int16
    assert labels.dtype == np.uint8
    assert (image.min(), image.max()) == (-3024, 3070)
    lung, bone, tissue = (
        np.median(image[np.isin(labels, values)]) for values in ([5, 6], [1, 2, 3, 4], [7])
    )
    assert lung < -800
    assert -50 < tissue < 70
    assert bone > 150


def test_chest_lungs_are_on_their_side():
    labels = nib.load(DATA / "chest_ct/labelsTr/chest.nii.gz")
    right, left = (
        nib.affines.apply_affine(
            labels.affine, np.argwhere(np.asanyarray(labels.dataobj) == value).mean(axis=0)
        )
        for value in (5, 6)
    )
    assert right[0] > left[0] + 100  # mm; RAS+: x grows to the right


def test_chest_dataset_json_matches_its_files():
    dataset = json.loads((DATA / "chest_ct/dataset.json").read_text())
    assert dataset["numTraining"] == len(dataset["training"]) == 1
    assert dataset["modality"] == {"0": "CT"}
    for path in dataset["training"][0].values():
        assert (DATA / "chest_ct" / path).is_file()
    values = np.unique(load("chest_ct/labelsTr/chest.nii.gz"))
    assert [int(value) for value in dataset["labels"]] == values.tolist()
    assert dataset["labels"]["1"] == "ribs"
    assert dataset["labels"]["5"] == "right lung"
