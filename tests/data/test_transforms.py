"""Preprocessing against nibabel and numpy; augmentation: alignment, padding, randomness."""

from __future__ import annotations

import itertools
import pickle
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from nibabel.processing import resample_from_to
from scipy.ndimage import gaussian_filter

from seg3d.common.errors import UserError
from seg3d.data.augmentation import augmentation
from seg3d.data.cache import RamCache
from seg3d.data.cases import Case
from seg3d.data.loaders import PatchStream
from seg3d.data.transforms import CENTRES, IMAGE, LABEL, preprocessed_grids
from seg3d.io import read_header
from seg3d.losses import IGNORE, DiceCrossEntropy
from seg3d.plan import ChannelIntensity, Plan
from tests.conftest import ROOT
from tests.plans import AUGMENTATIONS, classes, only, small_config, small_plan

OBLIQUE = np.array(
    [[-1.1, 0.2, 0.3, 12.0], [0.3, 0.1, -2.4, -7.0], [0.1, 1.4, 0.2, 30.0], [0, 0, 0, 1]]
)


def write(path: Path, voxels: np.ndarray, affine: np.ndarray | None = None) -> Path:
    nib.save(nib.nifti1.Nifti1Image(voxels, np.eye(4) if affine is None else affine), path)
    return path


def prepared(
    folder: Path,
    plan: Plan,
    image: np.ndarray | list[np.ndarray],
    label: np.ndarray,
    affine: np.ndarray | None = None,
) -> dict[str, Any]:
    """A case on the network's grid, not padded, and the affine of that grid."""
    images = [image] if isinstance(image, np.ndarray) else image
    case = Case(
        "one",
        tuple(write(folder / f"{index}.nii", one, affine) for index, one in enumerate(images)),
        write(folder / "label.nii", label, affine),
    )
    grid = preprocessed_grids(read_header(case.images[0]).grid, plan)[1]
    return cached(case, plan.model_copy(update={"patch_size": (1, 1, 1)})) | {"affine": grid.affine}


def cached(case: Case, plan: Plan) -> dict[str, Any]:
    cache = RamCache([case], plan)
    cache.fill()
    return cache[0]


def volume(image: np.ndarray, label: np.ndarray, plan: Plan, folder: Path) -> dict[str, Any]:
    paths = (
        write(folder / "image.nii", image.astype(np.float32)),
        write(folder / "label.nii", label.astype(np.int16)),
    )
    return cached(Case("one", paths[:1], paths[1]), plan)


def blobs(shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    """A smooth label of the values 0, 1 and 2."""
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 4)
    return np.digitize(noise, np.quantile(noise, (0.5, 0.75)))


def patches(ready: dict[str, Any], plan: Plan, count: int, **sections: Any) -> list[dict[str, Any]]:
    stream = PatchStream([ready], ["one"], augmentation(small_config(**sections), plan), seed=7)
    return [stream[index] for index in range(count)]


# --- preprocessing -----------------------------------------------------------------------------


def test_label_values_become_class_numbers_plus_one(tmp_path: Path) -> None:
    label = np.array([0, 3, 300, 7, -2, 40000], dtype=np.int32).reshape(1, 2, 3)
    plan = small_plan(classes=classes([0, 7], [300], [40000, 3]), ignore=[-2])
    ready = prepared(tmp_path, plan, np.zeros((1, 2, 3), np.float32), label)
    np.testing.assert_array_equal(ready[LABEL][0], np.array([1, 3, 2, 1, 0, 3]).reshape(1, 2, 3))
    assert ready[LABEL].dtype == np.uint8


def test_ct_clips_and_scales(tmp_path: Path) -> None:
    image = np.random.default_rng(0).normal(100, 300, (5, 6, 7)).astype(np.float32)
    ct = ChannelIntensity(name="CT", kind="ct", low=-50.0, high=250.0, mean=90.0, std=40.0)
    ready = prepared(tmp_path, small_plan(channels=[ct]), image, np.zeros((5, 6, 7), np.uint8))
    np.testing.assert_allclose(ready[IMAGE][0], (image.clip(-50, 250) - 90) / 40, atol=1e-5)


