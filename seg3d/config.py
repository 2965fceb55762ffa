"""The configuration: typed, validated once, complete.

Every key has its default here; a YAML file and ``--set`` change some of them. Nothing below this
module reads raw dictionaries.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    model_validator,
)

from seg3d.config_keys import explained, keys_of
from seg3d.errors import UserError
from seg3d.files import atomic_write
from seg3d.probing import BITS, SKETCHES
from seg3d.yaml_text import parse_yaml

MONAI_NETWORKS = (
    "monai.AttentionUnet",
    "monai.BasicUNet",
    "monai.DynUNet",
    "monai.SegResNet",
    "monai.UNet",
    "monai.VNet",
)
_NETWORKS = ", ".join(("UNet3d", *MONAI_NETWORKS))

_UNITS = {
    "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400,
    "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
    "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
}  # fmt: skip


def _quantity(text: Any, units: tuple[str, ...]) -> Any:
    if not isinstance(text, str):
        return text
    match = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*([a-zA-Z]+)\s*", text)
    if not match or match[2].lower() not in units:
        raise ValueError("should be a number and a unit")
    return float(match[1]) * _UNITS[match[2].lower()]


def _seconds(text: Any) -> Any:
    return _quantity(text, ("s", "m", "min", "h", "d"))


def parse_bytes(text: str, option: str) -> float:
    """Bytes from a text such as ``4GiB``.

    Raises:
        UserError: if it is not one; ``option`` says where it stands.
    """
    try:
        size = float(_bytes(text))
    except ValueError as error:
        raise UserError(f"{option} {error}", given=text, legal="a size (512MiB, 8GiB)") from error
    return size


def _bytes(text: Any) -> Any:
    return _quantity(text, ("kib", "mib", "gib", "tib", "kb", "mb", "gb", "tb"))


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("should be a number")
    return value


def _ordered(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError("should be given as [smaller, larger]")
    return pair


def _distinct(values: list[Any]) -> list[Any]:
    if len(set(values)) < len(values):
        raise ValueError("should be given once each")
    return values


def _columns_of_picks(columns: list[str]) -> list[str]:
    if sorted(set(columns) - {"_"}) not in (["crossline", "inline", "time"], ["time", "x", "y"]):
        raise ValueError("should say where each pick lies")
    return columns


def _not_zero(value: float) -> float:
    if value == 0:
        raise ValueError("should not be 0")
    return value


def _orientation(code: str) -> str:
    if code != "none" and sorted(code.translate(str.maketrans("LPI", "RAS"))) != ["A", "R", "S"]:
        raise ValueError("should be an orientation")
    return code


def _bits(bits: float) -> float:
    if bits not in BITS:
        raise ValueError("should be a number of bits that there is")
    return bits


# A text among the annotations says what is legal, where types and bounds would say it badly.
Integer = Annotated[int, Field(strict=True)]
Number = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Probability = Annotated[Number, Field(ge=0, le=1)]
BelowOne = Annotated[Number, Field(ge=0, lt=1)]
PositiveFloat = Annotated[Number, Field(gt=0)]
NonNegativeFloat = Annotated[Number, Field(ge=0)]
PositiveInt = Annotated[Integer, Field(ge=1)]
Seconds = Annotated[PositiveFloat, BeforeValidator(_seconds), "a time (90s, 30m, 2h)"]
Bytes = Annotated[PositiveFloat, BeforeValidator(_bytes), "a size (512MiB, 8GiB)"]
Spacing = tuple[PositiveFloat, PositiveFloat, PositiveFloat]
Size3 = tuple[PositiveInt, PositiveInt, PositiveInt]
Range = Annotated[
    tuple[PositiveFloat, PositiveFloat], AfterValidator(_ordered), "[smaller, larger], both > 0"
]
Percentiles = Annotated[
    tuple[Annotated[Number, Field(ge=0, le=100)], Annotated[Number, Field(ge=0, le=100)]],
    AfterValidator(_ordered),
    "[smaller, larger], from 0 to 100",
]
BitsPerVoxel = Annotated[Number, AfterValidator(_bits), "0.125, 0.25, 0.5, 1, 2 or 4"]
BitsOfLayers = Annotated[
    dict[str, Literal["exact"] | BitsPerVoxel],
    "mapping of layer names (* stands for anything) to bits",
]
Axes = Annotated[
    list[Annotated[Integer, Field(ge=0, le=2)]],
    AfterValidator(_distinct),
    "list of 0, 1, 2, each at most once",
]
Orientation = Annotated[
    str, AfterValidator(_orientation), "three letters, one each of R/L, A/P and S/I, or none"
]
Channels = Annotated[list[PositiveInt], Field(min_length=2), "list of two or more integers ≥ 1"]
Labels = dict[str, Integer | list[Integer]]

Tversky = Annotated[tuple[PositiveFloat, PositiveFloat], "[of false alarms, of misses], both > 0"]
ClassWeights = Annotated[dict[str, PositiveFloat], "mapping of class names to numbers > 0"]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _keys_commented_out(cls, section: Any) -> Any:
        """YAML reads a section in which every key is commented out as null."""
        return {} if section is None else section


class HorizonsConfig(Section):
    """Labels made from the picks of horizons."""

    horizons: Annotated[
        list[str], Field(min_length=1), AfterValidator(_distinct),
        "list of file names, each once",
    ] = Field(
        description="files in horizons/SURVEY/, from top to bottom; each row has inline, crossline "
        "and time (or depth)",
    )  # fmt: skip
    layers: Annotated[list[str], "list of names"] | None = Field(
        None,
        description="names of the layers from top to bottom, one more than horizons; those of one "
        "name are one class, background and ignore may be among them; null makes names of the "
        "files",
    )
    columns: Annotated[
        list[Literal["inline", "crossline", "x", "y", "time", "_"]],
        AfterValidator(_columns_of_picks),
        "list of time and either inline and crossline or x and y, with _ for other columns",
    ] | None = Field(
        None, description="of the files; null goes by the names above the numbers"
    )  # fmt: skip
    scale: Annotated[Number, AfterValidator(_not_zero), "number other than 0"] = Field(
        1.0,
        description="what turns times in the files into ms (or m) downwards: 1000 for seconds, -1 "
        "for heights",
    )
    reach: NonNegativeFloat = Field(
        10.0, description="bins from the nearest pick up to which gaps are filled; the rest is "
        "ignored"
    )  # fmt: skip

    @model_validator(mode="after")
    def _a_name_for_each_layer(self) -> HorizonsConfig:
        if self.layers is not None and len(self.layers) != len(self.horizons) + 1:
            raise ValueError(f"{len(self.horizons) + 1} layers for {len(self.horizons)} horizons")
        return self


def _labels_kind(value: Any) -> str:
    """A class may be called horizons too; it has integers."""
    if isinstance(value, dict):
        given = value.get("horizons", 0)
        integers = given if isinstance(given, list) and given else [given]
        return "classes" if all(isinstance(one, int) for one in integers) else "horizons"
    return "horizons" if isinstance(value, HorizonsConfig) else "classes"


class DataConfig(Section):
    folder: Path | None = Field(None, description="dataset folder or list file; --data overrides")
    labels: Annotated[
        Annotated[Labels | None, Tag("classes")] | Annotated[HorizonsConfig, Tag("horizons")],
        Discriminator(_labels_kind),
        "mapping of class names to integers or lists of integers, or null, or horizons (see below)",
    ] = Field(
        None,
        description="class name: value in the label files, or several values that are merged "
        "(predictions carry the first); a class named 'ignore' is left out of the loss; null "
        "takes them from the dataset",
    )
    folds: Annotated[Integer, Field(ge=2)] = Field(
        5, description="number of cross-validation folds"
    )
    fold: Annotated[Integer, Field(ge=0)] = Field(0, description="fold to train; --fold overrides")
    cache: Literal["auto"] | Bytes = Field(
        "auto",
        description="preprocessed volumes are kept in RAM up to this limit, else on disk in the "
        "run folder; auto is half of the RAM that is free at the start",
    )
    workers: Literal["auto"] | Annotated[Integer, Field(ge=0)] = Field(
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


class PatchConfig(Section):
    size: Literal["auto"] | Size3 = Field(
        "auto", description="voxels; auto follows spacing, volumes"
    )
    voxels: PositiveInt = Field(128**3, description="most voxels that auto may choose")
    foreground: Probability = Field(
        0.5, description="share of patches centred on a foreground class"
    )


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


class UNet3dConfig(Section):
    name: Annotated[Literal["UNet3d"], _NETWORKS] = Field(
        "UNet3d", description="or one of MONAI's, see above"
    )
    channels: Literal["auto"] | Channels = Field(
        "auto", description="per level; auto is 32, 64, 128, 256, 320, 320 for as many as fit"
    )
    deep_supervision: bool = Field(True, description="losses at the lower resolutions too")


class MonaiNetworkConfig(BaseModel):
    """A network of MONAI's; further keys are the arguments of its class."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: Annotated[Literal[MONAI_NETWORKS], _NETWORKS]  # type: ignore[valid-type]

    @property
    def arguments(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


def _network_kind(value: Any) -> str:
    name = value.get("name", "UNet3d") if isinstance(value, dict) else getattr(value, "name", "")
    return "monai" if str(name).startswith("monai.") else "UNet3d"


NetworkConfig = Annotated[
    Annotated[UNet3dConfig, Tag("UNet3d")] | Annotated[MonaiNetworkConfig, Tag("monai")],
    Discriminator(_network_kind),
]


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
    batch_size: PositiveInt = Field(2, description="patches per forward pass")
    accumulate: PositiveInt = Field(1, description="forward passes per optimiser step")
    optimizer: Literal["sgd", "adamw"] = Field(
        "sgd", description="sgd: Nesterov, polynomial decay; adamw: warm-up, cosine decay"
    )
    learning_rate: Literal["auto"] | PositiveFloat = Field(
        "auto", description="sgd 0.01, adamw 3e-4"
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


class ValidationConfig(Section):
    every: PositiveInt = Field(10, description="epochs between validations on whole volumes")
    overlap: BelowOne = Field(0.25, description="of neighbouring windows")


class PredictConfig(Section):
    overlap: BelowOne = Field(0.5, description="of neighbouring windows")
    mirror: bool = Field(
        False, description="average over all flips of augment.flip.axes (8× slower)"
    )
    window_batch: PositiveInt | Literal["auto"] = Field(
        "auto",
        description="windows per forward pass at most, fewer if they do not fit into the memory; "
        "auto: 8 on a GPU, 2 on a CPU, where more are slower",
    )


class Config(Section):
    """Everything that can be set; see ``docs/config.md`` for the list."""

    data: DataConfig = DataConfig()
    preprocess: PreprocessConfig = PreprocessConfig()
    patch: PatchConfig = PatchConfig()
    augment: AugmentConfig = AugmentConfig()
    network: NetworkConfig = UNet3dConfig()
    probing: ProbingConfig = ProbingConfig()
    loss: LossConfig = LossConfig()
    train: TrainConfig = TrainConfig()
    validation: ValidationConfig = ValidationConfig()
    predict: PredictConfig = PredictConfig()


def load_config(path: str | Path, overrides: tuple[str, ...] = ()) -> Config:
    """Read a YAML file and apply ``key.sub=value`` overrides.

    Raises:
        UserError: naming the key, what was given and what is legal.
    """
    path = Path(path)
    try:
        tree = parse_yaml(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError) as error:
        raise UserError(
            f"config {path} does not exist or is not a file",
            fix="give a YAML file, such as one of configs/",
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"config {path} is not valid YAML", given=error) from error
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise UserError(f"config {path} holds no keys", given=type(tree).__name__)
    return config_from_tree(tree, overrides, source=str(path))


def config_from_tree(
    tree: dict[str, Any], overrides: tuple[str, ...] = (), source: str = "config"
) -> Config:
    """Validate a nested dictionary; see `load_config`."""
    if overrides:
        config_from_tree(tree, source=source)
        # What is wrong from here on, --set made so.
        source = "--set"
    for override in overrides:
        tree = _overridden(tree, override)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise explained(error, tree, Config(), source) from error


def config_tree(config: Config) -> dict[str, Any]:
    """The config as plain YAML-ready values; `config_from_tree` gives the config back."""
    return config.model_dump(mode="json")


def save_config(config: Config, path: Path) -> None:
    """Write the complete config, defaults included, as YAML."""
    with atomic_write(path) as temporary:
        temporary.write_text(yaml.safe_dump(config_tree(config), sort_keys=False))


def _overridden(tree: dict[str, Any], override: str) -> dict[str, Any]:
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise UserError("--set is not understood", given=override, legal="key.sub=value")
    try:
        value = parse_yaml(text)
    except yaml.YAMLError as error:
        raise UserError(f"--set {key}: the value is not valid YAML", given=text) from error
    *parents, last = parts
    tree = dict(tree)
    branch = tree
    for parent in parents:
        child = branch.get(parent)
        if child is not None and not isinstance(child, dict):
            raise UserError(f"--set {key}: {parent} has no keys below it", given=child)
        branch[parent] = dict(child or {})
        branch = branch[parent]
    if last == "name" and parents == ["network"] and branch.get("name") != value:
        # Arguments of the network that is replaced mean nothing to the new one.
        branch.clear()
    branch[last] = value
    return tree


def documented_keys() -> list[tuple[str, str, str, str]]:
    """All keys as (key, default, what is legal, description), in the order of the models."""
    return keys_of(Config())


def documented_horizon_keys() -> list[tuple[str, str, str, str]]:
    """Likewise those of labels from horizons."""
    return keys_of(HorizonsConfig(horizons=["top.dat", "base.dat"]), "data.labels.")
