"""From config and dataset to the plan."""

from __future__ import annotations

from typing import Literal

import numpy as np

from seg3d.common.errors import UserError
from seg3d.config import Config
from seg3d.geometry import Shape3, Vector3
from seg3d.plan.classes import label_classes, rest_of
from seg3d.plan.fingerprint import CaseFingerprint, Source
from seg3d.plan.intensities import channel_intensities
from seg3d.plan.network import as_shape, features_of, plan_network, require_legal_patch
from seg3d.plan.plan import ANISOTROPIC, Plan
from seg3d.plan.presets import blocks_of

AUTO_BATCH = 2


def make_plan(config: Config, dataset: Source, fingerprints: dict[str, CaseFingerprint]) -> Plan:
    """Decide what the config leaves to the data.

    Raises:
        UserError: if the patch size does not suit the network.
    """
    classes, regions, ignore = label_classes(config, dataset, fingerprints)
    spacing, typical, shape = typical_volume(config, fingerprints)
    patch_size, kernels, strides = plan_network(config, typical, shape)
    return Plan(
        dataset=source_of(dataset),
        orientation=config.preprocess.orientation,
        spacing=spacing,
        typical_spacing=typical,
        channels=channel_intensities(config, dataset, fingerprints),
        classes=classes,
        regions=regions,
        ignore=ignore,
        rest=rest_of(config),
        patch_size=patch_size,
        whole=config.patch.size == "whole",
        batch_size=1 if config.patch.size == "whole" else _wanted_batch(config),
        kernels=kernels,
        strides=strides,
        features=features_of(config, len(strides)),
        blocks=blocks_of(config, len(strides)),
    )


def typical_volume(
    config: Config, fingerprints: dict[str, CaseFingerprint]
) -> tuple[Vector3 | None, Vector3, Shape3]:
    """The spacing to work in, None if volumes keep theirs; and the typical spacing and shape.

    The spacings are in mm (m in surveys), the shape is the median in voxels of that spacing; or
    the largest, along each axis, if training is to see volumes whole.
    """
    spacings = np.array([one.spacing for one in fingerprints.values()])
    spacing = _target_spacing(config.preprocess.spacing, spacings)
    typical = _vector(np.median(spacings, axis=0)) if spacing is None else spacing
    if not all(len(set(one.units)) == 1 for one in fingerprints.values()):
        # Metres and milliseconds have no common scale: no axis is thicker than another.
        spacing = None if config.preprocess.spacing == "auto" else spacing
        typical = (1.0, 1.0, 1.0)
    shapes = np.array([one.shape for one in fingerprints.values()], dtype=float)
    if spacing is not None:
        shapes = np.rint(shapes * spacings / np.array(spacing))
    shape = shapes.max(0) if config.patch.size == "whole" else np.median(shapes, axis=0)
    return spacing, typical, as_shape(np.maximum(shape, 1))


def typical_shape(config: Config, plan: Plan, fingerprints: dict[str, CaseFingerprint]) -> Shape3:
    """The shape of a typical volume, or of the largest, in voxels of a plan's spacing."""
    spacing = {"spacing": plan.spacing or "none"}
    preprocess = config.preprocess.model_copy(update=spacing)
    return typical_volume(config.model_copy(update={"preprocess": preprocess}), fingerprints)[2]


def passes_per_step(config: Config, plan: Plan) -> int:
    """Forward passes for each step of the optimiser; whole volumes go one after the other."""
    return config.train.accumulate * (_wanted_batch(config) if plan.whole else 1)


def _wanted_batch(config: Config) -> int:
    return AUTO_BATCH if config.train.batch_size == "auto" else config.train.batch_size


def with_patch(config: Config, plan: Plan) -> Plan:
    """A plan with the size and the number of patches that a config gives; its network stays.

    Raises:
        UserError: if the network does not take such patches, or the plan is not for whole volumes
            that the config wants.
    """
    if config.patch.size == "whole":
        if not plan.whole:
            raise UserError(
                "patch.size: whole needs a plan for whole volumes",
                given=f"a plan for patches of {list(plan.patch_size)} voxels",
                fix="begin a new run, or give a patch.size",
            )
        return plan
    if config.patch.size != "auto":
        require_legal_patch(config, config.patch.size, plan.strides)
        plan = plan.model_copy(update={"patch_size": config.patch.size, "whole": False})
    if config.train.batch_size != "auto" and not plan.whole:
        plan = plan.model_copy(update={"batch_size": config.train.batch_size})
    return plan


def source_of(dataset: Source) -> str:
    """Layout and place of a dataset, in words."""
    return f"{dataset.layout}: {dataset.source}"


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


def _vector(values: np.ndarray) -> Vector3:
    x, y, z = (float(f"{value:.6g}") for value in values)
    return x, y, z
