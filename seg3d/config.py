"""The configuration: typed, validated once, complete.

Every key has its default here; a YAML file and ``--set`` change some of them. Nothing below this
module reads raw dictionaries.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

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

from seg3d.errors import UserError
from seg3d.files import atomic_write
from seg3d.probing import SKETCHES

MONAI_NETWORKS = (
    "monai.AttentionUnet",
    "monai.BasicUNet",
    "monai.DynUNet",
    "monai.SegResNet",
    "monai.UNet",
    "monai.VNet",
)

_UNITS = {
    "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400,
    "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
    "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
}  # fmt: skip


def _quantity(text: Any, units: tuple[str, ...], example: str) -> Any:
    if not isinstance(text, str):
        return text
    match = re.fullmatch(r"\s*([0-9.]+)\s*([a-zA-Z]+)\s*", text)
    if not match or match[2].lower() not in units:
        raise ValueError(f"should look like {example}")
    return float(match[1]) * _UNITS[match[2].lower()]


def _seconds(text: Any) -> Any:
    return _quantity(text, ("s", "m", "min", "h", "d"), "90s, 30m or 2h")


def _bytes(text: Any) -> Any:
    if text == "auto":
        return text
    return _quantity(
        text, ("kib", "mib", "gib", "tib", "kb", "mb", "gb", "tb"), "512MiB, 8GiB or auto"
    )


def _ordered(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError("should be given as [smaller, larger]")
    return pair


def _orientation(code: str) -> str:
    if code != "none" and sorted(code.translate(str.maketrans("LPI", "RAS"))) != ["A", "R", "S"]:
        raise ValueError("should be three letters, one each of R/L, A/P and S/I, or none")
    return code


Probability = Annotated[float, Field(ge=0, le=1)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
PositiveInt = Annotated[int, Field(ge=1)]
Seconds = Annotated[PositiveFloat, BeforeValidator(_seconds)]
Bytes = Annotated[PositiveFloat, BeforeValidator(_bytes)]
Spacing = tuple[PositiveFloat, PositiveFloat, PositiveFloat]
Size3 = tuple[PositiveInt, PositiveInt, PositiveInt]
Range = Annotated[tuple[PositiveFloat, PositiveFloat], AfterValidator(_ordered)]
Percentiles = Annotated[
    tuple[Annotated[float, Field(ge=0, le=100)], Annotated[float, Field(ge=0, le=100)]],
    AfterValidator(_ordered),
]
Orientation = Annotated[str, AfterValidator(_orientation)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class DataConfig(Section):
    folder: Path | None = Field(None, description="dataset folder or list file; --data overrides")
    labels: dict[str, int | list[int]] | None = Field(
        None,
        description="class name: value in the label files, or several values that are merged; "
        "a class named 'ignore' is left out of the loss; null takes them from the dataset",
    )
    folds: Annotated[int, Field(ge=2)] = Field(5, description="number of cross-validation folds")
    fold: Annotated[int, Field(ge=0)] = Field(0, description="fold to train; --fold overrides")
    cache: Literal["auto"] | Bytes = Field(
        "auto",
        description="preprocessed volumes are kept in RAM up to this limit, else on disk in the "
        "run folder; auto is half of the RAM that is free at the start",
    )
    workers: Literal["auto"] | Annotated[int, Field(ge=0)] = Field(
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
    axes: list[Annotated[int, Field(ge=0, le=2)]] = Field([0, 1, 2], description="axes to mirror")


class AffineConfig(Section):
    prob: Probability = Field(0.2, description="of a rotation and zoom (one interpolation)")
    degrees: NonNegativeFloat = Field(
        30.0, description="largest rotation about each axis; in plane only where voxels are thick"
    )
    zoom: Range = Field((0.7, 1.4), description="factor on the size of things")


class ElasticConfig(Section):
    prob: Probability = 0.1
    sigma: Range = Field((5.0, 8.0), description="smoothness of the displacement, voxels")
    magnitude: Range = Field((100.0, 300.0), description="strength before smoothing, voxels")


class BiasFieldConfig(Section):
    prob: Probability = 0.1
    strength: NonNegativeFloat = Field(0.3, description="largest polynomial coefficient")


class ContrastConfig(Section):
    prob: Probability = 0.15
    gamma: Range = (0.7, 1.5)


class NoiseConfig(Section):
    prob: Probability = 0.1
    std: NonNegativeFloat = Field(0.1, description="largest deviation, in units of z-score")


class BlurConfig(Section):
    prob: Probability = 0.1
    sigma: Range = Field((0.5, 1.0), description="voxels")


class LowResolutionConfig(Section):
    prob: Probability = 0.1
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
    name: Literal["UNet3d"] = "UNet3d"
    channels: Literal["auto"] | list[PositiveInt] = Field(
        "auto", description="per level; auto is 32, 64, 128, 256, 320, 320 for as many as fit"
    )
    deep_supervision: bool = Field(True, description="losses at the lower resolutions too")


class MonaiNetworkConfig(BaseModel):
    """A network of MONAI's; further keys are the arguments of its class."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: Literal[MONAI_NETWORKS]  # type: ignore[valid-type]

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
        "onebit", description="what is kept of a convolution's input for its weight gradient"
    )
    rank: PositiveInt = Field(
        64, description="probes of independent, multichannel and orthogonal; others ignore it"
    )


