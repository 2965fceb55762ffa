"""Preprocessing and augmentation as MONAI dictionary transforms.

Inside the pipeline a label voxel holds its class number plus one, and 0 where there is no label:
padding, and whatever a rotation brings in from outside, is then ignored by the loss by itself.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai import transforms as mt
from monai.data import MetaTensor

from seg3d.config import AugmentConfig, Config
from seg3d.data.survey import read_case_images
from seg3d.io import read_labels
from seg3d.plan import ChannelIntensity, LabelClass, Plan

IMAGE, LABEL = "image", "label"
BOTH = (IMAGE, LABEL)
CENTRES = "_patch_centres"
# Voxels per class that are remembered as possible patch centres, as in nnU-Net.
CENTRES_PER_CLASS = 10_000


class LoadCase(mt.Transform):
    """Replace the paths of a case by `(C, X, Y, Z)` tensors that know their affine."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        loaded = dict(data)
        image = read_case_images(tuple(Path(path) for path in data[IMAGE]))
        loaded[IMAGE] = _tensor(image.array, image.grid.affine)
        if LABEL in data:
            label = read_labels(Path(data[LABEL]))
            loaded[LABEL] = _tensor(label.array.astype(np.int32), label.grid.affine)
        return loaded


def _tensor(array: np.ndarray, affine: np.ndarray) -> MetaTensor:
    native = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    return MetaTensor(torch.from_numpy(native), affine=torch.from_numpy(affine.copy()))


class MapLabels(mt.MapTransform):
    """Turn label values into class numbers plus one (0: no label), stored in one byte.

    Args:
        classes: the network's classes in order.
    """

    def __init__(self, classes: list[LabelClass]) -> None:
        super().__init__([LABEL])
        self.classes = classes

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        mapped = dict(data)
        label = mapped[LABEL]
        numbers = torch.zeros_like(label, dtype=torch.uint8)
        for number, one in enumerate(self.classes):
            for value in one.values:
                numbers[label == value] = number + 1
        mapped[LABEL] = numbers
        return mapped


class NormaliseIntensity(mt.MapTransform):
    """Normalise every channel as the plan says (see `seg3d.plan.ChannelIntensity`)."""

    def __init__(self, channels: list[ChannelIntensity]) -> None:
        super().__init__([IMAGE])
        self.channels = channels

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        normalised = dict(data)
        image = normalised[IMAGE].clone()
        for voxels, channel in zip(image, self.channels, strict=True):
            if channel.kind == "ct":
                voxels.clamp_(channel.low, channel.high).sub_(channel.mean).div_(channel.std)
            elif channel.kind == "zscore":
                inside = (
                    voxels != 0 if channel.nonzero else torch.ones_like(voxels, dtype=torch.bool)
                )
                values = voxels[inside].double()
                if values.numel():
                    std = max(float(values.std(correction=0)), 1e-6)
                    voxels[inside] = ((values - values.mean()) / std).float()
        normalised[IMAGE] = image
        return normalised


def preprocessing(plan: Plan, *, labelled: bool) -> mt.Compose:
    """The deterministic part: load, orient, resample, normalise, map labels.

    Prediction uses it without labels, and inverts it.
    """
    keys = BOTH if labelled else (IMAGE,)
    steps: list[Any] = [LoadCase()]
    if plan.orientation != "none":
        steps.append(mt.Orientationd(keys, axcodes=plan.orientation, labels=None))
    if plan.spacing is not None:
        modes = ("bilinear", "nearest")[: len(keys)]
        steps.append(mt.Spacingd(keys, pixdim=plan.spacing, mode=modes, padding_mode="border"))
    steps.append(NormaliseIntensity(plan.channels))
    if labelled:
        steps.append(MapLabels(plan.classes))
    return mt.Compose(steps)


def training_preprocessing(plan: Plan) -> mt.Compose:
    """`preprocessing`, padded to the patch, with patch centres, as plain tensors to be cached."""
    return mt.Compose(
        [
            *preprocessing(plan, labelled=True).transforms,
            mt.SpatialPadd(BOTH, plan.patch_size),
            mt.ClassesToIndicesd(
                [LABEL],
                indices_postfix=CENTRES,
                num_classes=len(plan.classes) + 1,
                max_samples_per_class=CENTRES_PER_CLASS,
            ),
            mt.EnsureTyped(BOTH, track_meta=False),
        ]
    )


