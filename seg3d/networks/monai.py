"""MONAI's networks by name, in the size that a plan asks for."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from seg3d.common.errors import UserError
from seg3d.losses import heads

Triple = tuple[int, int, int]

_PROVIDED = ("spatial_dims", "in_channels", "out_channels")


def monai_network(
    name: str,
    arguments: Mapping[str, Any],
    *,
    in_channels: int,
    out_channels: int,
    patch_size: Triple,
    features: Sequence[int],
    kernels: Sequence[Triple],
    strides: Sequence[Triple],
) -> nn.Module:
    """Build a network of MONAI's, and try that it gives scores of the size of its patches.

    Args:
        name: of a class in ``monai.networks.nets``, with or without ``monai.`` before it.
        arguments: of that class; they overrule what follows.
        in_channels: channels of the image.
        out_channels: classes, background included.
        patch_size: voxels of the patches that it shall take.
        features: channels per level, finest first, for the networks that ask for them.
        kernels: kernel size per level, likewise.
        strides: stride from the level above per level, the first being (1, 1, 1), likewise.

    Raises:
        UserError: if the network does not take the arguments or the patch size.
    """
    from monai.networks import nets

    kind = getattr(nets, name.removeprefix("monai."))
    parameters = inspect.signature(kind).parameters
    legal = [parameter for parameter in parameters if parameter not in _PROVIDED]
    if unknown := sorted(set(arguments) - set(legal)):
        raise UserError(
            f"network.{unknown[0]} is not an argument of {name}", legal=", ".join(legal)
        )
    given = {"spatial_dims": 3, "in_channels": in_channels, "out_channels": out_channels}
    wanted = given | _of_levels(name, features, kernels, strides) | dict(arguments)
    wanted = {key: value for key, value in wanted.items() if key in parameters}
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            trial = kind(**wanted)
            image = torch.empty(2, in_channels, *patch_size)
            shape = heads(trial(image))[0].shape[2:]
    except Exception as error:
        # Anything may come out of a foreign constructor; the message is all there is to show.
        said, *_ = str(error).split("\n")
        raise UserError(
            f"{name} cannot be built for patches of {list(patch_size)}: {said}",
            given=wanted,
            fix="change patch.size or the arguments under network",
        ) from error
    if tuple(shape) != patch_size:
        raise UserError(
            f"{name} turns patches of {list(patch_size)} voxels into {list(shape)}",
            legal="scores of the size of the image",
            fix="change patch.size or the arguments under network",
        )
    network: nn.Module = kind(**wanted)
    return network


def _of_levels(
    name: str, features: Sequence[int], kernels: Sequence[Triple], strides: Sequence[Triple]
) -> dict[str, Any]:
    """What MONAI's class asks for of the levels."""
    if name == "monai.DynUNet":
        return {
            "kernel_size": kernels,
            "strides": strides,
            "upsample_kernel_size": strides[1:],
            "filters": features,
        }
    if name in ("monai.UNet", "monai.AttentionUnet"):
        return {"channels": features, "strides": strides[1:]}
    return {}
