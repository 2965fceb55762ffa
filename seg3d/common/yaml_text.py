"""YAML as people write it, in both directions."""

from __future__ import annotations

from typing import Any

import yaml
from yaml.constructor import ConstructorError

_OWN_MEANING = ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:timestamp")


class _Loader(yaml.SafeLoader):
    """YAML 1.1 in which ``off`` is a word, dates are text, and no key stands twice."""

    # As in YAML 1.2, only true and false are booleans: train.amp can be off.
    yaml_implicit_resolvers = {
        first: [one for one in resolvers if one[0] not in _OWN_MEANING or first in "tTfF"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        for index, key in enumerate(keys):
            if key in keys[:index]:
                mark = node.value[index][0].start_mark
                raise ConstructorError(problem=f"{key} stands there twice", problem_mark=mark)
        return super().construct_mapping(node, deep)


def parse_yaml(text: str) -> Any:
    """The plain value that ``text`` stands for; no object is ever built from it.

    Raises:
        yaml.YAMLError: if it is not valid, or a key stands twice in one mapping.
    """
    return yaml.load(text, _Loader)


def in_one_line(value: Any) -> str:
    """A plain value as it would be typed after ``--set key=``."""
    text = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), sort_keys=False)
    return text.removesuffix("...\n").strip()
