"""The keys under ``augment``: how patches are changed at random."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from seg3d.config.section import Section
from seg3d.config.values import Axes, NonNegativeFloat, Probability, Range


class FlipConfig(Section):
    prob: Probability = Field(0.5, description="per axis")
    axes: Axes = Field([0, 1, 2], description="axes to mirror")


class AffineConfig(Section):
    prob: Probability = Field(0.2, description="of a rotation and zoom (one interpolation)")
    degrees: NonNegativeFloat = Field(30.0, description="largest rotation about each axis")
    axes: Literal["auto"] | Axes = Field(
        "auto",
        description="axes to rotate about; auto is all, in plane only where voxels are thick",
    )
    zoom: Range = Field((0.7, 1.4), description="factor on the size of things")


class ElasticConfig(Section):
    prob: Probability = Field(0.1, description="of a smooth random displacement")
    sigma: Range = Field((5.0, 8.0), description="smoothness of the displacement, voxels")
    magnitude: Range = Field((100.0, 300.0), description="strength before smoothing, voxels")


class BiasFieldConfig(Section):
    prob: Probability = Field(0.1, description="of a smooth change of brightness, as MR coils make")
    strength: NonNegativeFloat = Field(0.3, description="largest polynomial coefficient")


class ContrastConfig(Section):
    prob: Probability = Field(0.15, description="of a gamma curve")
    gamma: Range = Field((0.7, 1.5), description="its exponent")


class NoiseConfig(Section):
    prob: Probability = Field(0.1, description="of Gaussian noise")
    std: NonNegativeFloat = Field(0.1, description="largest deviation, in units of z-score")


class BlurConfig(Section):
    prob: Probability = Field(0.1, description="of a Gaussian blur")
    sigma: Range = Field((0.5, 1.0), description="voxels")


class LowResolutionConfig(Section):
    prob: Probability = Field(0.1, description="of a coarser resolution, interpolated back")
    zoom: Range = Field((0.5, 1.0), description="resolution that is simulated, of the original")


class AugmentConfig(Section):
    flip: FlipConfig = FlipConfig()
    affine: AffineConfig = AffineConfig()
    elastic: ElasticConfig = ElasticConfig()
    bias_field: BiasFieldConfig = BiasFieldConfig()
    contrast: ContrastConfig = ContrastConfig()
    noise: NoiseConfig = NoiseConfig()
    blur: BlurConfig = BlurConfig()
    low_resolution: LowResolutionConfig = LowResolutionConfig()
