"""The U-Net of a model: whether seg3d's is the same, and what its weights are called there."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from seg3d.common.errors import UserError
from seg3d.geometry import Shape3
from seg3d.nnunet.plans_file import Architecture, Network

PLAIN, RESIDUAL = "PlainConvUNet", "ResidualEncoderUNet"
EPSILON, SLOPE = 1e-5, 0.01
# Parts of nnU-Net's networks that hold the same weights once more.
TWICE = re.compile(r"decoder\.encoder\.|.*\.all_modules\.")
# What seg3d calls the parts of a residual block, and what nnU-Net does.
PARTS = {"first": "conv1", "second": "conv2"}


class Shape(NamedTuple):
    """Of a network: lists have an entry for each level, as in a plan."""

    features: list[int]
    kernels: list[Shape3]
    strides: list[Shape3]
    blocks: list[int] | None


def shape_of(architecture: Architecture, where: object) -> Shape:
    """The shape of the network that the plans describe.

    Args:
        architecture: of the plans.
        where: it is described, for the message.

    Raises:
        UserError: if it is no network that seg3d has.
    """
    kind, network = architecture.network_class_name.rpartition(".")[2], architecture.arch_kwargs
    if kind not in (PLAIN, RESIDUAL):
        raise UserError(
            f"{where}: seg3d does not have this network",
            given=architecture.network_class_name,
            legal=f"{PLAIN} or {RESIDUAL}",
        )
    levels = network.n_stages
    residual = kind == RESIDUAL
    convolutions = network.n_conv_per_stage if not residual else [2] * levels
    expected: dict[str, tuple[Any, bool]] = {
        "conv_op": (network.conv_op, network.conv_op.endswith("Conv3d")),
        "conv_bias": (network.conv_bias, network.conv_bias),
        "norm_op": (network.norm_op, str(network.norm_op).endswith("InstanceNorm3d")),
        "norm_op_kwargs": (network.norm_op_kwargs, _is_affine(network)),
        "nonlin": (network.nonlin, str(network.nonlin).endswith(".LeakyReLU")),
        "nonlin_kwargs": (network.nonlin_kwargs, _has_slope(network)),
        "dropout_op": (network.dropout_op, network.dropout_op is None),
        "block": (network.block, network.block is None or network.block.endswith("BasicBlockD")),
        "bottleneck_channels": (network.bottleneck_channels, network.bottleneck_channels is None),
        "stochastic_depth_p": (network.stochastic_depth_p, network.stochastic_depth_p == 0),
        "squeeze_excitation": (network.squeeze_excitation, not network.squeeze_excitation),
        "n_conv_per_stage": (convolutions, set(_per_level(convolutions, levels)) == {2}),
        "n_conv_per_stage_decoder": (
            network.n_conv_per_stage_decoder,
            set(_per_level(network.n_conv_per_stage_decoder, levels - 1)) == {1 if residual else 2},
        ),
    }
    if unlike := {key: given for key, (given, same) in expected.items() if not same}:
        raise UserError(
            f"{where}: seg3d has this network only as nnU-Net's planners make it",
            given=", ".join(f"{key}: {given}" for key, given in unlike.items()),
            legal="3D convolutions with bias, InstanceNorm3d with weights, LeakyReLU; two "
            "convolutions in each level, or residual blocks and one convolution",
        )
    try:
        features = [int(one) for one in _per_level(network.features_per_stage, levels)]
        kernels = [_triple(one) for one in _per_level(network.kernel_sizes, levels)]
        strides = [_triple(one) for one in _per_level(network.strides, levels)]
        blocks = _per_level(network.n_blocks_per_stage, levels) if residual else None
        if not features or not kernels or not strides or blocks == []:
            raise ValueError(f"it has {levels} levels, but not as many values for each")
        return Shape(features, kernels, strides, blocks and [int(one) for one in blocks])
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: the network is not described well", given=error) from error


def weights_for(shape: Shape, names: list[str], theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of seg3d's network.

    Args:
        shape: of the network.
        names: of its weights in seg3d.
        theirs: weights by their names in nnU-Net.

    Raises:
        ValueError: if they are not those of this network.
    """
    renamed = {name: their_name(name, shape) for name in names}
    given = {name for name in theirs if not TWICE.match(name)}
    if unlike := given ^ set(renamed.values()):
        raise ValueError(f"its weights are of another network, such as {min(unlike)}")
    return {name: theirs[renamed[name]].detach().clone().float() for name in names}


def their_name(name: str, shape: Shape) -> str:
    """What nnU-Net calls a weight of `seg3d.networks.UNet3d`."""
    kind, number, rest = name.split(".", 2)
    level = int(number)
    upwards = len(shape.features) - 2 - level
    if kind == "heads":
        return f"decoder.seg_layers.{upwards}.{rest}"
    if kind == "up":
        return f"decoder.transpconvs.{upwards}.{rest}"
    if kind == "decoder":
        return f"decoder.stages.{upwards}.convs.{rest}"
    block, rest = rest.split(".", 1)
    if shape.blocks is None:
        return f"encoder.stages.{level}.0.convs.{block}.{rest}"
    if level == 0 and block == "0":
        return f"encoder.stem.convs.0.{rest}"
    # In seg3d the stem is the first block of the first level.
    place = int(block) - (level == 0)
    part, rest = rest.split(".", 1)
    # Where strides are averaged over, that is the first thing that goes past a block.
    past = f"skip.{int(shape.strides[level] != (1, 1, 1) and place == 0)}"
    return f"encoder.stages.{level}.blocks.{place}.{PARTS.get(part, past)}.{rest}"


def _is_affine(network: Network) -> bool:
    given = network.norm_op_kwargs or {}
    return bool(given.get("affine")) and np.isclose(given.get("eps", EPSILON), EPSILON)


def _has_slope(network: Network) -> bool:
    return bool(np.isclose((network.nonlin_kwargs or {}).get("negative_slope", SLOPE), SLOPE))


def _per_level(given: Any, levels: int) -> list[Any]:
    """A value for each level, of which one may stand for all."""
    values = [given] * levels if isinstance(given, int) else list(given or ())
    return values if len(values) == levels else []


def _triple(given: Any) -> Shape3:
    x, y, z = [given] * 3 if isinstance(given, int) else given
    return int(x), int(y), int(z)
