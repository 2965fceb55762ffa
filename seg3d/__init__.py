"""seg3d: 3D segmentation with probed convolutions.

What a program of yours needs is here (docs/api.md). Each name is loaded when it is first asked for,
so that ``import seg3d`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from seg3d.common.version import __version__

if TYPE_CHECKING:
    from seg3d.common.errors import UserError
    from seg3d.config import Config, load_config
    from seg3d.evaluation import compare_labels, evaluate, find_classes, find_pairs
    from seg3d.io import read_volume, write_volume
    from seg3d.memory import training_memory
    from seg3d.networks import UNet3d
    from seg3d.prediction.jobs import plan_jobs
    from seg3d.prediction.predictor import Predictor
    from seg3d.probing import probe_model
    from seg3d.training.start import train

__all__ = [
    "Config",
    "Predictor",
    "UNet3d",
    "UserError",
    "__version__",
    "compare_labels",
    "evaluate",
    "find_classes",
    "find_pairs",
    "load_config",
    "plan_jobs",
    "probe_model",
    "read_volume",
    "train",
    "training_memory",
    "write_volume",
]

_HOMES = {
    "Config": "seg3d.config",
    "Predictor": "seg3d.prediction.predictor",
    "UNet3d": "seg3d.networks",
    "UserError": "seg3d.common.errors",
    "compare_labels": "seg3d.evaluation",
    "evaluate": "seg3d.evaluation",
    "find_classes": "seg3d.evaluation",
    "find_pairs": "seg3d.evaluation",
    "load_config": "seg3d.config",
    "plan_jobs": "seg3d.prediction.jobs",
    "probe_model": "seg3d.probing",
    "read_volume": "seg3d.io",
    "train": "seg3d.training.start",
    "training_memory": "seg3d.memory",
    "write_volume": "seg3d.io",
}


# A type checker would take any name for one that is here.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = globals()[name] = getattr(import_module(_HOMES[name]), name)
        return found


def __dir__() -> list[str]:
    return __all__
