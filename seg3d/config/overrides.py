"""Changes of single keys: ``--set key.sub=value``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from seg3d.common.errors import UserError
from seg3d.common.yaml_text import parse_yaml


def path_override(key: str, path: str | Path | None) -> tuple[str, ...]:
    """A path, if one is given, as an override of a key."""
    return () if path is None else (f"{key}={json.dumps(str(Path(path).absolute()))}",)


def overridden(tree: dict[str, Any], override: str) -> dict[str, Any]:
    """A copy of a nested dictionary in which one key is changed.

    Raises:
        UserError: if the override is not ``key.sub=value`` or has keys below a value.
    """
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise UserError("--set is not understood", given=override, legal="key.sub=value")
    try:
        value = parse_yaml(text)
    except yaml.YAMLError as error:
        raise UserError(
            f"--set {key}: the value is not valid YAML",
            given=getattr(error, "problem", None) or error,
        ) from error
    *parents, last = parts
    tree = dict(tree)
    branch = tree
    for parent in parents:
        child = branch.get(parent)
        if child is not None and not isinstance(child, dict):
            raise UserError(f"--set {key}: {parent} has no keys below it", given=child)
        branch[parent] = dict(child or {})
        branch = branch[parent]
    if last == "name" and parents == ["network"] and branch.get("name") != value:
        # Arguments of the network that is replaced mean nothing to the new one.
        branch.clear()
    branch[last] = value
    return tree


def keys_set(override: str) -> list[str]:
    """The keys that an override sets: those below its own, if its value is a mapping.

    Raises:
        UserError: as `overridden`.
    """

    def walk(tree: Any, key: str) -> list[str]:
        if not isinstance(tree, dict) or not tree:
            return [key]
        return [
            found
            for name, below in tree.items()
            for found in walk(below, f"{key}.{name}" if key else str(name))
        ]

    return walk(overridden({}, override), "")
