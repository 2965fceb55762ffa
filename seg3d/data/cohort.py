"""Synthetic subjects from one labelled template, for demonstrations and tests.

One template is not a cohort. Every subject made here has the same folds of the same brain (or
whatever the template shows), bent a little, with another contrast and fresh noise. Scores on
such a cohort say whether the *method* works: whether the network learns, whether probing costs
accuracy. They say nothing about the clinic.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from seg3d.common.errors import UserError
from seg3d.common.files import atomic_write
from seg3d.io import Header, read_labels, read_volume, write_volume

Seed = int | Sequence[int]

# Lengths are in voxels, chosen for a head at 2 mm.
BEND, BEND_WIDTH = 2.5, 6.0  # largest displacement per axis, and sigma of its smoothing
STEEPEST_BEND = 0.5  # bound on the norm of the displacement's gradient; below 0.9 nothing folds
SHIFT, DEGREES, SCALE = 1.0, 4.0, 0.05  # largest affine change, per axis
BIAS, BIAS_WIDTH = 0.15, 20.0  # log of the strongest coil shading, and sigma of its smoothing
CONTRAST, LOG_GAMMA = 0.03, 0.15  # largest change of a tissue (share of the peak), of log gamma
EDGE = 0.1  # smallest share of a voxel that is divided by
NOISE = 0.02  # sigma of the noise in either channel of the receiver, share of the peak

SYNTHETIC = "Synthetic subjects, all deformed from one template"
DESCRIPTION = (
    SYNTHETIC + " ({template}). One template is not a "
    "cohort: scores on it speak of the method, not of the clinic. The test case is the "
    "undeformed template with fresh noise; its reference is in labelsTs."
)


def make_subject(
    image: np.ndarray, labels: np.ndarray, *, seed: Seed
) -> tuple[np.ndarray, np.ndarray]:
    """Deform a template, change its contrast, shade it and add noise.

    Args:
        image: `(X, Y, Z)`, non-negative intensities.
        labels: `(X, Y, Z)`, integers; 0 is the background, whose brightness stays.
        seed: same seed, same subject; a sequence is mixed as by `numpy.random.SeedSequence`.

    Returns:
        The subject's image, float32 `(X, Y, Z)` in the template's intensity units, and its
        labels, `(X, Y, Z)` in the type of ``labels``: per voxel, the class with the largest
        linearly interpolated share.
    """
    rng = np.random.default_rng(seed)
    peak = float(image.max())
    where = smooth_warp(image.shape, rng)
    values = np.unique(labels)
    tissues = np.stack([_sample(labels == value, where) for value in values if value != 0])
    inside = tissues.sum(axis=0)
    classes = np.concatenate([[0], values[values != 0]]).astype(labels.dtype)
    subject_labels = classes[np.argmax([1 - inside, *tissues], axis=0)]

    # Foreground and background are interpolated apart, each among its own voxels: scans are
    # stripped after they are taken, so the rim of a brain is as bright as its tissue.
    front = _sample(np.where(labels != 0, image, 0), where) / np.maximum(inside, EDGE)
    back = _sample(np.where(labels == 0, image, 0), where) / np.maximum(1 - inside, EDGE)
    subject = np.where(subject_labels != 0, front, back)
    brightness = peak * rng.uniform(-CONTRAST, CONTRAST, len(tissues)).astype(np.float32)
    subject += np.tensordot(brightness, tissues, axes=1)
    gamma = np.exp(rng.uniform(-LOG_GAMMA, LOG_GAMMA))
    subject = peak * (np.clip(subject, 0, None) / peak) ** gamma
    subject *= np.exp(BIAS * _smooth_field(image.shape, BIAS_WIDTH, rng))
    return add_noise(subject, NOISE * peak, rng), subject_labels


def smooth_warp(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Draw an invertible map: a small affine change about the centre plus a smooth bend.

    Returns:
        `(3, X, Y, Z)` float32, in voxels: where in the template each voxel of the subject lies.
        Its Jacobian is positive everywhere, because the bend's gradient is bounded by
        `STEEPEST_BEND` and the affine part stretches by more than that.
    """
    bend = BEND * np.stack([_smooth_field(shape, BEND_WIDTH, rng) for _ in range(3)])
    steepness = np.sqrt(sum(slope**2 for axis in bend for slope in np.gradient(axis))).max()
    bend *= min(1.0, STEEPEST_BEND / steepness)

    turn = Rotation.from_euler("xyz", rng.uniform(-DEGREES, DEGREES, 3), degrees=True)
    affine = turn.as_matrix() @ np.diag(1 + rng.uniform(-SCALE, SCALE, 3))
    centre = (np.array(shape).reshape(3, 1, 1, 1) - 1) / 2
    shift = rng.uniform(-SHIFT, SHIFT, (3, 1, 1, 1))
    moved = np.tensordot(affine, np.indices(shape) - centre, axes=1) + centre + shift
    return (moved + bend).astype(np.float32)


