"""A model of nnU-Net's, read: config, plan, and the weights of the networks of its folds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from seg3d.common.errors import UserError
from seg3d.config import Config
from seg3d.nnunet.checkpoint import read_checkpoint
from seg3d.nnunet.dataset_file import read_dataset
from seg3d.nnunet.folder import PLANS, Fold, chosen_folds, folds_in, require_model
from seg3d.nnunet.network import shape_of, weights_for
from seg3d.nnunet.plans_file import read_plans
from seg3d.nnunet.translation import config_of, plan_of
from seg3d.plan import Plan, build_network


@dataclass(frozen=True)
class NnunetModel:
    """A model, translated.

    Attributes:
        config: of a run of seg3d that would have made it.
        plan: likewise.
        networks: weights of the network of every fold, by the names of seg3d.
        epochs: that the first of them was trained for.
    """

    config: Config
    plan: Plan
    networks: dict[Fold, dict[str, Tensor]]
    epochs: int


def load_nnunet(folder: Path, folds: str | Sequence[Fold] = "auto") -> NnunetModel:
    """Read a model.

    Args:
        folder: with ``plans.json``, ``dataset.json`` and ``fold_*/checkpoint_final.pth``.
        folds: which, as for `chosen_folds`.

    Raises:
        UserError: if it is incomplete, damaged, or of a kind that seg3d cannot use.
    """
    require_model(folder)
    there = folds_in(folder)
    chosen = chosen_folds(list(there), folds, folder)
    first = read_checkpoint(there[chosen[0]])
    plans, configuration = read_plans(folder / PLANS, first.configuration)
    shape = shape_of(configuration.architecture, folder)
    channels, labels = read_dataset(folder)
    plan = plan_of(folder / PLANS, first, plans, configuration, shape, channels, labels)
    config = config_of(first, plan)
    with _possible(folder), torch.device("meta"):
        # There it is empty: damaged plans may describe one that is larger than any memory.
        names = list(build_network(config, plan).state_dict())
    networks = {}
    for fold in chosen:
        one = first if fold == chosen[0] else read_checkpoint(there[fold])
        if one.configuration != first.configuration:
            raise UserError(
                f"{folder}: folds {chosen[0]} and {fold} are of different configurations",
                given=f"{first.configuration} and {one.configuration}",
                fix="choose folds of one with --set predict.folds=[...]",
            )
        try:
            networks[fold] = weights_for(shape, names, one.weights)
        except ValueError as error:
            raise UserError(
                f"{there[fold]} does not fit {folder / PLANS}",
                given=f"{error} (trained by {one.trainer})",
                legal="networks as nnU-Net's own trainers and planners make them",
            ) from error
    return NnunetModel(config, plan, networks, first.epochs)


@contextmanager
def _possible(folder: Path) -> Iterator[None]:
    """Say whose fault it is if a network cannot be built in any memory."""
    try:
        yield
    except (RuntimeError, OverflowError, ValueError) as error:
        raise UserError(
            f"{folder / PLANS} describes no network that can be built", given=error
        ) from error
