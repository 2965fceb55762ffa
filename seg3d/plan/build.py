"""The network and the loss that a config and a plan ask for."""

from __future__ import annotations

from torch import nn

from seg3d.common.errors import UserError
from seg3d.config import Config, LossConfig, UNet3dConfig
from seg3d.losses import DiceCrossEntropy
from seg3d.networks import UNet3d, monai_network
from seg3d.plan.parameters import freeze
from seg3d.plan.plan import Plan
from seg3d.probing import probe_model, set_bits


def build_network(config: Config, plan: Plan) -> nn.Module:
    """Build the network of a run, with probed layers.

    Raises:
        UserError: if a MONAI network does not take the given arguments or patch size, or is to
            be streamed, or if ``train.freeze`` does not fit it.
    """
    probing = config.probing
    if isinstance(config.network, UNet3dConfig):
        if probing.streamed and plan.blocks is not None:
            raise UserError(
                "probing.streamed is only for plain encoders",
                given=f"network.preset={config.network.preset}",
                legal="network.preset=plain",
            )
        network: nn.Module = UNet3d(
            len(plan.channels),
            len(plan.classes),
            plan.features,
            probing.sketch,
            config.network.deep_supervision,
            rank=probing.rank,
            kernels=plan.kernels,
            strides=plan.strides,
            blocks=plan.blocks,
            streamed=probing.streamed,
        )
    else:
        if probing.streamed:
            raise UserError(
                "probing.streamed is only for seg3d's own network",
                given=f"network.name={config.network.name}",
                legal="network.name=UNet3d",
            )
        network = monai_network(
            config.network.name,
            config.network.arguments,
            in_channels=len(plan.channels),
            out_channels=len(plan.classes),
            patch_size=plan.patch_size,
            features=plan.features,
            kernels=plan.kernels,
            strides=plan.strides,
        )
        probe_model(network, sketch=probing.sketch, rank=probing.rank)
    if probing.bits != "auto":
        set_bits(network, probing.bits)
    if config.train.freeze:
        freeze(network, config.train.freeze)
    return network


def build_loss(loss: LossConfig, plan: Plan) -> DiceCrossEntropy:
    """The loss that a config asks for.

    Args:
        loss: the settings.
        plan: of the run, for its classes.

    Raises:
        UserError: if a weight is given for a class that does not exist.
    """
    if unknown := loss.class_weights.keys() - set(plan.class_names):
        raise UserError(
            "loss.class_weights names a class that does not exist",
            given=", ".join(sorted(unknown)),
            legal=", ".join(plan.class_names),
        )
    weights = [loss.class_weights.get(name, 1.0) for name in plan.class_names]
    return DiceCrossEntropy(
        loss.dice,
        loss.cross_entropy,
        loss.batch_dice,
        tversky=loss.tversky,
        focal=loss.focal,
        class_weights=weights if loss.class_weights else None,
        regions=plan.membership,
    )
