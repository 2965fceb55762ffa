"""The plan itself: all that is decided for a dataset before training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import Field, model_validator

from seg3d.common.files import atomic_write
from seg3d.config import Rest, Section
from seg3d.config.values import (
    Number,
    Orientation,
    PositiveFloat,
    PositiveInt,
    Size3,
    Spacing,
)

# nnU-Net's threshold: voxels this much thicker than wide are treated as slices.
ANISOTROPIC = 3.0

LabelValue = Annotated[int, Field(strict=True, ge=-(2**31), lt=2**31)]


class LabelClass(Section):
    """A class of the network, and the label values that stand for it; the first is written."""

    name: str
    values: Annotated[list[LabelValue], Field(min_length=1)]


class ChannelIntensity(Section):
    """How the intensities of one channel are normalised.

    ``ct``: clip to [low, high], subtract mean, divide by std. ``zscore``: over the voxels of the
    volume, or over its nonzero voxels.
    """

    name: str
    kind: Literal["ct", "zscore", "none"]
    low: Number = 0.0
    high: Number = 0.0
    mean: Number = 0.0
    std: PositiveFloat = 1.0
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
        rest: what values are that neither a class nor ``ignore`` has; None if they are mistakes.
        patch_size: voxels.
        kernels: kernel sizes of the U-Net, per level.
        strides: strides of the U-Net from the level above, per level.
        features: channels of the U-Net, per level.
        blocks: residual blocks of the U-Net's encoder, per level; None if it has none.
    """

    dataset: str
    orientation: Orientation
    spacing: Spacing | None
    typical_spacing: Spacing
    channels: Annotated[list[ChannelIntensity], Field(min_length=1)]
    classes: Annotated[list[LabelClass], Field(min_length=2)]
    ignore: list[LabelValue]
    rest: Rest | None = None
    patch_size: Size3
    kernels: list[Size3]
    strides: list[Size3]
    features: list[PositiveInt]
    blocks: list[PositiveInt] | None = None

    @model_validator(mode="after")
    def _as_many_of_each_level(self) -> Plan:
        if not len(self.kernels) == len(self.strides) == len(self.features):
            raise ValueError("kernels, strides and features are not of as many levels")
        if self.blocks is not None and len(self.blocks) != len(self.features):
            raise ValueError("blocks are not of as many levels as features")
        return self

    @property
    def class_names(self) -> list[str]:
        return [one.name for one in self.classes]

    @property
    def named_values(self) -> set[int]:
        """Label values of the classes, and those to be ignored."""
        return {*self.ignore, *(value for one in self.classes for value in one.values)}

    @property
    def anisotropic(self) -> bool:
        """Whether voxels are so thick that rotations should stay within the slices."""
        return max(self.typical_spacing) / min(self.typical_spacing) > ANISOTROPIC


def save_plan(plan: Plan, path: Path) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(
            yaml.safe_dump(plan.model_dump(mode="json"), sort_keys=False), encoding="utf-8"
        )
