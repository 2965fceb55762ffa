"""Models that nnU-Net (version 2) has trained, as what they are to seg3d: config, plan, weights.

Nothing of nnU-Net need be installed, and nothing in a model's folder is run.
"""

from seg3d.nnunet.folder import chosen_folds, is_nnunet, require_model
from seg3d.nnunet.model import NnunetModel, load_nnunet
from seg3d.nnunet.planned import are_plans, planned_by
from seg3d.nnunet.to_run import import_nnunet

__all__ = [
    "NnunetModel",
    "are_plans",
    "chosen_folds",
    "import_nnunet",
    "is_nnunet",
    "load_nnunet",
    "planned_by",
    "require_model",
]
