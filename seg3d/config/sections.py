"""The sections of the config: every key, its default, and what it does."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from seg3d.common.choices import OF_BRICKS, SKETCHES
from seg3d.config.augment import AugmentConfig
from seg3d.config.labels import LabelsConfig
from seg3d.config.network import NetworkConfig, UNet3dConfig
from seg3d.config.section import Section
from seg3d.config.values import (
    BatchSize,
    BelowOne,
    BitsOfLayers,
    BitsPerVoxel,
    Bytes,
    ClassWeights,
    Folds,
    Integer,
    NonNegativeFloat,
    Orientation,
    Percentiles,
    PositiveFloat,
    PositiveInt,
    Probability,
    RateFactors,
    Seconds,
    Size3,
    Spacing,
    Tversky,
    distinct,
)

PATTERNS = "list of paths with CASE in them"


class FilesConfig(Section):
    images: Annotated[list[str], AfterValidator(distinct), PATTERNS] = Field(
        [],
        description="where the image of every channel lies in data.folder, such as "
        "[CASE/t1.nii.gz, CASE/t2.nii.gz]: CASE is the name of the case, * is anything; for "
        "datasets that have a layout of their own",
    )
    label: str | None = Field(None, description="where the label lies, such as CASE/seg.nii.gz")


class DataConfig(Section):
    folder: Path | None = Field(None, description="dataset folder or list file; --data overrides")
    files: FilesConfig = FilesConfig()
    labels: LabelsConfig = Field(
        None,
        description="class name: value in the label files, or several values that are merged "
        "(predictions carry the first); a class named 'ignore' is left out of the loss; with rest "
        "all values that no class has are background, or are ignored; null, or rest alone, takes "
        "the classes from the dataset; where names share values, they are regions",
    )
    regions_class_order: Annotated[
        list[Integer], Field(min_length=1),
        "list of integers, one for each name in data.labels but background, ignore and rest",
    ] | None = Field(
        None,
        description="of regions: the label value that predictions carry for each, in the order of "
        "data.labels, which is the order of writing, later ones over earlier ones; null: larger "
        "regions first, each with a value that it has and the later ones have not",
    )  # fmt: skip
    folds: Annotated[Integer, Field(ge=2)] = Field(
        5, description="number of cross-validation folds"
    )
    fold: Annotated[Integer, Field(ge=0)] = Field(0, description="fold to train; --fold overrides")
    cache: Literal["auto"] | Bytes = Field(
        "auto",
        description="preprocessed volumes are kept in RAM up to this limit, else on disk in the "
        "run folder, where they always are if worker processes cannot share RAM (macOS, "
        "Windows); auto is half of the RAM that is free at the start",
    )
    workers: Literal["auto"] | Annotated[Integer, Field(ge=0, le=1024)] = Field(
        "auto", description="processes that prepare patches; 0 prepares them between the steps"
    )


class PreprocessConfig(Section):
    orientation: Orientation = Field("RAS", description="axis order to work in, or none")
    spacing: Literal["auto", "none"] | Spacing = Field(
        "auto", description="mm per voxel; auto is the median of the dataset, none keeps each grid"
    )
    intensity: Literal["auto", "ct", "zscore", "none"] = Field(
        "auto",
        description="ct clips to percentiles of the foreground and scales with its mean and "
        "deviation over the dataset; zscore works volume by volume; auto goes by the channel name",
    )
    percentiles: Percentiles = Field((0.5, 99.5), description="for ct, of the foreground")


class PlanConfig(Section):
    memory: Literal["auto"] | Bytes | None = Field(
        None,
        description="what a training step may take: the largest patch that fits is planned, up to "
        "a typical volume; auto is what is free on the GPU, or half of the free RAM; null goes by "
        "patch.voxels instead",
    )
    file: Path | None = Field(
        None,
        description="train by this plan, such as one that seg3d plan --output has written, in "
        "place of one made from the dataset; or by the 3d_fullres of nnU-Net's nnUNetPlans.json, "
        "with dataset.json beside it; what the config gives of patch.size and train.batch_size "
        "still counts",
    )


class PatchConfig(Section):
    size: Literal["auto", "whole"] | Size3 = Field(
        "auto",
        description="voxels; auto follows spacing, volumes; whole: whole volumes, one at a time, "
        "of which train.batch_size go into a step one after the other",
    )
    voxels: Literal["auto"] | PositiveInt = Field(
        "auto",
        description="most voxels that patch.size: auto may choose; auto is 128³, with "
        "network.preset resenc-l 192³, with resenc-xl 224 · 224 · 256",
    )
    foreground: Probability = Field(
        0.5, description="share of patches centred on a foreground class"
    )


class ProbingConfig(Section):
    sketch: Literal[SKETCHES] = Field(  # type: ignore[valid-type]
        "rotated", description="what training keeps of the layers' inputs for their gradients"
    )
    bits: Literal["auto", "exact"] | BitsOfLayers | BitsPerVoxel = Field(
        "auto",
        description="kept per voxel by rotated; auto measures, as training goes on, how few are "
        "enough in each layer",
    )
    rank: PositiveInt = Field(
        64, description="probes of independent, multichannel and orthogonal; others ignore it"
    )
    streamed: bool = Field(
        False,
        description="the finest level of UNet3d goes in slabs, forwards and backwards: about half "
        "the memory, in training and in prediction, for about twice the time",
    )

    @model_validator(mode="after")
    def _brick_by_brick(self) -> ProbingConfig:
        if self.streamed and self.sketch not in OF_BRICKS:
            raise ValueError(f"streamed goes with {', '.join(OF_BRICKS)}, not with {self.sketch}")
        return self


class LossConfig(Section):
    dice: NonNegativeFloat = Field(1.0, description="weight of the soft Dice loss")
    cross_entropy: NonNegativeFloat = Field(1.0, description="weight of the cross-entropy")
    batch_dice: bool = Field(True, description="one Dice over the batch instead of one per patch")
    tversky: Tversky = Field(
        (0.5, 0.5),
        description="in the Dice term, weights of false alarms and of misses; [0.5, 0.5] is Dice, "
        "others are the Tversky index",
    )
    focal: NonNegativeFloat = Field(
        0.0,
        description="in the cross-entropy, exponent γ of the focal loss: voxels that are right "
        "already count less; 0 is the plain cross-entropy",
    )
    class_weights: ClassWeights = Field(
        {}, description="in the cross-entropy, of the classes named; the others have 1"
    )

    @model_validator(mode="after")
    def _something_to_minimise(self) -> LossConfig:
        if self.dice == 0 and self.cross_entropy == 0:
            raise ValueError("dice and cross_entropy should not both be 0")
        return self


class TrainConfig(Section):
    epochs: PositiveInt = Field(250, description="the learning rate reaches its end with the last")
    iterations_per_epoch: PositiveInt = Field(250, description="optimiser steps per epoch")
    batch_size: BatchSize | Literal["auto"] = Field(
        2,
        description="patches per forward pass; auto is 2, with plan.memory more if patches of a "
        "typical volume leave room, and 1 if no two patches fit",
    )
    accumulate: Annotated[PositiveInt, Field(le=65536)] = Field(
        1, description="forward passes per optimiser step"
    )
    optimizer: Literal["sgd", "adamw"] = Field(
        "sgd", description="sgd: Nesterov, polynomial decay; adamw: warm-up, cosine decay"
    )
    learning_rate: Literal["auto"] | PositiveFloat = Field(
        "auto", description="sgd 0.01, adamw 3e-4"
    )
    init_from: Path | None = Field(
        None,
        description="run or checkpoint whose weights training begins with, and whose plan comes "
        "with them (patch, spacing, strides, intensities) where the config gives none of its own; "
        "--init-from overrides",
    )
    freeze: Annotated[
        list[str], AfterValidator(distinct),
        "list of parameter names, each once (* stands for anything)",
    ] = Field([], description="weights that are not trained, such as [encoder.*]")  # fmt: skip
    lr_factors: RateFactors = Field(
        {},
        description="of the learning rate, such as {encoder.*: 0.1}: the first that fits is taken; "
        "the others have 1",
    )
    weight_decay: Literal["auto"] | NonNegativeFloat = Field(
        "auto", description="sgd 3e-5, adamw 0.01"
    )
    momentum: BelowOne = Field(0.99, description="sgd only")
    warmup: Probability = Field(0.02, description="adamw only: share of the steps")
    clip: PositiveFloat | None = Field(12.0, description="largest gradient norm; null: no clipping")
    amp: Literal["auto", "bf16", "fp16", "off"] = Field(
        "auto",
        description="mixed precision: auto is bf16 where the device has it, else fp16, else off",
    )
    max_time: Seconds | None = Field(None, description="stop and save after this long, such as 2h")
    seed: Annotated[Integer, Field(ge=0, lt=2**32)] = Field(
        0, description="of the weights, the patches, the probes and the folds"
    )

    @model_validator(mode="after")
    def _steps_that_can_be_counted(self) -> TrainConfig:
        if self.epochs * self.iterations_per_epoch > 2**40:
            raise ValueError("epochs times iterations_per_epoch should be a number of this world")
        return self


class ValidationConfig(Section):
    every: PositiveInt = Field(10, description="epochs between validations on whole volumes")
    overlap: BelowOne = Field(0.25, description="of neighbouring windows")


class PredictConfig(Section):
    windows: Literal["auto", "whole", "patch"] = Field(
        "auto",
        description="patch: of the size of training; whole: the volume at once or, where memory "
        "does not allow it, the largest windows that fit; auto is whole if training saw whole "
        "volumes, else patch",
    )
    overlap: BelowOne = Field(0.5, description="of neighbouring windows")
    mirror: bool = Field(
        False, description="average over all flips of augment.flip.axes (8× slower)"
    )
    folds: Literal["auto"] | Folds = Field(
        "auto",
        description="of a model of nnU-Net's, the networks whose scores are averaged; auto: all "
        "that there are",
    )
    window_batch: BatchSize | Literal["auto"] = Field(
        "auto",
        description="windows per forward pass at most, fewer if they do not fit into the memory; "
        "auto: 8 on a GPU, 1 on a CPU",
    )


class Config(Section):
    """Everything that can be set; see ``docs/config.md`` for the list."""

    data: DataConfig = DataConfig()
    preprocess: PreprocessConfig = PreprocessConfig()
    plan: PlanConfig = PlanConfig()
    patch: PatchConfig = PatchConfig()
    augment: AugmentConfig = AugmentConfig()
    network: NetworkConfig = UNet3dConfig()
    probing: ProbingConfig = ProbingConfig()
    loss: LossConfig = LossConfig()
    train: TrainConfig = TrainConfig()
    validation: ValidationConfig = ValidationConfig()
    predict: PredictConfig = PredictConfig()
