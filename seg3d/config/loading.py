"""A config from a YAML file or a dictionary, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from seg3d.common.errors import UserError
from seg3d.common.files import atomic_write
from seg3d.common.plain_values import require_moderate
from seg3d.common.yaml_text import parse_yaml
from seg3d.config.mistakes import explained
from seg3d.config.overrides import overridden
from seg3d.config.sections import Config
from seg3d.config.shipped import find_config


def load_config(path: str | Path, overrides: tuple[str, ...] = ()) -> Config:
    """Read a YAML file and apply ``key.sub=value`` overrides.

    Args:
        path: of a file, or the name of a shipped config; see `find_config`.
        overrides: such as ``train.epochs=100``.

    Raises:
        UserError: naming the key, what was given and what is legal.
    """
    path = find_config(path)
    try:
        tree = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"config {path} cannot be read", given=error.strerror) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"config {path} is not valid YAML", given=error) from error
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise UserError(f"config {path} holds no keys", given=type(tree).__name__)
    return config_from_tree(tree, overrides, source=str(path))


def config_from_tree(
    tree: dict[str, Any], overrides: tuple[str, ...] = (), source: str = "config"
) -> Config:
    """Validate a nested dictionary; see `load_config`."""
    if overrides:
        config_from_tree(tree, source=source)
        # What is wrong from here on, --set made so.
        source = "--set"
    for override in overrides:
        tree = overridden(tree, override)
    try:
        require_moderate(tree)
    except ValueError as error:
        raise UserError(f"{source} cannot be used", given=error) from error
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise explained(error, tree, Config(), source) from error


def config_tree(config: Config) -> dict[str, Any]:
    """The config as plain YAML-ready values; `config_from_tree` gives the config back."""
    return config.model_dump(mode="json")


def save_config(config: Config, path: Path) -> None:
    """Write the complete config, defaults included, as YAML."""
    with atomic_write(path) as temporary:
        temporary.write_text(yaml.safe_dump(config_tree(config), sort_keys=False), encoding="utf-8")