def add_noise(image: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """The magnitude of a complex signal with Gaussian noise in both channels (Rician noise).

    H. Gudbjartsson and S. Patz, "The Rician distribution of noisy MRI data", Magn. Reson. Med.
    34(6):910-914, 1995, equation 1. ``sigma`` is in the image's units; returns float32.
    """
    real, imaginary = sigma * rng.standard_normal((2, *image.shape), dtype=np.float32)
    return np.hypot(image + real, imaginary).astype(np.float32)


def write_cohort(
    template_dir: str | Path,
    out_dir: str | Path,
    *,
    subjects: int,
    seed: int,
    test_subject: bool = True,
) -> None:
    """Write a dataset in the layout of the Medical Segmentation Decathlon.

    ``imagesTr/subject_001.nii.gz`` ... with ``labelsTr/``, the template's LICENSE, and a
    ``dataset.json`` that appears last, once everything it names exists. Subject n depends on
    ``seed`` and n alone, so a larger cohort begins with the smaller one.

    Args:
        template_dir: holds ``template_t1.nii.gz``, ``template_labels.nii.gz``,
            ``template.json`` (name, reference, licence, modality, labels) and ``LICENSE``.
        out_dir: an empty folder, or one that does not exist yet.
        subjects: how many to make for training.
        seed: of the whole cohort.
        test_subject: also write the undeformed template with fresh noise as
            ``imagesTs/template.nii.gz``, and its reference under ``labelsTs/``.

    Raises:
        UserError: if the template is incomplete, or ``out_dir`` already holds something.
    """
    template_dir, out_dir = Path(template_dir), Path(out_dir)
    if subjects < 1:
        raise UserError("a cohort needs subjects", given=subjects, legal="1 or more")
    if out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        raise UserError(
            f"{out_dir} is not an empty folder",
            fix="choose a folder that does not exist yet, or remove this one",
        )
    image, labels, about = _read_template(template_dir)

    training = []
    for number in range(1, subjects + 1):
        name = f"subject_{number:03d}.nii.gz"
        subject = make_subject(image.array[0], labels.array[0], seed=[seed, number])
        training.append(_write_case(out_dir, "Tr", name, *subject, image.header))
    test = []
    if test_subject:
        rng = np.random.default_rng([seed, 0])
        noisy = add_noise(image.array[0], NOISE * float(image.array.max()), rng)
        case = _write_case(out_dir, "Ts", "template.nii.gz", noisy, labels.array[0], image.header)
        test.append(case["image"])

    shutil.copyfile(template_dir / "LICENSE", out_dir / "LICENSE")
    dataset = about | {
        "name": out_dir.name,
        "description": DESCRIPTION.format(template=about["name"]),
        "tensorImageSize": "3D",
        "numTraining": len(training),
        "numTest": len(test),
        "training": training,
        "test": test,
    }
    with atomic_write(out_dir / "dataset.json") as temporary:
        temporary.write_text(json.dumps(dataset, indent=2) + "\n", encoding="utf-8")


def _read_template(folder: Path) -> tuple[Any, Any, dict[str, Any]]:
    image = read_volume(folder / "template_t1.nii.gz")
    labels = read_labels(folder / "template_labels.nii.gz")
    if differences := image.grid.differences(labels.grid):
        raise UserError(
            f"image and labels of the template in {folder} do not lie on the same voxels",
            given="; ".join(differences),
        )
    for name in ("template.json", "LICENSE"):
        if not (folder / name).is_file():
            raise UserError(f"{folder / name} does not exist", fix="restore the template folder")
    return image, labels, json.loads((folder / "template.json").read_text(encoding="utf-8"))


def _write_case(
    out_dir: Path, part: str, name: str, image: np.ndarray, labels: np.ndarray, header: Header
) -> dict[str, str]:
    """Write image and labels; return their entry in ``dataset.json``."""
    # Whole numbers, as scanners store; the noise is far coarser than the rounding.
    stored = np.rint(image).astype(np.int16)
    write_volume(out_dir / f"images{part}" / name, stored[None], header)
    write_volume(out_dir / f"labels{part}" / name, labels[None].astype(np.uint8), header)
    return {"image": f"./images{part}/{name}", "label": f"./labels{part}/{name}"}


def _sample(volume: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Linear interpolation at `(3, X, Y, Z)` voxel positions; zero outside the volume."""
    return ndimage.map_coordinates(volume.astype(np.float32), where, order=1)


def _smooth_field(shape: tuple[int, ...], sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Random numbers smoothed with a Gaussian of ``sigma`` voxels, scaled to a peak of 1."""
    noise = rng.standard_normal(shape, dtype=np.float32)
    field = ndimage.gaussian_filter(noise, sigma)
    return field / np.abs(field).max()
