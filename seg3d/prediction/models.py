"""What can be predicted with: a run, a checkpoint, or a model of nnU-Net's."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from seg3d.common.errors import UserError
from seg3d.config import Config, config_from_tree, config_tree, keys_set
from seg3d.nnunet import chosen_folds, is_nnunet, load_nnunet, require_model
from seg3d.plan import Plan
from seg3d.runs.checkpoint import FOLDS, find_checkpoint, load_checkpoint, trained_network


class Model(NamedTuple):
    """A trained network, or a ``ModuleList`` of several whose scores are averaged."""

    network: nn.Module
    config: Config
    plan: Plan


def require_there(path: Path) -> None:
    """Require that a path leads to something to predict with; nothing of it is read.

    Raises:
        UserError: if it does not.
    """
    if is_nnunet(path):
        require_model(path)
    else:
        find_checkpoint(path)


def load_model(path: Path, overrides: tuple[str, ...] = ()) -> Model:
    """Load what a path leads to.

    Args:
        path: a checkpoint file, a run folder, whose best network is taken, or the folder of a model
            of nnU-Net's.
        overrides: ``key=value`` changes of keys under ``predict``.

    Raises:
        UserError: if there is nothing of the kind, if it cannot be used, or if another key is set.
    """
    for key in (key for override in overrides for key in keys_set(override)):
        if not key.startswith("predict."):
            raise UserError(
                f"--set {key}: predictions go by what the network was trained with",
                legal="keys under predict",
            )
    if is_nnunet(path):
        folds = config_from_tree({}, overrides).predict.folds
        found = load_nnunet(path, folds)
        stored, plan, weights = found.config, found.plan, list(found.networks.values())
        checkpoint = path
    else:
        checkpoint = find_checkpoint(path)
        stored, plan, content = load_checkpoint(checkpoint)
        weights = _of_folds(checkpoint, content, config_from_tree({}, overrides).predict.folds)
    config = config_from_tree(config_tree(stored), overrides, source="--set")
    networks = [trained_network(checkpoint, config, plan, {"network": one}) for one in weights]
    network = networks[0] if len(networks) == 1 else nn.ModuleList(networks)
    return Model(network, config, plan)


def _of_folds(checkpoint: Path, content: dict[str, Any], wanted: Any) -> list[Any]:
    """The weights of the folds that are wanted, of a checkpoint that has several, or one."""
    if FOLDS in content:
        folds = content[FOLDS]
        return [folds[one] for one in chosen_folds(list(folds), wanted, checkpoint)]
    if wanted != "auto":
        raise UserError(
            f"predict.folds: {checkpoint} holds one network",
            given=wanted,
            fix="leave predict.folds out",
        )
    return [content.get("network")]
