"""The weights that training begins with, instead of random ones, and the plan they come with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from seg3d.common.errors import UserError
from seg3d.config import Config
from seg3d.nnunet import is_nnunet, load_nnunet
from seg3d.plan import Plan
from seg3d.runs.checkpoint import damage_explained, find_checkpoint, load_checkpoint

# Layers that are named in a message.
SHOWN = 20


@dataclass(frozen=True)
class Start:
    """What training begins with.

    Attributes:
        source: the file.
        config: of the run that trained the weights.
        plan: of that run.
        weights: by the names that they have in the network of this config and plan.
    """

    source: Path
    config: Config
    plan: Plan
    weights: Mapping[str, Tensor]


def read_start(path: Path) -> Start:
    """Read what ``train.init_from`` names.

    That is a run, whose best weights are taken; a checkpoint; or a model of nnU-Net's, of which the
    first fold is taken. This is the one place that knows what such files are like.

    Raises:
        UserError: if there are no weights, or they are damaged.
    """
    if is_nnunet(path):
        model = load_nnunet(path, "first")
        (weights,) = model.networks.values()
        return Start(path, model.config, model.plan, weights)
    checkpoint = find_checkpoint(path)
    config, plan, content = load_checkpoint(checkpoint)
    with damage_explained(checkpoint):
        return Start(checkpoint, config, plan, content["network"])


def take_weights(network: nn.Module, start: Start) -> str:
    """Put weights into a network, layer by layer; layers that they do not fit stay as they are.

    Returns:
        Which layers these are, in words.

    Raises:
        UserError: if no layer fits.
    """
    ours = network.state_dict()
    reasons = {name: _unfit(name, one, start.weights) for name, one in ours.items()}
    anew: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        if reason:
            anew.setdefault(_layer(name), []).append(f"{name} {reason}")
    taken = [name for name in ours if _layer(name) not in anew]
    if not taken:
        raise UserError(
            f"no weight of {start.source} fits the network",
            given=next(iter(anew.values()))[0],
            fix="give the network of that run, or leave network and patch to it",
        )
    network.load_state_dict({**ours, **{name: start.weights[name] for name in taken}})
    lines = [f"weights from {start.source}: {len(taken)} of {len(ours)} tensors"]
    shown = [f"  made anew: {layer} ({', '.join(why)})" for layer, why in anew.items()]
    if len(shown) > SHOWN:
        shown[SHOWN:] = [f"  and {len(shown) - SHOWN} more"]
    return "\n".join(lines + shown)


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


def _unfit(name: str, ours: Tensor, weights: Mapping[str, Tensor]) -> str:
    """Why a tensor cannot be taken; empty if it can."""
    if name not in weights:
        return "is not there"
    if weights[name].shape != ours.shape:
        return f"is {list(weights[name].shape)} there and {list(ours.shape)} here"
    return ""
