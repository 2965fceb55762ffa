"""Models that nnU-Net (version 2) has trained, as what they are to seg3d: config, plan, weights.

Nothing of nnU-Net need be installed, and nothing in a model's folder is run.
"""

from seg3d.nnunet.folder import is_nnunet, require_model
from seg3d.nnunet.model import NnunetModel, load_nnunet

__all__ = ["NnunetModel", "is_nnunet", "load_nnunet", "require_model"]
