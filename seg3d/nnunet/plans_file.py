"""What a model's ``plans.json`` says of the configuration that was trained, validated."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from seg3d.common.errors import UserError
from seg3d.config.values import Axes, Number, PositiveFloat, PositiveInt
from seg3d.data.layouts import read_json

MOST_LEVELS = 16
# Names of configurations that seg3d can use.
USABLE = ("3d_fullres", "3d_lowres")


class _Part(BaseModel):
    """Of the plans. Only what is asked for is looked at, since each version writes more."""

    model_config = ConfigDict(extra="ignore", frozen=True)


PerLevel = Annotated[list[Any], Field(min_length=2, max_length=MOST_LEVELS)] | PositiveInt


class Network(_Part):
    """Arguments of the network, as `dynamic_network_architectures` takes them."""

    n_stages: Annotated[PositiveInt, Field(ge=2, le=MOST_LEVELS)]
    features_per_stage: PerLevel
    kernel_sizes: PerLevel
    strides: PerLevel
    n_conv_per_stage: PerLevel | None = None
    n_blocks_per_stage: PerLevel | None = None
    n_conv_per_stage_decoder: Annotated[list[Any], Field(max_length=MOST_LEVELS)] | PositiveInt
    conv_op: str = "torch.nn.modules.conv.Conv3d"
    conv_bias: bool = False
    norm_op: str | None = None
    norm_op_kwargs: dict[str, Any] | None = None
    dropout_op: str | None = None
    nonlin: str | None = None
    nonlin_kwargs: dict[str, Any] | None = None
    block: str | None = None
    bottleneck_channels: Any = None
    stochastic_depth_p: float = 0.0
    squeeze_excitation: bool = False


class Architecture(_Part):
    network_class_name: str
    arch_kwargs: Network


class OldArchitecture(_Part):
    """The form in which the first plans of version 2 describe the network."""

    name: str = Field(alias="UNet_class_name")
    base: PositiveInt = Field(alias="UNet_base_num_features")
    most: PositiveInt = Field(alias="unet_max_num_features")
    encoder: Annotated[list[PositiveInt], Field(min_length=2, max_length=MOST_LEVELS)] = Field(
        alias="n_conv_per_stage_encoder"
    )
    decoder: list[PositiveInt] = Field(alias="n_conv_per_stage_decoder")
    strides: list[Any] = Field(alias="pool_op_kernel_sizes")
    kernels: list[Any] = Field(alias="conv_kernel_sizes")

    def in_present_form(self) -> Architecture:
        counted = "n_blocks_per_stage" if "Residual" in self.name else "n_conv_per_stage"
        network = {
            "n_stages": len(self.encoder),
            "features_per_stage": [
                min(self.base * 2**level, self.most) for level in range(len(self.encoder))
            ],
            "kernel_sizes": self.kernels,
            "strides": self.strides,
            counted: self.encoder,
            "n_conv_per_stage_decoder": self.decoder,
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "nonlin": "torch.nn.LeakyReLU",
        }
        arguments = Network.model_validate(network)
        return Architecture(network_class_name=self.name, arch_kwargs=arguments)


class Configuration(_Part):
    """One of the configurations of the plans."""

    patch_size: Annotated[list[PositiveInt], Field(min_length=2, max_length=3)]
    spacing: Annotated[list[PositiveFloat], Field(min_length=2, max_length=3)]
    batch_size: Annotated[PositiveInt, Field(le=4096)] = 2
    normalization_schemes: Annotated[list[str], Field(min_length=1)]
    use_mask_for_norm: list[bool]
    preprocessor_name: str = "DefaultPreprocessor"
    resampling_fn_data: str
    resampling_fn_data_kwargs: dict[str, Any] = {}
    resampling_fn_probabilities: str
    resampling_fn_probabilities_kwargs: dict[str, Any] = {}
    previous_stage: str | None = None
    architecture: Architecture


class Intensities(_Part):
    """Of the foreground of a channel, over the dataset."""

    mean: Number
    std: Annotated[Number, Field(ge=0)]
    percentile_00_5: Number
    percentile_99_5: Number


class Plans(_Part):
    """What the plans say of all configurations together."""

    dataset_name: str = ""
    transpose_forward: Annotated[Axes, Field(min_length=3)]
    image_reader_writer: str = "SimpleITKIO"
    label_manager: Literal["LabelManager"] = "LabelManager"
    intensities: dict[str, Intensities] = {}


def read_plans(path: Path, name: str) -> tuple[Plans, Configuration]:
    """Read the plans of a model or a dataset, and of one of their configurations.

    Args:
        path: the file.
        name: of the configuration.

    Raises:
        UserError: if the plans are malformed, or the configuration is one that seg3d cannot use.
    """
    content = read_json(path)
    configurations = content.get("configurations") if isinstance(content, dict) else None
    if not isinstance(configurations, dict):
        raise UserError(f"{path} holds no plans of nnU-Net version 2", legal='"configurations"')
    tree = _with_parents(path, configurations, name)
    _require_usable(path, configurations, name, tree)
    by_channel = content.get("foreground_intensity_properties_per_channel") or content.get(
        "foreground_intensity_properties_by_modality"
    )
    with _mistakes_named(path, name):
        plans = Plans.model_validate({**content, "intensities": by_channel or {}})
        if "architecture" not in tree:
            old = OldArchitecture.model_validate(tree)
            tree = {**tree, "architecture": old.in_present_form()}
        return plans, Configuration.model_validate(tree)


def _with_parents(path: Path, configurations: dict[str, Any], name: str) -> dict[str, Any]:
    """A configuration with what it inherits from others."""
    tree: dict[str, Any] = {}
    seen: list[str] = []
    parent: Any = name
    while parent is not None:
        found = configurations.get(parent) if isinstance(parent, str) else None
        if not isinstance(found, dict) or parent in seen:
            problem = (
                "configurations inherit from each other in a circle"
                if parent in seen
                else f"there is no configuration {parent}"
            )
            raise UserError(
                f"{path}: {problem}",
                given=" from ".join([*seen, str(parent)]),
                legal=", ".join(map(str, configurations)),
            )
        seen.append(parent)
        tree = {**found, **tree}
        parent = found.get("inherits_from")
    return tree


def _require_usable(
    path: Path, configurations: dict[str, Any], name: str, tree: dict[str, Any]
) -> None:
    patch = tree.get("patch_size")
    flat = isinstance(patch, list) and len(patch) == 2
    if not flat and tree.get("previous_stage") is None:
        return
    others = [one for one in USABLE if one in configurations]
    fix = f"give the folder of {' or '.join(others)}" if others else "train 3d_fullres in nnU-Net"
    kind = "segments slices (2D)" if flat else "is the second stage of a cascade"
    raise UserError(
        f"{path.parent}: its configuration {name} {kind}, which seg3d does not do",
        legal="3d_fullres or 3d_lowres",
        fix=fix,
    )


class _mistakes_named:
    """Say in words what is wrong with the plans."""

    def __init__(self, path: Path, name: str) -> None:
        self._where = f"{path}, configuration {name}"

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ValidationError):
            said = "; ".join(
                f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()[:3]
            )
            raise UserError(
                f"{self._where} is not as nnU-Net version 2 writes it", given=said
            ) from error
