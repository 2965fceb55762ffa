"""The configuration: typed, validated once, complete.

Every key has its default here; a YAML file and ``--set`` change some of them. Nothing below this
package reads raw dictionaries.
"""

from seg3d.config.augment import AugmentConfig, ElasticConfig
from seg3d.config.ignored import ignored_overrides
from seg3d.config.keys import documented_horizon_keys, documented_keys
from seg3d.config.labels import REST_NAME, HorizonsConfig, Rest
from seg3d.config.loading import config_from_tree, config_tree, load_config, save_config
from seg3d.config.network import MONAI_NETWORKS, MonaiNetworkConfig, UNet3dConfig
from seg3d.config.overrides import keys_set, path_override
from seg3d.config.quantities import parse_bytes
from seg3d.config.section import Section
from seg3d.config.sections import (
    Config,
    DataConfig,
    FilesConfig,
    LossConfig,
    PatchConfig,
    PredictConfig,
    TrainConfig,
)

__all__ = [
    "MONAI_NETWORKS",
    "REST_NAME",
    "AugmentConfig",
    "Config",
    "DataConfig",
    "ElasticConfig",
    "FilesConfig",
    "HorizonsConfig",
    "LossConfig",
    "MonaiNetworkConfig",
    "PatchConfig",
    "PredictConfig",
    "Rest",
    "Section",
    "TrainConfig",
    "UNet3dConfig",
    "config_from_tree",
    "config_tree",
    "documented_horizon_keys",
    "documented_keys",
    "ignored_overrides",
    "keys_set",
    "load_config",
    "parse_bytes",
    "path_override",
    "save_config",
]