def augmentation(config: Config, plan: Plan) -> mt.Compose:
    """The random part: crop a patch, change its shape, then its intensities."""
    foreground = config.patch.foreground
    classes = len(plan.classes)
    # No label; background (never quite 0: a case may have nothing else); foreground alike.
    ratios = [0.0, max(1 - foreground, 1e-6)] + [foreground / (classes - 1)] * (classes - 1)
    crop = mt.RandCropByLabelClassesd(
        BOTH,
        label_key=LABEL,
        indices_key=LABEL + CENTRES,
        spatial_size=plan.patch_size,
        ratios=ratios,
        num_classes=classes + 1,
        warn=False,
    )
    return mt.Compose(
        [
            crop,
            mt.SelectItemsd(BOTH),
            *_changes_of_shape(config.augment, plan),
            *_changes_of_intensity(config.augment),
            mt.Lambdad([LABEL], lambda label: label.to(torch.int16) - 1),
            mt.EnsureTyped(BOTH, track_meta=False),
        ]
    )


def _changes_of_shape(augment: AugmentConfig, plan: Plan) -> list[Any]:
    resampling = {"mode": ("bilinear", "nearest"), "padding_mode": ("border", "zeros")}
    steps: list[Any] = []
    if augment.affine.prob:
        angle = math.radians(augment.affine.degrees)
        angles = [angle] * 3
        if plan.anisotropic:
            # Turning thick slices into each other makes anatomy that no scanner shows.
            thick = int(np.argmax(plan.typical_spacing))
            angles = [angle if axis == thick else 0.0 for axis in range(3)]
        smallest, largest = augment.affine.zoom
        steps.append(
            mt.RandAffined(
                BOTH,
                prob=augment.affine.prob,
                rotate_range=angles,
                # MONAI scales the sampling grid: things grow when the grid shrinks.
                scale_range=[(1 / largest - 1, 1 / smallest - 1)] * 3,
                **resampling,
            )
        )
    if augment.elastic.prob:
        steps.append(
            mt.Rand3DElasticd(
                BOTH,
                prob=augment.elastic.prob,
                sigma_range=augment.elastic.sigma,
                magnitude_range=augment.elastic.magnitude,
                **resampling,
            )
        )
    if augment.flip.prob:
        steps += [
            mt.RandFlipd(BOTH, prob=augment.flip.prob, spatial_axis=axis)
            for axis in augment.flip.axes
        ]
    return steps


class RandBiasFieldd(mt.RandomizableTransform, mt.MapTransform):
    """MONAI's multiplicative bias field, on intensities counted from the patch's darkest voxel.

    On z-scores themselves it would leave average tissue unchanged and invert the field below it.
    """

    def __init__(self, prob: float, strength: float) -> None:
        mt.MapTransform.__init__(self, [IMAGE])
        mt.RandomizableTransform.__init__(self, prob)
        self.field = mt.RandBiasField(prob=1.0, coeff_range=(-strength, strength))

    def set_random_state(
        self, seed: int | None = None, state: np.random.RandomState | None = None
    ) -> RandBiasFieldd:
        super().set_random_state(seed, state)
        self.field.set_random_state(seed, state)
        return self

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        self.randomize(None)
        changed = dict(data)
        if self._do_transform:
            darkest = changed[IMAGE].min()
            changed[IMAGE] = self.field(changed[IMAGE] - darkest) + darkest
        return changed


def _changes_of_intensity(augment: AugmentConfig) -> list[Any]:
    sigma = augment.blur.sigma
    return [
        step
        for prob, step in (
            (
                augment.bias_field.prob,
                RandBiasFieldd(augment.bias_field.prob, augment.bias_field.strength),
            ),
            (
                augment.contrast.prob,
                mt.RandAdjustContrastd(
                    [IMAGE], prob=augment.contrast.prob, gamma=augment.contrast.gamma
                ),
            ),
            (
                augment.blur.prob,
                mt.RandGaussianSmoothd(
                    [IMAGE], prob=augment.blur.prob, sigma_x=sigma, sigma_y=sigma, sigma_z=sigma
                ),
            ),
            (
                augment.low_resolution.prob,
                mt.RandSimulateLowResolutiond(
                    [IMAGE],
                    prob=augment.low_resolution.prob,
                    zoom_range=augment.low_resolution.zoom,
                ),
            ),
            (
                augment.noise.prob,
                mt.RandGaussianNoised([IMAGE], prob=augment.noise.prob, std=augment.noise.std),
            ),
        )
        if prob
    ]
