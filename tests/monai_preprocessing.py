"""Preprocessing of whole volumes by MONAI's transforms, to compare with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from monai import transforms as mt
from monai.data import MetaTensor

from seg3d.data.transforms import BOTH, CENTRES, IMAGE, LABEL
from seg3d.io import read_labels, read_volume
from seg3d.plan import Plan


def load(images: Sequence[Path], label: Path | None = None) -> dict[str, MetaTensor]:
    """Image `(C, X, Y, Z)` and label `(1, X, Y, Z)` on the grid of the image."""
    volumes = [read_volume(path) for path in images]
    affine = torch.from_numpy(volumes[0].grid.affine.copy())
    arrays = {IMAGE: np.concatenate([one.array for one in volumes], dtype=np.float32)}
    if label is not None:
        arrays[LABEL] = read_labels(label).array.astype(np.int32)
    return {
        key: MetaTensor(torch.from_numpy(np.ascontiguousarray(array)), affine=affine)
        for key, array in arrays.items()
    }


def change_of_grid(plan: Plan, keys: Sequence[str]) -> mt.Compose:
    """To the orientation and the spacing of a plan."""
    steps = []
    if plan.orientation != "none":
        steps.append(mt.Orientationd(keys, axcodes=plan.orientation, labels=None))
    if plan.spacing is not None:
        modes = [{IMAGE: "bilinear", LABEL: "nearest"}[key] for key in keys]
        steps.append(mt.Spacingd(keys, pixdim=plan.spacing, mode=modes, padding_mode="border"))
    return mt.Compose(steps)


def prediction_image(plan: Plan, images: Sequence[Path]) -> MetaTensor:
    """What prediction works on: the image `(C, D, H, W)`, with what is needed to go back."""
    image = change_of_grid(plan, [IMAGE])(load(images))[IMAGE]
    for values, channel in zip(image.numpy(), plan.channels, strict=True):
        # Resampling leaves traces of their neighbours in voxels that should be zero.
        values[np.abs(values) <= 1e-9 * np.abs(values).max()] = 0
        if channel.kind == "ct":
            values[...] = (values.clip(channel.low, channel.high) - channel.mean) / channel.std
        elif channel.kind == "zscore":
            counted = values != 0 if channel.nonzero else np.full(values.shape, True)
            chosen = values[counted].astype(np.float64)
            values[counted] = (chosen - chosen.mean()) / max(chosen.std(), 1e-6)
    return image


def on_the_files_grid(plan: Plan, scores: torch.Tensor, image: MetaTensor) -> np.ndarray:
    """Take `(K, D, H, W)` back to `(K, X, Y, Z)`."""
    result = MetaTensor(scores, meta=image.meta, applied_operations=image.applied_operations)
    if image.applied_operations:
        result = change_of_grid(plan, [IMAGE]).inverse({IMAGE: result})[IMAGE]
    back: np.ndarray = result.numpy()
    return back


def training_case(plan: Plan, images: Sequence[Path], label: Path) -> dict[str, np.ndarray]:
    """What training cuts its patches from; no channel of the plan may be normalised."""
    assert all(channel.kind == "none" for channel in plan.channels)
    case = change_of_grid(plan, BOTH)(load(images, label))
    numbers = np.zeros(case[LABEL].shape, np.uint8)
    for number, one in enumerate(plan.classes):
        numbers[np.isin(case[LABEL].numpy(), one.values)] = number + 1
    case[LABEL] = torch.from_numpy(numbers)
    padded = mt.SpatialPadd(BOTH, plan.patch_size)(case)
    kinds = mt.ClassesToIndicesd(
        [LABEL], indices_postfix=CENTRES, num_classes=len(plan.classes) + 1
    )
    return {
        key: [one.numpy() for one in value] if key == LABEL + CENTRES else value.numpy()
        for key, value in kinds(padded).items()
    }