def test_zscore_over_the_volume_and_over_nonzero_voxels(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    image = generator.normal(1000, 20, (2, 6, 7, 8)).astype(np.float32)
    image[:, :3] = 0
    channels = [
        ChannelIntensity(name="T1", kind="zscore"),
        ChannelIntensity(name="T2", kind="zscore", nonzero=True),
    ]
    plan = small_plan(channels=channels)
    ready = prepared(tmp_path, plan, list(image), np.zeros((6, 7, 8), np.uint8))[IMAGE]
    whole, inside = image[0].astype(float), image[1, 3:].astype(float)
    np.testing.assert_allclose(ready[0], (whole - whole.mean()) / whole.std(), atol=1e-5)
    np.testing.assert_allclose(ready[1, 3:], (inside - inside.mean()) / inside.std(), atol=1e-5)
    assert (ready[1, :3] == 0).all()


@pytest.mark.parametrize("value", [0.0, 5.0, 1e6])
@pytest.mark.parametrize("nonzero", [True, False])
def test_zscore_of_a_constant_volume_is_finite(tmp_path: Path, value: float, nonzero: bool) -> None:
    plan = small_plan(channels=[ChannelIntensity(name="T1", kind="zscore", nonzero=nonzero)])
    image = np.full((4, 4, 4), value, np.float32)
    ready = prepared(tmp_path, plan, image, np.zeros((4, 4, 4), np.uint8))
    assert (ready[IMAGE] == 0).all()


@pytest.mark.parametrize("dtype", ["uint8", ">i2", "<u2", ">f4", "<f8"])
def test_number_types_and_byte_orders(tmp_path: Path, dtype: str) -> None:
    voxels = np.arange(24).reshape(2, 3, 4).astype(dtype)
    label = (np.arange(24).reshape(2, 3, 4) % 3).astype(dtype)
    ready = prepared(tmp_path, small_plan(), voxels, label)
    assert ready[IMAGE].dtype == np.float32
    np.testing.assert_array_equal(ready[IMAGE][0], np.arange(24).reshape(2, 3, 4))
    np.testing.assert_array_equal(ready[LABEL][0] - 1, label.astype(int))


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("mirrored", [(1, 1, 1), (-1, 1, -1)])
def test_orientation_is_nibabels(
    tmp_path: Path, axes: tuple[int, ...], mirrored: tuple[int, ...]
) -> None:
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[:, list(axes)] * mirrored * (1.0, 2.0, 3.0)
    affine[:3, 3] = (5, -6, 7)
    image = np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32)
    label = np.random.default_rng(1).integers(0, 3, (4, 5, 6)).astype(np.uint8)
    ready = prepared(tmp_path, small_plan(orientation="RAS"), image, label, affine=affine)
    for key, voxels in ((IMAGE, image), (LABEL, label + 1)):
        canonical = nib.as_closest_canonical(nib.nifti1.Nifti1Image(voxels, affine))
        np.testing.assert_array_equal(ready[key][0], canonical.get_fdata())
        np.testing.assert_allclose(ready["affine"], canonical.affine)


@pytest.mark.parametrize("affine", [np.diag([2.0, 1.0, 3.0, 1.0]), OBLIQUE])
def test_resampling_puts_values_where_the_affine_says(tmp_path: Path, affine: np.ndarray) -> None:
    shape = (20, 21, 22)
    image = gaussian_filter(np.random.default_rng(0).normal(size=shape), 3).astype(np.float32)
    label = (image > 0).astype(np.uint8)
    plan = small_plan(orientation="RAS", spacing=(1.37, 1.21, 1.83))
    ready = prepared(tmp_path, plan, image, label, affine=affine)
    assert ready[IMAGE].shape == ready[LABEL].shape
    new = ready["affine"]
    np.testing.assert_allclose(nib.affines.voxel_sizes(new), plan.spacing, rtol=1e-6)
    target = (ready[IMAGE].shape[1:], new)
    expected = resample_from_to(nib.nifti1.Nifti1Image(image, affine), target, 1, mode="nearest")
    np.testing.assert_allclose(ready[IMAGE][0], expected.get_fdata(), atol=1e-5)
    expected = resample_from_to(nib.nifti1.Nifti1Image(label, affine), target, 0, mode="nearest")
    there = nib.affines.apply_affine(np.linalg.inv(affine) @ new, np.argwhere(ready[LABEL][0] > 0))
    # Half-way between two voxels, either may be taken.
    clear = (np.abs(there % 1 - 0.5) > 1e-3).all(1)
    np.testing.assert_array_equal(
        ready[LABEL].ravel()[clear] - 1, expected.get_fdata().ravel()[clear]
    )
    assert clear.mean() > 0.9


