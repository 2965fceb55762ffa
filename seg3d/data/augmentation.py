"""Random patches and their augmentation, as MONAI dictionary transforms.

Labels come in as class number plus one (see `seg3d.data.training_case`) and leave as class number,
`seg3d.losses.IGNORE` where there is none.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai import transforms as mt
from monai.transforms.utils import create_grid
from scipy.ndimage import gaussian_filter
from torch.nn import functional as F

from seg3d.config import AugmentConfig, Config, ElasticConfig
from seg3d.data.transforms import BOTH, CENTRES, IMAGE, LABEL
from seg3d.geometry import Shape3
from seg3d.plan import Plan


class RandPatchd(mt.Randomizable, mt.MapTransform):
    """Cut a patch around a random voxel of a random class, or as near to it as the border allows.

    Args:
        size: of the patch in voxels; the volumes are no smaller.
        foreground: probability that the class is a foreground one, if the case has any; each
            that it has is as likely as the others.
        sparse: there may be but a few labelled slices, which should not all lie in the middle of
            their patches: the steps of the network would know them by that. The voxel then lies
            anywhere in the inner half along each axis, which is no shorter than these steps.
    """

    def __init__(self, size: Shape3, foreground: float, sparse: bool = False) -> None:
        super().__init__(BOTH)
        self.sparse = sparse
        self.size = size
        self.foreground = foreground

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        unlabelled, background, *classes = data[LABEL + CENTRES]
        present = [voxels for voxels in classes if len(voxels)]
        if present and (self.R.random() < self.foreground or not len(background)):
            voxels = present[self.R.randint(len(present))]
        else:
            voxels = background if len(background) else unlabelled
        shape = data[LABEL].shape[1:]
        centre = np.unravel_index(int(voxels[self.R.randint(len(voxels))]), shape)
        where = [slice(None)]
        for middle, size, length in zip(centre, self.size, shape, strict=True):
            before = size // 2
            if self.sparse:
                before = size // 4 + self.R.randint(max(size // 2, 1))
            start = min(max(int(middle) - before, 0), length - size)
            where.append(slice(start, start + size))
        return _cut(data, tuple(where))


def _cut(data: Mapping[Hashable, Any], where: tuple[slice, ...]) -> dict[Hashable, Any]:
    """A copy, in the order of its axes: the volume may lie otherwise, and in a file."""
    return {key: torch.from_numpy(np.array(data[key][where], order="C")) for key in BOTH}


def _whole(data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
    return _cut(data, (slice(None),))


def augmentation(config: Config, plan: Plan) -> mt.Compose:
    """The random part: cut out a patch, if not the whole, change its shape, then intensities."""
    sparse = bool(plan.ignore) or plan.rest == "ignore"
    return mt.Compose(
        [
            _whole if plan.whole else RandPatchd(plan.patch_size, config.patch.foreground, sparse),
            *_changes_of_shape(config.augment, plan),
            *_changes_of_intensity(config.augment),
            mt.Lambdad([LABEL], _class_numbers),
            mt.EnsureTyped(BOTH, track_meta=False),
        ]
    )


def _class_numbers(label: torch.Tensor) -> torch.Tensor:
    return label.to(torch.int16) - 1


def _changes_of_shape(augment: AugmentConfig, plan: Plan) -> list[Any]:
    resampling = {"mode": ("bilinear", "nearest"), "padding_mode": ("border", "zeros")}
    steps: list[Any] = []
    if augment.affine.prob:
        axes: Sequence[int] = range(3)
        if augment.affine.axes != "auto":
            axes = augment.affine.axes
        elif plan.anisotropic:
            # Turning thick slices into each other makes anatomy that no scanner shows.
            axes = [int(np.argmax(plan.typical_spacing))]
        angle = math.radians(augment.affine.degrees)
        angles = [angle if axis in axes else 0.0 for axis in range(3)]
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
        steps.append(RandElasticd(augment.elastic, **resampling))
    if augment.flip.prob:
        steps += [
            mt.RandFlipd(BOTH, prob=augment.flip.prob, spatial_axis=axis)
            for axis in augment.flip.axes
        ]
    return steps


class RandElasticd(mt.RandomizableTransform, mt.MapTransform):
    """Elastic deformation by smoothed noise (Simard et al., ICDAR 2003).

    As MONAI's Rand3DElasticd with the same settings, but quicker: the noise is smooth over several
    voxels, so that it can be made on a coarser grid and interpolated.

    Args:
        settings: with what probability, how smooth and how strong.
        mode: of interpolation, for image and label.
        padding_mode: what comes in from outside.
    """

    def __init__(
        self, settings: ElasticConfig, *, mode: tuple[str, str], padding_mode: tuple[str, str]
    ) -> None:
        mt.MapTransform.__init__(self, BOTH)
        mt.RandomizableTransform.__init__(self, settings.prob)
        self.settings = settings
        self.resampling = tuple(zip(BOTH, mode, padding_mode, strict=True))
        self.resample = mt.Resample()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        self.randomize(None)
        changed = dict(data)
        if self._do_transform:
            shape = changed[IMAGE].shape[1:]
            grid = create_grid(shape, dtype=torch.float32, backend="torch")
            grid[:3] += self._displacement(shape)
            for key, mode, padding_mode in self.resampling:
                changed[key] = self.resample(
                    changed[key], grid, mode=mode, padding_mode=padding_mode
                )
        return changed

    def _displacement(self, shape: torch.Size) -> torch.Tensor:
        """`(3, D, H, W)` voxels."""
        sigma, magnitude = (
            self.R.uniform(*limits) for limits in (self.settings.sigma, self.settings.magnitude)
        )
        step = max(1, int(sigma / 2))
        noise = self.R.uniform(-1, 1, (3, *(math.ceil(length / step) for length in shape)))
        # The mean over fewer voxels varies more.
        noise *= magnitude / step**1.5
        smooth = gaussian_filter(noise, (0, *[sigma / step] * 3), mode="wrap")
        displacement = F.interpolate(
            torch.from_numpy(smooth).float()[None], scale_factor=step, mode="trilinear"
        )[0]
        depth, height, width = shape
        return displacement[:, :depth, :height, :width]


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
