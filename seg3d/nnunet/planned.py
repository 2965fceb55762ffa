"""Training by plans of nnU-Net's, without a model."""

from __future__ import annotations

from pathlib import Path

from seg3d.config import Config
from seg3d.nnunet.checkpoint import NnunetCheckpoint
from seg3d.nnunet.dataset_file import read_dataset
from seg3d.nnunet.network import shape_of
from seg3d.nnunet.plans_file import read_plans
from seg3d.nnunet.translation import config_of, plan_of
from seg3d.plan import Plan

# What nnU-Net's own trainer would make of them.
TRAINED = NnunetCheckpoint("3d_fullres", "nnUNetTrainer", 0, (0, 1, 2), {})


def are_plans(path: Path) -> bool:
    """Whether a file may be plans of nnU-Net's, and no plan of seg3d's, which is YAML."""
    return path.suffix == ".json"


def planned_by(path: Path) -> tuple[Config, Plan]:
    """Config and plan of a run that nnU-Net's plans describe, by their ``3d_fullres``.

    Args:
        path: ``nnUNetPlans.json``, with the ``dataset.json`` of the dataset beside it, as
            ``nnUNetv2_plan_experiment`` leaves them in its folder of preprocessed data.

    Raises:
        UserError: if a file is malformed, or asks for something that seg3d does not do.
    """
    plans, configuration = read_plans(path, TRAINED.configuration)
    shape = shape_of(configuration.architecture, path)
    plan = plan_of(path, TRAINED, plans, configuration, shape, *read_dataset(path.parent))
    return config_of(TRAINED, plan), plan