class LossConfig(Section):
    dice: NonNegativeFloat = Field(1.0, description="weight of the soft Dice loss")
    cross_entropy: NonNegativeFloat = Field(1.0, description="weight of the cross-entropy")
    batch_dice: bool = Field(True, description="one Dice over the batch instead of one per patch")

    @model_validator(mode="after")
    def _something_to_minimise(self) -> LossConfig:
        if self.dice == 0 and self.cross_entropy == 0:
            raise ValueError("dice and cross_entropy should not both be 0")
        return self


class TrainConfig(Section):
    epochs: PositiveInt = 250
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
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.99, description="sgd only")
    warmup: Probability = Field(0.02, description="adamw only: share of the steps")
    clip: PositiveFloat | None = Field(12.0, description="largest gradient norm; null: no clipping")
    amp: Literal["auto", "bf16", "fp16", "off"] = Field(
        "auto",
        description="mixed precision: auto is bf16 where the device has it, else fp16, else off",
    )
    max_time: Seconds | None = Field(None, description="stop and save after this long, such as 2h")
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0


class ValidationConfig(Section):
    every: PositiveInt = Field(10, description="epochs between validations on whole volumes")
    overlap: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.25, description="of neighbouring windows"
    )


class PredictConfig(Section):
    overlap: Annotated[float, Field(ge=0, lt=1)] = Field(0.5, description="of neighbouring windows")
    mirror: bool = Field(
        False, description="average over all flips of augment.flip.axes (8× slower)"
    )
    window_batch: PositiveInt = Field(1, description="windows per forward pass")


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
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
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
    # A section whose keys are all commented out reads as null.
    tree = {key: section for key, section in tree.items() if section is not None}
    return config_from_tree(tree, overrides, source=str(path))


def config_from_tree(
    tree: dict[str, Any], overrides: tuple[str, ...] = (), source: str = "config"
) -> Config:
    """Validate a nested dictionary; see `load_config`."""
    for override in overrides:
        tree = _overridden(tree, override)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise _explained(error, source) from error


def config_tree(config: Config) -> dict[str, Any]:
    """The config as plain YAML-ready values; `config_from_tree` gives the config back."""
    return config.model_dump(mode="json")


def save_config(config: Config, path: Path) -> None:
    """Write the complete config, defaults included, as YAML."""
    with atomic_write(path) as temporary:
        temporary.write_text(yaml.safe_dump(config_tree(config), sort_keys=False))


