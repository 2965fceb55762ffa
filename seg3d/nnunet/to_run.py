"""A run of seg3d that is made of a model of nnU-Net's."""

from __future__ import annotations

from pathlib import Path

from seg3d.common.errors import UserError
from seg3d.config import save_config
from seg3d.nnunet.folder import is_nnunet, require_model
from seg3d.nnunet.model import load_nnunet
from seg3d.plan import save_plan
from seg3d.runs.checkpoint import FOLDS, save_checkpoint
from seg3d.runs.run_folder import Run, require_new_run, sole_user

# Steps of the optimiser in an epoch of nnU-Net's, whatever the data.
STEPS_PER_EPOCH = 250


def import_nnunet(model: Path, folder: Path) -> list[Path]:
    """Make a run of a model, with the networks of all its folds.

    Args:
        model: folder of the model.
        folder: of the run; it must not hold one yet.

    Returns:
        The files that were written.

    Raises:
        UserError: if the model cannot be used, or there is a run already.
    """
    if not is_nnunet(model):
        raise UserError(
            f"{model} is no model of nnU-Net's" if model.exists() else f"{model} does not exist",
            legal="a folder with plans.json, dataset.json and fold_*",
        )
    require_model(model)
    run = Run(folder)
    require_new_run(run)
    found = load_nnunet(model)
    with sole_user(run):
        run.best.parent.mkdir(exist_ok=True)
        save_config(found.config, run.config)
        save_plan(found.plan, run.plan)
        state = {
            "network": next(iter(found.networks.values())),
            FOLDS: found.networks,
            "position": {
                "epochs_done": found.epochs,
                "step": found.epochs * STEPS_PER_EPOCH,
                # Nobody has validated it as seg3d does.
                "best_dice": -1.0,
            },
        }
        save_checkpoint(run.best, found.config, found.plan, state)
    return [run.config, run.plan, run.best]
