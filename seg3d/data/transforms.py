"""Preprocessing as MONAI dictionary transforms.

Inside the pipeline a label voxel holds its class number plus one, and 0 where there is no label:
padding, and whatever a rotation brings in from outside, is then ignored by the loss by itself.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai import transforms as mt
from monai.data import MetaTensor

from seg3d.data.intensity import Moments, normalise
from seg3d.data.resampling import DUST
from seg3d.data.survey import read_case_images
from seg3d.errors import UserError
from seg3d.geometry import Grid, Shape3
from seg3d.io import read_labels
from seg3d.plan import ChannelIntensity, LabelClass, Plan

IMAGE, LABEL = "image", "label"
BOTH = (IMAGE, LABEL)
CENTRES = "_patch_centres"
# Voxels per class that are remembered as possible patch centres, as in nnU-Net.
CENTRES_PER_CLASS = 10_000


class Pipeline(mt.Compose):
    """MONAI's Compose, but a `UserError` comes through, and nothing to invert is no surprise."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().__call__(*args, **kwargs)
        except RuntimeError as error:
            if isinstance(error.__cause__, UserError):
                raise error.__cause__ from None
            raise

    def inverse(self, data: Any) -> Any:
        undone = any(isinstance(step, mt.InvertibleTransform) for step in self.transforms)
        return super().inverse(data) if undone else data


class LoadCase(mt.Transform):
    """Replace the paths of a case by `(C, X, Y, Z)` tensors that know their affine.

    The label takes the affine of the image: on a grid turned by 45 degrees, a rounding error
    between the two would have their axes put in different orders.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        loaded = dict(data)
        image = read_case_images(tuple(Path(path) for path in data[IMAGE]))
        loaded[IMAGE] = _tensor(image.array, image.grid.affine)
        if LABEL in data:
            label = read_labels(Path(data[LABEL]))
            loaded[LABEL] = _tensor(label.array.astype(np.int32), image.grid.affine)
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
            moments = Moments()
            if channel.nonzero:
                # Resampling leaves traces of their neighbours in voxels that should be zero.
                voxels[voxels.abs() <= DUST * voxels.abs().max()] = 0
            if channel.kind == "zscore":
                moments.add(voxels, channel)
            normalise(voxels, channel, moments)
        normalised[IMAGE] = image
        return normalised


def preprocessing(plan: Plan, *, labelled: bool) -> Pipeline:
    """The deterministic part: load, orient, resample, normalise, map labels.

    Prediction uses it without labels, and inverts it.
    """
    keys = BOTH if labelled else (IMAGE,)
    steps = [LoadCase(), *_change_of_grid(plan, keys), NormaliseIntensity(plan.channels)]
    if labelled:
        steps.append(MapLabels(plan.classes))
    return Pipeline(steps)


def _change_of_grid(plan: Plan, keys: tuple[str, ...]) -> list[Any]:
    return [*_reorientation(plan, keys), *_change_of_spacing(plan, keys)]


def _reorientation(plan: Plan, keys: tuple[str, ...]) -> list[Any]:
    if plan.orientation == "none":
        return []
    return [mt.Orientationd(keys, axcodes=plan.orientation, labels=None)]


def _change_of_spacing(plan: Plan, keys: tuple[str, ...]) -> list[Any]:
    if plan.spacing is None:
        return []
    modes = ("bilinear", "nearest")[: len(keys)]
    return [mt.Spacingd(keys, pixdim=plan.spacing, mode=modes, padding_mode="border")]


def preprocessed_grids(grid: Grid, plan: Plan) -> tuple[Grid, Grid]:
    """Where the voxels of a volume on ``grid`` go: first by reorientation, then by resampling."""
    # One voxel seen everywhere, and transforms that only take note of what they would do.
    volume = MetaTensor(torch.zeros(1).expand(1, *grid.shape), affine=torch.tensor(grid.affine))
    grids = []
    for steps in (_reorientation(plan, (IMAGE,)), _change_of_spacing(plan, (IMAGE,))):
        for step in steps:
            volume = step({IMAGE: volume}, lazy=True)[IMAGE]
        x, y, z = (int(length) for length in volume.peek_pending_shape())
        grids.append(Grid((x, y, z), volume.peek_pending_affine().numpy()))
    return grids[0], grids[1]


def preprocessed_shape(grid: Grid, plan: Plan) -> Shape3:
    """The shape that `preprocessing` gives a volume on ``grid``."""
    return preprocessed_grids(grid, plan)[1].shape


def training_preprocessing(plan: Plan) -> Pipeline:
    """`preprocessing`, padded to the patch, with patch centres, as plain tensors to be cached."""
    return Pipeline(
        [
            *preprocessing(plan, labelled=True).transforms,
            mt.SpatialPadd(BOTH, plan.patch_size),
            mt.ClassesToIndicesd(
                [LABEL],
                indices_postfix=CENTRES,
                num_classes=len(plan.classes) + 1,
                max_samples_per_class=CENTRES_PER_CLASS,
            ),
            mt.Lambdad(BOTH, torch.Tensor.contiguous),
            mt.EnsureTyped(BOTH, track_meta=False),
        ]
    )
