"""The network that the config names, with its convolutions probed."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from seg3d.config import Config, MonaiNetworkConfig, UNet3dConfig
from seg3d.errors import UserError
from seg3d.networks.unet3d import UNet3d
from seg3d.plan import Plan
from seg3d.probing import probe_model, set_bits


def build_network(config: Config, plan: Plan) -> nn.Module:
    """Build the network of a run.

    Raises:
        UserError: if a MONAI network does not take the given arguments or patch size.
    """
    if isinstance(config.network, UNet3dConfig):
        network: nn.Module = UNet3d(
            len(plan.channels),
            len(plan.classes),
            plan.features,
            config.probing.sketch,
            config.network.deep_supervision,
            rank=config.probing.rank,
            kernels=plan.kernels,
            strides=plan.strides,
        )
    else:
        network = _monai_network(config.network, plan)
        probe_model(network, sketch=config.probing.sketch, rank=config.probing.rank)
    if config.probing.bits != "auto":
        set_bits(network, config.probing.bits)
    return network


def heads(output: Any) -> list[Tensor]:
    """The class scores of a network as a list, finest first.

    Args:
        output: one tensor `(B, K, D, H, W)`, a list of such, or MONAI's stack
            `(B, heads, K, D, H, W)`.
    """
    if isinstance(output, Tensor):
        return list(output.unbind(1)) if output.ndim == 6 else [output]
    return list(output)


def _monai_network(network: MonaiNetworkConfig, plan: Plan) -> nn.Module:
    from monai.networks import nets

    kind = getattr(nets, network.name.removeprefix("monai."))
    legal = [name for name in inspect.signature(kind).parameters if name not in _PROVIDED]
    if unknown := sorted(set(network.arguments) - set(legal)):
        raise UserError(
            f"network.{unknown[0]} is not an argument of {network.name}", legal=", ".join(legal)
        )
    given = {
        "spatial_dims": 3,
        "in_channels": len(plan.channels),
        "out_channels": len(plan.classes),
    }
    arguments = {
        name: value
        for name, value in (given | _from_plan(network.name, plan) | network.arguments).items()
        if name in inspect.signature(kind).parameters
    }
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            trial = kind(**arguments)
            image = torch.empty(2, len(plan.channels), *plan.patch_size)
            shape = heads(trial(image))[0].shape[2:]
    except Exception as error:
        # Anything may come out of a foreign constructor; the message is all there is to show.
        raise UserError(
            f"{network.name} cannot be built for patches of {list(plan.patch_size)}: {error}",
            given=arguments,
            fix="change patch.size or the arguments under network",
        ) from error
    if tuple(shape) != plan.patch_size:
        raise UserError(
            f"{network.name} turns patches of {list(plan.patch_size)} voxels into {list(shape)}",
            legal="scores of the size of the image",
            fix="change patch.size or the arguments under network",
        )
    return kind(**arguments)


_PROVIDED = ("spatial_dims", "in_channels", "out_channels")


def _from_plan(name: str, plan: Plan) -> dict[str, Any]:
    """Arguments that MONAI asks for and the plan knows; the config may overrule them."""
    if name == "monai.DynUNet":
        return {
            "kernel_size": plan.kernels,
            "strides": plan.strides,
            "upsample_kernel_size": plan.strides[1:],
            "filters": plan.features,
        }
    if name in ("monai.UNet", "monai.AttentionUnet"):
        return {"channels": plan.features, "strides": plan.strides[1:]}
    return {}
