"""The plan itself: all that is decided for a dataset before training."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from seg3d.config import Rest, Section
from seg3d.config.values import (
    BatchSize,
    Number,
    Orientation,
    PositiveFloat,
    PositiveInt,
    Size3,
    Spacing,
)
from seg3d.geometry import Shape3, Vector3

# Of a spacing, by which others may differ for rounding in a header.
SAME_SPACING = 1e-5
# nnU-Net's threshold: voxels this much thicker than wide are treated as slices.
ANISOTROPIC = 3.0


def _odd(sizes: Size3) -> Size3:
    if not all(size % 2 for size in sizes):
        raise ValueError("should be odd")
    return sizes


def _permutation(axes: Shape3) -> Shape3:
    if sorted(axes) != [0, 1, 2]:
        raise ValueError("should be 0, 1 and 2 in some order")
    return axes


Kernel = Annotated[Size3, AfterValidator(_odd), "[odd, odd, odd], integers ≥ 1"]
Axes3 = Annotated[tuple[int, int, int], AfterValidator(_permutation), "0, 1 and 2 in some order"]
SplineOrder = Literal[0, 1, 3]
LabelValue = Annotated[int, Field(strict=True, ge=-(2**31), lt=2**31)]


class LabelClass(Section):
    """A class of the network, and the label values that stand for it."""

    name: str
    values: Annotated[list[LabelValue], Field(min_length=1)] = Field(
        description="in the label files; the first is written"
    )


class ChannelIntensity(Section):
    """How the intensities of one channel are normalised."""

    name: str
    kind: Literal["ct", "zscore", "none", "unit", "rgb"] = Field(
        description="ct: clip to low and high, subtract mean, divide by std; zscore: likewise with "
        "mean and deviation of each volume; unit: from 0 to 1, the least and the largest value of "
        "each volume; rgb: divide by 255; none: as they are"
    )
    low: Number = Field(0.0, description="of ct, in units of the image, as are high, mean and std")
    high: Number = 0.0
    mean: Number = 0.0
    std: PositiveFloat = 1.0
    nonzero: bool = Field(
        False,
        description="of zscore: over the voxels that are not zero; by nnU-Net's rules over those "
        "that are not zero in every channel, and what they enclose",
    )


class NnunetRules(BaseModel):
    """What nnU-Net does in another way than seg3d, and a network from there has been trained for.

    Volumes are cropped to what is not zero, normalised, and only then resampled, by splines;
    windows lie at even distances; scores are resampled, not probabilities.
    """

    # No Section, for which null would be one that has its defaults.
    model_config = ConfigDict(extra="forbid", frozen=True)

    axes: Axes3 = Field(
        (2, 1, 0), description="of the volume, once oriented, in the order of the network"
    )
    image_order: SplineOrder = Field(3, description="of the splines that resample images")
    image_order_z: SplineOrder = Field(0, description="likewise, along an axis taken separately")
    scores_order: SplineOrder = Field(1, description="of those that resample scores")
    scores_order_z: SplineOrder = Field(0, description="likewise, along an axis taken separately")
    separate_z: bool | None = Field(
        None,
        description="whether the axis of the thickest voxels is taken separately; null: where "
        "they are thick",
    )
    thick: PositiveFloat = Field(3.0, description="times as thick as wide, for separate_z: null")

    def separate_axis(self, spacing: Vector3, other: Vector3) -> int | None:
        """The axis to be resampled by itself, on the way from one spacing to another."""
        for one in (spacing, other):
            longest = np.array(one) >= max(one) * (1 - SAME_SPACING)
            thick = max(one) / min(one) > self.thick
            if thick if self.separate_z is None else self.separate_z:
                return int(longest.argmax()) if longest.sum() == 1 else None
        return None


class Plan(Section):
    """Everything that was decided for a dataset before training."""

    dataset: str = Field(description="where the cases came from and how they were recognised")
    orientation: Orientation = Field(
        description="axis codes of the order that the network works in, or none"
    )
    spacing: Spacing | None = Field(
        description="mm (m in surveys) along each axis, to which volumes are resampled; null: they "
        "keep theirs"
    )
    typical_spacing: Spacing = Field(
        description="likewise, median of the dataset; [1, 1, 1] if axes differ in their units"
    )
    channels: Annotated[list[ChannelIntensity], Field(min_length=1)] = Field(
        description="normalisation of each image channel"
    )
    classes: Annotated[list[LabelClass], Field(min_length=1)] = Field(
        description="of the network in order, background first; or regions, without background"
    )
    regions: list[LabelValue] | None = Field(
        None,
        description="where classes are regions, which may overlap: label values that are written "
        "for them, later ones over earlier ones; null: no two classes overlap",
    )
    ignore: list[LabelValue] = Field(description="label values that carry no information")
    rest: Rest | None = Field(
        None,
        description="what label values are that neither a class nor ignore has, background or "
        "ignore; null: mistakes",
    )
    patch_size: Size3 = Field(
        description="voxels, each side a multiple of the product of the strides along it"
    )
    whole: bool = Field(
        False,
        description="true: training sees whole volumes, each padded to such multiples, the largest "
        "to patch_size; false: it sees patches",
    )
    batch_size: BatchSize = Field(2, description="patches per forward pass")
    kernels: list[Kernel] = Field(
        description="kernel sizes of the U-Net in voxels, one line for each level, finest first"
    )
    strides: Annotated[list[Size3], Field(min_length=2)] = Field(
        description="voxels of the level above for one of this level"
    )
    features: list[PositiveInt] = Field(description="channels of the U-Net, for each level")
    blocks: list[PositiveInt] | None = Field(
        None,
        description="residual blocks of the U-Net's encoder, for each level; null: it has none",
    )

    nnunet: NnunetRules | None = Field(
        None, description="rules of nnU-Net that a network from there goes by; null: seg3d's"
    )

    @model_validator(mode="after")
    def _enough_classes(self) -> Plan:
        if self.regions is None and len(self.classes) < 2:
            raise ValueError("there should be two classes or more")
        if self.regions is not None and len(self.regions) != len(self.classes):
            raise ValueError("regions and classes are not as many")
        return self

    @model_validator(mode="after")
    def _ranges_that_are_measured(self) -> Plan:
        if self.nnunet is None and any(channel.kind == "unit" for channel in self.channels):
            raise ValueError("channels of the kind unit are only for rules of nnU-Net")
        return self

    @model_validator(mode="after")
    def _as_many_of_each_level(self) -> Plan:
        if not len(self.kernels) == len(self.strides) == len(self.features):
            raise ValueError("kernels, strides and features are not of as many levels")
        if self.blocks is not None and len(self.blocks) != len(self.features):
            raise ValueError("blocks are not of as many levels as features")
        if set(self.strides[0]) != {1}:
            raise ValueError("the first of the strides is not [1, 1, 1]")
        return self

    @property
    def divisors(self) -> Shape3:
        """What the sides of patches are multiples of, in voxels: the network's total stride."""
        x, y, z = (int(factor) for factor in np.prod(self.strides, axis=0))
        return x, y, z

    def least_shape(self, shape: Shape3) -> Shape3:
        """What a volume is padded to, along axes that are shorter, in voxels."""
        if not self.whole:
            return self.patch_size
        factors = np.array(self.divisors)
        # Of one voxel at the coarsest level there would be no variance.
        least = np.minimum(2 * factors, self.patch_size)
        sides = np.maximum(np.ceil(np.array(shape) / factors) * factors, least)
        x, y, z = (int(side) for side in sides)
        return x, y, z

    @property
    def class_names(self) -> list[str]:
        return [one.name for one in self.classes]

    @property
    def sought(self) -> list[LabelClass]:
        """The classes that are to be found: all regions, or all classes but background."""
        return self.classes[1:] if self.regions is None else self.classes

    @property
    def parts(self) -> list[LabelClass]:
        """What a voxel can be labelled as, background first, and no two overlap.

        That is the classes; or, where these are regions, every single label value.
        """
        if self.regions is None:
            return self.classes
        inside = {*self.regions, *(value for one in self.classes for value in one.values)} - {0}
        names = {value: f"label {value}" for value in sorted(inside)}
        return [
            LabelClass(name=name, values=[value])
            for value, name in {0: "background", **names}.items()
        ]

    @property
    def membership(self) -> list[list[bool]] | None:
        """Of every region, which of the :attr:`parts` are in it; None if there are no regions."""
        if self.regions is None:
            return None
        return [[part.values[0] in one.values for part in self.parts] for one in self.classes]

    @property
    def named_values(self) -> set[int]:
        """Label values of the classes, and those to be ignored."""
        return {*self.ignore, *(value for one in self.parts for value in one.values)}

    @property
    def anisotropic(self) -> bool:
        """Whether voxels are so thick that rotations should stay within the slices."""
        return max(self.typical_spacing) / min(self.typical_spacing) > ANISOTROPIC
