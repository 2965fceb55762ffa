"""What the dataset makes of the config: spacing, intensities, patch, network shape.

The plan is written to the run folder, is part of every checkpoint, and is all that prediction
needs besides the weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import yaml

from seg3d.config import Config, HorizonsConfig, PatchConfig, Section, UNet3dConfig
from seg3d.data.cases import Dataset
from seg3d.data.survey import MOST_CLASSES, CaseSurvey, label_counts
from seg3d.errors import UserError
from seg3d.files import atomic_write
from seg3d.geometry import Shape3, Vector3

AUTO_CHANNELS = (32, 64, 128, 256, 320, 320)
IGNORE_NAME = "ignore"
# nnU-Net's thresholds: voxels this much thicker than wide are treated as slices, ...
ANISOTROPIC = 3.0
# ... axes are pooled together once their spacings are within this factor, ...
POOL_TOGETHER = 2.0
# ... no axis is pooled below this many voxels, ...
SMALLEST_FEATURE_MAP = 4
# ... and images this empty are normalised over their nonzero voxels.
MOSTLY_EMPTY = 0.25


class LabelClass(Section):
    """A class of the network, and the label values that stand for it; the first is written."""

    name: str
    values: list[int]


class ChannelIntensity(Section):
    """How the intensities of one channel are normalised.

    ``ct``: clip to [low, high], subtract mean, divide by std. ``zscore``: over the voxels of the
    volume, or over its nonzero voxels.
    """

    name: str
    kind: Literal["ct", "zscore", "none"]
    low: float = 0.0
    high: float = 0.0
    mean: float = 0.0
    std: float = 1.0
    nonzero: bool = False


class Plan(Section):
    """Everything that was decided for a dataset before training.

    Attributes:
        dataset: where the cases came from and how they were recognised.
        orientation: axis codes that the network works in, or ``none``.
        spacing: mm in that orientation (m in surveys), or None if volumes keep theirs.
        typical_spacing: likewise, median of the dataset; (1, 1, 1) if axes differ in their units.
        channels: normalisation of each image channel.
        classes: network classes in order, background first.
        ignore: label values that carry no information.
        patch_size: voxels.
        kernels: kernel sizes of the U-Net, per level.
        strides: strides of the U-Net from the level above, per level.
        features: channels of the U-Net, per level.
    """

    dataset: str
    orientation: str
    spacing: Vector3 | None
    typical_spacing: Vector3
    channels: list[ChannelIntensity]
    classes: list[LabelClass]
    ignore: list[int]
    patch_size: Shape3
    kernels: list[Shape3]
    strides: list[Shape3]
    features: list[int]

    @property
    def class_names(self) -> list[str]:
        return [one.name for one in self.classes]

    @property
    def anisotropic(self) -> bool:
        """Whether voxels are so thick that rotations should stay within the slices."""
        return max(self.typical_spacing) / min(self.typical_spacing) > ANISOTROPIC


def make_plan(config: Config, dataset: Dataset, surveys: dict[str, CaseSurvey]) -> Plan:
    """Decide what the config leaves to the data.

    Raises:
        UserError: if the patch size does not suit the network.
    """
    classes, ignore = label_classes(config, dataset, surveys)
    spacings = np.array([survey.spacing for survey in surveys.values()])
    spacing = _target_spacing(config.preprocess.spacing, spacings)
    typical = _vector(np.median(spacings, axis=0)) if spacing is None else spacing
    if not all(len(set(survey.units)) == 1 for survey in surveys.values()):
        # Metres and milliseconds have no common scale: no axis is thicker than another.
        spacing = None if config.preprocess.spacing == "auto" else spacing
        typical = (1.0, 1.0, 1.0)
    shapes = np.array([survey.shape for survey in surveys.values()], dtype=float)
    if spacing is not None:
        shapes = np.rint(shapes * spacings / np.array(spacing))
    patch_size, kernels, strides = plan_network(
        config, typical, _shape(np.maximum(np.median(shapes, axis=0), 1))
    )
    features = list(AUTO_CHANNELS[: len(strides)])
    if isinstance(config.network, UNet3dConfig) and config.network.channels != "auto":
        features = config.network.channels
    return Plan(
        dataset=source_of(dataset),
        orientation=config.preprocess.orientation,
        spacing=spacing,
        typical_spacing=typical,
        channels=_channel_intensities(config, dataset, surveys),
        classes=classes,
        ignore=ignore,
        patch_size=patch_size,
        kernels=kernels,
        strides=strides,
        features=features,
    )


def source_of(dataset: Dataset) -> str:
    """Layout and place of a dataset, in words."""
    return f"{dataset.layout}: {dataset.source}"


def save_plan(plan: Plan, path: Path) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(yaml.safe_dump(plan.model_dump(mode="json"), sort_keys=False))


def named_labels(config: Config, dataset: Dataset) -> dict[str, list[int]] | None:
    """Class names and values from the config or the dataset, or None if neither gives them.

    Value 0 is background: if no class holds it, ``background`` does.

    Raises:
        UserError: if a value belongs to two classes, 0 is to be ignored, or nothing is left
            besides background.
    """
    given = config.data.labels or dataset.labels
    if isinstance(given, HorizonsConfig):
        given = dataset.labels
    if given is None:
        return None
    labels = {
        str(name): [value] if isinstance(value, int) else list(value)
        for name, value in given.items()
    }
    owner: dict[int, str] = {}
    for name, values in labels.items():
        if not values:
            raise UserError(f"data.labels.{name} has no value", legal="one or more integers")
        for value in values:
            if value in owner:
                raise UserError(
                    f"label value {value} belongs to both {owner[value]} and {name}",
                    legal="every value in one class (regions that overlap are not supported)",
                    fix="give data.labels with separate values",
                )
            owner[value] = name
    if 0 in labels.get(IGNORE_NAME, []):
        raise UserError(
            "label value 0 cannot be ignored",
            given=given,
            legal=f"0 for background, other values for {IGNORE_NAME}",
            fix="renumber the label files",
        )
    if 0 not in owner:
        labels["background"] = [0, *labels.get("background", [])]
    if not any(0 not in values for name, values in labels.items() if name != IGNORE_NAME):
        raise UserError("data.labels names no class besides background", given=given)
    return labels


def background_values(labels: dict[str, list[int]] | None) -> set[int]:
    """The values that mark nothing to be found: those of the class that holds 0, and to ignore."""
    if labels is None:
        return {0}
    background = next(values for values in labels.values() if 0 in values)
    return {*background, *labels.get(IGNORE_NAME, [])}


def label_classes(
    config: Config, dataset: Dataset, surveys: dict[str, CaseSurvey]
) -> tuple[list[LabelClass], list[int]]:
    """The network's classes, background first, and the values to be ignored.

    Raises:
        UserError: if there are more classes than a byte can number.
    """
    labels = named_labels(config, dataset)
    if labels is None:
        labels = {
            "background" if value == 0 else f"label {value}": [value]
            for value in sorted({0, *label_counts(surveys)})
        }
    labels = dict(labels)
    ignore = labels.pop(IGNORE_NAME, [])
    if len(labels) > MOST_CLASSES:
        raise UserError(
            f"{dataset.source} has {len(labels)} classes",
            legal=f"at most {MOST_CLASSES}",
            fix="merge classes in data.labels",
        )
    ordered = sorted(labels.items(), key=lambda item: 0 not in item[1])
    # The value that is written for background is 0 even if others are merged into it.
    return [
        LabelClass(name=name, values=sorted(values, key=lambda value: value != 0))
        for name, values in ordered
    ], ignore


def plan_network(
    config: Config, spacing: Vector3, median_shape: Shape3
) -> tuple[Shape3, list[Shape3], list[Shape3]]:
    """Patch size, kernels and strides that suit the spacing.

    Raises:
        UserError: if a given patch size is not a multiple of the network's total stride.
    """
    given = config.patch.size
    patch = auto_patch(config.patch, spacing, median_shape) if given == "auto" else given
    channels = config.network.channels if isinstance(config.network, UNet3dConfig) else "auto"
    levels = len(AUTO_CHANNELS) if channels == "auto" else len(channels)
    kernels, strides = topology(spacing, patch, levels)
    if channels != "auto" and len(strides) < levels:
        raise UserError(
            f"network.channels asks for {levels} levels",
            given=f"patches of {list(patch)} voxels",
            legal=f"at most {len(strides)} levels for such patches",
            fix="enlarge patch.size or give fewer channels",
        )
    factors = np.prod(strides, axis=0)
    if given == "auto":
        patch = _shape(np.ceil(np.array(patch) / factors) * factors)
    elif isinstance(config.network, UNet3dConfig) and (np.array(patch) % factors).any():
        below = np.maximum(np.array(patch) // factors, 1) * factors
        above = np.ceil(np.array(patch) / factors) * factors
        raise UserError(
            "patch.size is not divisible by the total stride of the network",
            given=list(patch),
            legal=f"multiples of {factors.tolist()} voxels",
            fix=f"use {below.astype(int).tolist()} or {above.astype(int).tolist()}, or auto",
        )
    return patch, kernels, strides


def auto_patch(patch: PatchConfig, spacing: Vector3, median_shape: Shape3) -> Shape3:
    """A patch of about equal sides in mm within the budget, about as large as the volumes at most.

    It suits `topology`: pooling an axis while it keeps `SMALLEST_FEATURE_MAP` voxels divides it.
    """
    limit = np.array(median_shape, dtype=float)
    sides = 1 / np.array(spacing)
    size = np.minimum(sides * (patch.voxels / sides.prod()) ** (1 / 3), limit)
    # What one clipped axis leaves of the budget goes to the others.
    for _ in range(3):
        free = size < limit
        if free.any():
            size[free] *= (patch.voxels / size.prod()) ** (1 / free.sum())
            size = np.minimum(size, limit)
    step = _grain(size)
    size = np.maximum(np.rint(size / step), 1) * step
    while size.prod() > patch.voxels:
        longest = size.argmax()
        size[longest] -= _grain(size - 1)[longest]
    return _shape(size)


def _grain(size: np.ndarray) -> np.ndarray:
    """The power of two that should divide sides of about ``size`` voxels, for up to 6 levels."""
    return np.select([size >= 128, size >= 32, size >= 12, size >= 7], [32, 16, 4, 2], 1)


def topology(
    spacing: Vector3, patch: Shape3, most_levels: int
) -> tuple[list[Shape3], list[Shape3]]:
    """Kernel sizes and strides per level, after nnU-Net's planner.

    An axis is pooled while its feature map keeps `SMALLEST_FEATURE_MAP` voxels and its spacing is
    within `POOL_TOGETHER` of the finest that is pooled; until then its kernel size is 1. An axis
    of one voxel always has kernel size 1.

    Args:
        spacing: mm.
        patch: voxels.
        most_levels: number of levels not to be exceeded.

    Returns:
        Kernel sizes and strides from the level above; as many of each as there are levels.

    Raises:
        UserError: if no axis is long enough to be pooled.
    """
    size, step = np.array(patch, dtype=float), np.array(spacing, dtype=float)
    pooled = size >= 2 * SMALLEST_FEATURE_MAP
    if not pooled.any():
        raise UserError(
            "the patch is too small for a U-Net",
            given=f"patch of {list(patch)} voxels",
            legal=f"at least {2 * SMALLEST_FEATURE_MAP} voxels along one axis",
            fix="enlarge patch.size or patch.voxels (volumes smaller than the patch are padded)",
        )
    thick = np.full(3, True)
    kernels: list[Shape3] = []
    strides: list[Shape3] = [(1, 1, 1)]
    while True:
        thick &= step >= POOL_TOGETHER * step[pooled].min()
        kernels.append(_shape(np.where(thick | (size == 1), 1, 3)))
        fits = size >= 2 * SMALLEST_FEATURE_MAP
        if not fits.any() or len(kernels) == most_levels:
            return kernels, strides
        pool = fits & (step < POOL_TOGETHER * step[fits].min())
        strides.append(_shape(np.where(pool, 2, 1)))
        size, step = np.where(pool, size / 2, size), np.where(pool, 2 * step, step)


def _target_spacing(
    wanted: Literal["auto", "none"] | Vector3, spacings: np.ndarray
) -> Vector3 | None:
    if wanted == "none":
        return None
    if wanted != "auto":
        return wanted
    target = np.median(spacings, axis=0)
    thick = int(np.argmax(target))
    if target[thick] / target.min() > ANISOTROPIC:
        # nnU-Net: not to throw away slices of the finer volumes.
        target[thick] = max(np.percentile(spacings[:, thick], 10), target.min())
    return _vector(target)


def _channel_intensities(
    config: Config, dataset: Dataset, surveys: dict[str, CaseSurvey]
) -> list[ChannelIntensity]:
    samples = np.concatenate([survey.foreground for survey in surveys.values()])
    nonzero = np.median([survey.zero_fraction for survey in surveys.values()]) > MOSTLY_EMPTY
    count = samples.shape[1]
    names = dataset.channels or tuple(f"channel {index}" for index in range(count))
    if len(names) != count:
        raise UserError(
            f"{dataset.source} names {len(names)} channels ({', '.join(names)}) "
            f"but its images have {count}",
            fix="correct channel_names (or modality) in dataset.json",
        )
    intensities = []
    for name, values in zip(names, samples.T.astype(np.float64), strict=True):
        kind = config.preprocess.intensity
        if kind == "auto":
            kind = "ct" if name.strip().lower() == "ct" else "zscore"
        if kind == "ct":
            low, high = np.percentile(values, config.preprocess.percentiles)
            clipped = values.clip(low, high)
            intensities.append(
                ChannelIntensity(
                    name=name,
                    kind="ct",
                    low=float(low),
                    high=float(high),
                    mean=float(clipped.mean()),
                    std=float(max(clipped.std(), 1e-6)),
                )
            )
        else:
            masked = bool(nonzero) and kind == "zscore"
            intensities.append(ChannelIntensity(name=name, kind=kind, nonzero=masked))
    return intensities


def _vector(values: np.ndarray) -> Vector3:
    x, y, z = (float(f"{value:.6g}") for value in values)
    return x, y, z


def _shape(values: np.ndarray | Sequence[int]) -> Shape3:
    x, y, z = (math.floor(value) for value in values)
    return x, y, z
