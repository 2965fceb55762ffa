"""The configuration: typed, validated once, complete.

Every key has its default here; a YAML file and ``--set`` change some of them. Nothing below this
package reads raw dictionaries.
"""

from seg3d.config.sections import (
    MONAI_NETWORKS,
    AugmentConfig,
    Config,
    DataConfig,
    ElasticConfig,
    HorizonsConfig,
    LossConfig,
    MonaiNetworkConfig,
    PatchConfig,
    Section,
    TrainConfig,
    UNet3dConfig,
    config_from_tree,
    config_tree,
    documented_horizon_keys,
    documented_keys,
    load_config,
    parse_bytes,
    save_config,
)

__all__ = [
    "MONAI_NETWORKS",
    "AugmentConfig",
    "Config",
    "DataConfig",
    "ElasticConfig",
    "HorizonsConfig",
    "LossConfig",
    "MonaiNetworkConfig",
    "PatchConfig",
    "Section",
    "TrainConfig",
    "UNet3dConfig",
    "config_from_tree",
    "config_tree",
    "documented_horizon_keys",
    "documented_keys",
    "load_config",
    "parse_bytes",
    "save_config",
]