def _overridden(tree: dict[str, Any], override: str) -> dict[str, Any]:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise UserError("--set is not understood", given=override, legal="key.sub=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"--set {key}: the value is not valid YAML", given=text) from error
    *parents, last = key.strip().split(".")
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


def _explained(error: ValidationError, source: str) -> UserError:
    """Say the first mistakes in the words of the config file."""
    lines = []
    for mistake in _one_per_key(error):
        key = ".".join(_key(mistake["loc"]))
        if mistake["type"] == "extra_forbidden":
            legal = _keys_beside(mistake["loc"])
            close = difflib.get_close_matches(str(mistake["loc"][-1]), legal, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            lines.append(f"{key} is not a key{hint}\n  legal: {', '.join(legal)}")
        else:
            given = mistake["input"]
            lines.append(f"{key}\n  given: {given!r}\n  legal: {mistake['msg']}")
    return UserError(f"{source}: " + "\n".join(lines))


def _one_per_key(error: ValidationError) -> list[dict[str, Any]]:
    """One mistake per key: unions report each of their branches."""
    by_key: dict[tuple[str, ...], dict[str, Any]] = {}
    for details in error.errors():
        mistake: dict[str, Any] = {**details}
        mistake["msg"] = mistake["msg"].removeprefix("Value error, ").removeprefix("Input ")
        key = _key(mistake["loc"])
        if key in by_key:
            by_key[key]["msg"] += f"; or {mistake['msg']}"
        else:
            by_key[key] = mistake
    return list(by_key.values())


def _key(location: tuple[int | str, ...]) -> tuple[str, ...]:
    """The part of pydantic's location that stands in the file (it adds names of union branches)."""
    key: list[str] = []
    model: Any = Config
    for part in location:
        if part in ("UNet3d", "monai") and key == ["network"]:
            model = UNet3dConfig if part == "UNet3d" else MonaiNetworkConfig
            continue
        fields = getattr(model, "model_fields", None)
        if fields is None:
            if isinstance(part, int):
                key.append(str(part))
            continue
        key.append(str(part))
        model = fields[part].annotation if part in fields else None
    return tuple(key)


def _keys_beside(location: tuple[int | str, ...]) -> list[str]:
    model: Any = Config
    for part in location[:-1]:
        if part in ("UNet3d", "monai"):
            model = UNet3dConfig
        elif hasattr(model, "model_fields"):
            model = model.model_fields[str(part)].annotation
    return list(model.model_fields) if hasattr(model, "model_fields") else []


def documented_keys() -> list[tuple[str, str, str, str]]:
    """All keys as (key, default, what is legal, description), in the order of the models."""
    rows: list[tuple[str, str, str, str]] = []

    def walk(section: BaseModel, prefix: str) -> None:
        for name, field in type(section).model_fields.items():
            value = getattr(section, name)
            if isinstance(value, BaseModel):
                walk(value, f"{prefix}{name}.")
            else:
                default = yaml.safe_dump(
                    section.model_dump(mode="json")[name], default_flow_style=True
                )
                rows.append(
                    (
                        f"{prefix}{name}",
                        default.removesuffix("...\n").strip(),
                        _legal(field.annotation),
                        field.description or "",
                    )
                )

    walk(Config(), "")
    return rows


def _legal(annotation: Any) -> str:
    if annotation is Path or annotation is str:
        return "text"
    simple = {int: "integer", float: "number", bool: "true, false", type(None): "null"}
    if annotation in simple:
        return simple[annotation]
    if getattr(annotation, "__origin__", None) is Literal:
        return ", ".join(map(str, get_args(annotation)))
    if getattr(annotation, "__metadata__", None):
        return _legal(get_args(annotation)[0])
    inside = [_legal(argument) for argument in get_args(annotation) if argument is not Ellipsis]
    origin = getattr(annotation, "__origin__", None)
    if origin is tuple:
        return f"[{', '.join(inside)}]"
    if origin is list:
        return f"list of {inside[0]}"
    if origin is dict:
        return f"mapping of {inside[0]} to {inside[1]}"
    return ", ".join(dict.fromkeys(inside))