def test_a_rounding_error_between_the_headers_does_not_tear_image_and_label_apart(
    tmp_path: Path,
) -> None:
    """Turned by 45 degrees, either of two axes may be the one that points to the right."""
    voxels = np.random.default_rng(0).integers(0, 3, (6, 8, 10)).astype(np.int16)
    paths = []
    for name, degrees in (("image", 45 + 1e-4), ("label", 45 - 1e-4)):
        affine, angle = np.eye(4), np.deg2rad(degrees)
        affine[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        paths.append(write(tmp_path / f"{name}.nii", voxels, affine))
    plan = small_plan(orientation="RAS", patch_size=(1, 1, 1))
    ready = cached(Case("one", (paths[0],), paths[1]), plan)
    np.testing.assert_array_equal(ready[IMAGE] + 1, ready[LABEL])


def test_what_is_wrong_with_a_file_reaches_the_user(tmp_path: Path) -> None:
    image = np.zeros((4, 4, 4), np.float32)
    image[1, 2, 3] = np.nan
    with pytest.raises(UserError, match="1 voxels that are NaN"):
        prepared(tmp_path, small_plan(), image, np.zeros((4, 4, 4), np.uint8))


# --- patches -----------------------------------------------------------------------------------


def test_patches_without_augmentation_are_cut_from_the_volume(tmp_path: Path) -> None:
    shape = (20, 24, 18)
    image = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    label = np.random.default_rng(0).integers(0, 3, shape)
    plan = small_plan(patch_size=(7, 8, 18))
    starts = set()
    for patch in patches(volume(image, label, plan, tmp_path), plan, 50):
        assert patch[IMAGE].shape == patch[LABEL].shape == (1, 7, 8, 18)
        assert patch[IMAGE].dtype == torch.float32 and patch[LABEL].dtype == torch.int16
        assert type(patch[IMAGE]) is type(patch[LABEL]) is torch.Tensor
        x, y, z = np.unravel_index(int(patch[IMAGE][0, 0, 0, 0]), shape)
        np.testing.assert_array_equal(patch[IMAGE][0], image[x : x + 7, y : y + 8, z : z + 18])
        np.testing.assert_array_equal(patch[LABEL][0], label[x : x + 7, y : y + 8, z : z + 18])
        starts.add((int(x), int(y), int(z)))
    assert {x for x, _, _ in starts} >= {0, 13} and {y for _, y, _ in starts} >= {0, 16}


def corner_and_rest() -> np.ndarray:
    """Background but for a voxel of class 1 in the middle of one half, 2 in that of the other."""
    label = np.zeros((40, 20, 20), int)
    label[10, 10, 10], label[30, 10, 10] = 1, 2
    return label


@pytest.mark.parametrize("foreground", [0.0, 0.33, 1.0])
@pytest.mark.parametrize("count", [3, 31])
def test_share_of_patches_centred_on_foreground(
    tmp_path: Path, foreground: float, count: int
) -> None:
    """Also if the case has two of thirty classes only."""
    label = corner_and_rest()
    plan = small_plan(classes=classes(*([value] for value in range(count))), patch_size=(4, 4, 4))
    ready = volume(label.astype(np.float32), label, plan, tmp_path)
    drawn = 600
    found = [
        int(patch[LABEL][0, 2, 2, 2])
        for patch in patches(ready, plan, drawn, patch={"foreground": foreground})
    ]
    # Four standard errors.
    tolerance = 4 * (foreground * (1 - foreground) / drawn) ** 0.5
    assert np.mean([one > 0 for one in found]) == pytest.approx(foreground, abs=tolerance + 0.001)
    ones, twos = found.count(1), found.count(2)
    assert abs(ones - twos) <= 4 * (ones + twos) ** 0.5


@pytest.mark.parametrize("foreground", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("value", [0, 1, 9])
def test_a_case_of_one_value_only(tmp_path: Path, value: int, foreground: float) -> None:
    """Background, a foreground class, or a value to be ignored."""
    plan = small_plan(patch_size=(4, 5, 6), ignore=[9])
    label = np.full((8, 8, 8), value)
    ready = volume(label.astype(np.float32), label, plan, tmp_path)
    for patch in patches(ready, plan, 5, patch={"foreground": foreground}):
        assert (patch[LABEL] == (IGNORE if value == 9 else value)).all()


def test_volumes_smaller_than_the_patch_are_padded_with_no_label(tmp_path: Path) -> None:
    label = np.random.default_rng(0).integers(0, 3, (5, 20, 9))
    plan = small_plan()
    (patch,) = patches(volume(label + 1.0, label, plan, tmp_path), plan, 1)
    inside = patch[LABEL][0] != IGNORE
    assert inside.sum() == 5 * 16 * 9
    assert (patch[IMAGE][0][~inside] == 0).all()
    assert (patch[IMAGE][0][inside] == patch[LABEL][0][inside] + 1).all()

    scores = torch.randn(1, 3, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    other = torch.where(inside, scores, -scores)
    loss, target = DiceCrossEntropy(), patch[LABEL][None]
    assert loss([scores], target)["loss"] == loss([other], target)["loss"]


# --- augmentation ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def smooth(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A volume whose image is its label, smoothly."""
    label = blobs((40, 40, 40))
    return volume(label.astype(np.float32), label, small_plan(), tmp_path_factory.mktemp("smooth"))


LARGE = small_plan(patch_size=(32, 32, 32))


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("anisotropic", [False, True])
def test_every_augmentation(smooth: dict[str, Any], name: str, anisotropic: bool) -> None:
    """It changes something, keeps shapes and types, depends on the seed alone, spares the cache."""
    changes = {"typical_spacing": (1.0, 1.0, 4.0)} if anisotropic else {}
    plan = small_plan(patch_size=(24, 28, 20), **changes)
    before = {key: smooth[key].copy() for key in (IMAGE, LABEL)}
    plain = patches(smooth, plan, 4)
    drawn = patches(smooth, plan, 4, augment=only(name))
    again = patches(smooth, plan, 4, augment=only(name))
    assert any(
        not torch.equal(one[key], other[key])
        for one, other in zip(plain, drawn, strict=True)
        for key in (IMAGE, LABEL)
    )
    for one, other in zip(drawn, again, strict=True):
        assert one[IMAGE].shape == one[LABEL].shape == (1, 24, 28, 20)
        assert one[IMAGE].dtype == torch.float32 and one[LABEL].dtype == torch.int16
        assert one[IMAGE].isfinite().all()
        assert set(one[LABEL].unique().tolist()) <= {IGNORE, 0, 1, 2}
        assert torch.equal(one[IMAGE], other[IMAGE]) and torch.equal(one[LABEL], other[LABEL])
    assert not torch.equal(drawn[0][IMAGE], drawn[1][IMAGE])
    for key, voxels in before.items():
        assert np.array_equal(smooth[key], voxels)


@pytest.mark.parametrize("name", ["flip", "affine", "elastic"])
def test_image_and_label_move_together(smooth: dict[str, Any], name: str) -> None:
    for patch in patches(smooth, LARGE, 6, augment=only(name)):
        known = patch[LABEL] != IGNORE
        assert known.float().mean() > 0.4
        # Interpolated between two labels; the nearest of them is at most half the way off.
        wrong = (patch[IMAGE] - patch[LABEL])[known].abs() > 0.75
        assert wrong.float().mean() < 0.005


@pytest.mark.parametrize("name", ["bias_field", "contrast", "noise", "blur", "low_resolution"])
def test_intensities_change_and_the_label_stays(smooth: dict[str, Any], name: str) -> None:
    plain = patches(smooth, LARGE, 3)
    for one, other in zip(plain, patches(smooth, LARGE, 3, augment=only(name)), strict=True):
        assert torch.equal(one[LABEL], other[LABEL])
        assert not torch.equal(one[IMAGE], other[IMAGE])
        correlation = np.corrcoef(one[IMAGE].ravel(), other[IMAGE].ravel())[0, 1]
        assert correlation > 0.85


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_flip_is_of_the_axes_asked_for(smooth: dict[str, Any], axis: int) -> None:
    (plain,) = patches(smooth, LARGE, 1)
    (flipped,) = patches(smooth, LARGE, 1, augment=only("flip", axes=[axis]))
    for key in (IMAGE, LABEL):
        assert torch.equal(flipped[key], plain[key].flip(axis + 1))


def cross(shape: tuple[int, int, int], half: tuple[int, int, int]) -> np.ndarray:
    """A box of class 1 in the middle."""
    label = np.zeros(shape, int)
    label[
        tuple(
            slice(length // 2 - size, length // 2 + size)
            for length, size in zip(shape, half, strict=True)
        )
    ] = 1
    return label


@pytest.mark.parametrize(("zoom", "larger"), [(1.4, True), (0.7, False)])
def test_zoom_is_a_factor_on_the_size_of_things(tmp_path: Path, zoom: float, larger: bool) -> None:
    label = cross((32, 32, 32), (8, 8, 8))
    ready = volume(label.astype(np.float32), label, LARGE, tmp_path)
    (patch,) = patches(ready, LARGE, 1, augment=only("affine", degrees=0.0, zoom=[zoom, zoom]))
    assert float(patch[IMAGE].sum()) / 16**3 == pytest.approx(zoom**3, rel=0.03)
    assert int((patch[LABEL] == 1).sum()) / 16**3 == pytest.approx(zoom**3, rel=0.25)
    # What a zoom out brings in from outside has no label.
    assert (patch[LABEL] == IGNORE).any() != larger


def test_rotation_is_about_the_middle_by_up_to_the_angle(tmp_path: Path) -> None:
    label = cross((32, 32, 32), (12, 3, 3))
    ready = volume(label.astype(np.float32), label, LARGE, tmp_path)
    settings = only("affine", degrees=30.0, zoom=[1.0, 1.0])
    angles = []
    for patch in patches(ready, LARGE, 60, augment=settings):
        points = (patch[LABEL][0] == 1).nonzero().double()
        assert (points.mean(0) - 15.5).abs().max() < 0.7
        direction = torch.linalg.eigh(torch.cov(points.T))[1][:, -1].abs()
        angles.append(torch.rad2deg(direction[0].clamp(max=1).acos()).item())
    assert 30 < max(angles) < 45 and min(angles) < 15


@pytest.mark.parametrize(
    ("upright", "spacing", "axes"),
    [
        (0, (4.0, 1.0, 1.0), "auto"),
        (1, (1.0, 4.0, 1.0), "auto"),
        (2, (1.0, 1.0, 4.0), "auto"),
        (2, (1.0, 1.0, 1.0), [2]),
        (2, (12.5, 12.5, 4.0), [2]),  # thick or not: what is asked for is done
    ],
)
def test_rotation_about_one_axis(
    tmp_path: Path, upright: int, spacing: tuple[float, float, float], axes: Any
) -> None:
    """Thick slices turn in their plane only, and seismic volumes about the vertical axis only."""
    plan = small_plan(patch_size=(32, 32, 32), typical_spacing=spacing)
    # Each slice along the axis has its own image value, which must stay in its slice.
    image = np.moveaxis(np.broadcast_to(np.arange(32.0), (32, 32, 32)), -1, upright)
    widths = {upright: 16, (upright + 1) % 3: 4, (upright + 2) % 3: 12}
    label = cross((32, 32, 32), (widths[0], widths[1], widths[2]))
    ready = volume(image, label, plan, tmp_path)
    settings = only("affine", degrees=30.0, zoom=[1.0, 1.0], axes=axes)
    plain = label == 1
    turned = 0
    for patch in patches(ready, plan, 6, augment=settings):
        np.testing.assert_allclose(patch[IMAGE][0], image, atol=1e-4)
        turned += int((patch[LABEL][0].numpy() == 1)[plain].mean() < 0.97)
    assert turned >= 3


@pytest.mark.parametrize("name", ["seismic_faults", "demo_faults"])
def test_seismic_volumes_stay_upright(tmp_path: Path, name: str) -> None:
    """Whatever is drawn, each time slice keeps to one value, and values grow with time."""
    tree = yaml.safe_load((ROOT / "configs" / f"{name}.yaml").read_text())
    augment = tree["augment"] | {"noise": {"prob": 0}, "blur": {"prob": 0}}
    image = np.broadcast_to(np.arange(32.0), (32, 32, 32))
    ready = volume(image, cross((32, 32, 32), (4, 12, 16)), LARGE, tmp_path)
    for patch in patches(ready, LARGE, 12, augment=augment):
        times = patch[IMAGE][0, :1, :1]
        np.testing.assert_allclose(patch[IMAGE][0], times.expand(32, 32, 32), atol=1e-4)
        assert (times.diff() >= 0).all()


def test_elastic_deformation_is_smooth_and_of_a_few_voxels(tmp_path: Path) -> None:
    ramp = np.broadcast_to(np.arange(48.0)[:, None, None], (48, 48, 48))
    plan = small_plan(patch_size=(48, 48, 48))
    ready = volume(ramp, np.zeros((48, 48, 48), int), plan, tmp_path)
    moved = [
        (patch[IMAGE][0].numpy() - ramp)[10:-10, 10:-10, 10:-10]
        for patch in patches(ready, plan, 4, augment=only("elastic"))
    ]
    for displacement in moved:
        assert np.abs(displacement).max() < 12
        # No folding: the coordinate grows along its axis.
        assert (np.diff(displacement, axis=0) > -1).all()


@pytest.mark.parametrize("sigma", [1.5, 4.0, 7.0])
def test_elastic_deformation_is_as_strong_as_smoothed_noise(tmp_path: Path, sigma: float) -> None:
    """Uniform noise between -1 and 1, smoothed with a Gaussian of this sigma, times magnitude."""
    ramp = np.broadcast_to(np.arange(48.0)[:, None, None], (48, 48, 48))
    plan = small_plan(patch_size=(48, 48, 48))
    ready = volume(ramp, np.zeros((48, 48, 48), int), plan, tmp_path)
    expected = 1.5
    magnitude = expected * 3**0.5 * (2 * np.pi**0.5 * sigma) ** 1.5
    settings = only("elastic", sigma=[sigma, sigma], magnitude=[magnitude, magnitude])
    moved = [
        (patch[IMAGE][0].numpy() - ramp)[10:-10]
        for patch in patches(ready, plan, 12, augment=settings)
    ]
    assert np.std(moved) == pytest.approx(expected, rel=0.12)
    # Over one sigma, smoothed white noise is still alike: exp(-1/4).
    apart = round(sigma)
    alike = np.mean([one[:, apart:] * one[:, :-apart] for one in moved]) / np.var(moved)
    assert alike == pytest.approx(np.exp(-((apart / sigma) ** 2) / 4), abs=0.1)


@pytest.mark.parametrize("name", ["affine", "elastic"])
def test_nothing_is_labelled_that_was_not(tmp_path: Path, name: str) -> None:
    """An ignored region moves along, and none of it becomes background."""
    label = blobs((40, 40, 40))
    plan = small_plan(classes=classes([0], [1]), ignore=[2], patch_size=(32, 32, 32))
    ready = volume(label.astype(np.float32), label, plan, tmp_path)
    for patch in patches(ready, plan, 4, augment=only(name)):
        # The nearest of eight voxels has at least an eighth of the weight: all are ignored ones.
        deep = patch[IMAGE] > 2 - 1 / 8
        assert deep.any() and (patch[LABEL][deep] == IGNORE).all()


def test_bias_field_is_smooth_and_leaves_the_darkest_voxel(tmp_path: Path) -> None:
    image = np.full((32, 32, 32), 3.0)
    image[0, 0, 0] = -1.0
    ready = volume(image, np.zeros((32, 32, 32), int), LARGE, tmp_path)
    (patch,) = patches(ready, LARGE, 1, augment=only("bias_field"))
    changed = patch[IMAGE][0]
    assert changed[0, 0, 0] == pytest.approx(-1.0)
    field = (changed + 1) / 4
    field[0, 0, 0] = field[0, 0, 1]
    assert (field > 0).all() and field.std() > 1e-3
    assert max(field.diff(dim=axis).abs().max() for axis in range(3)) < 0.5


def test_noise_is_no_louder_than_its_largest_deviation(smooth: dict[str, Any]) -> None:
    plain = patches(smooth, LARGE, 12)
    noisy = patches(smooth, LARGE, 12, augment=only("noise", std=0.2))
    levels = [
        float((other[IMAGE] - one[IMAGE]).std()) for one, other in zip(plain, noisy, strict=True)
    ]
    assert max(levels) < 0.202 and max(levels) > 0.12 and min(levels) < 0.08


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_the_random_part_can_be_sent_to_another_process(
    smooth: dict[str, Any], method: str
) -> None:
    config = small_config(augment={"noise": {"prob": 1.0}})
    stream = PatchStream([smooth], ["one"], augmentation(config, LARGE), seed=1)
    again = pickle.loads(pickle.dumps(stream)) if method == "spawn" else stream
    assert torch.equal(stream[3][IMAGE], again[3][IMAGE])
    assert torch.equal(stream[3][LABEL], again[3][LABEL])


def test_thirty_classes(tmp_path: Path) -> None:
    label = np.arange(31).repeat(32).reshape(31, 8, 4) % 31
    plan = small_plan(classes=classes(*([value] for value in range(31))), patch_size=(2, 2, 2))
    ready = volume(label.astype(np.float32), label, plan, tmp_path)
    assert len(ready[LABEL + CENTRES]) == 32
    drawn = patches(ready, plan, 800, patch={"foreground": 1.0})
    found = torch.tensor([int(patch[LABEL][0, 1, 1, 1]) for patch in drawn]).bincount()
    assert found[0] == 0 and (found[1:] > 5).all()
