"""YAML as people write it, in both directions."""

from __future__ import annotations

from typing import Any

import yaml
from yaml.constructor import ConstructorError

from seg3d.common.plain_text import echo_of
from seg3d.common.plain_values import require_moderate

# What PyYAML lets through of words that are not of the kind that their tag claims.
_NOT_OF_KIND = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
_OWN_MEANING = ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:timestamp")


class _Loader(yaml.SafeLoader):
    """YAML 1.1 in which ``off`` is a word, dates are text, and no key stands twice."""

    # As in YAML 1.2, only true and false are booleans: train.amp can be off.
    yaml_implicit_resolvers = {
        first: [one for one in resolvers if one[0] not in _OWN_MEANING or first in "tTfF"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        # A node of another kind than its tag says has no pairs, or keys that are no words.
        pairs = node.value if isinstance(node, yaml.MappingNode) else ()
        for key in (key for key, _ in pairs if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise ConstructorError(
                    problem=f"{key.value} stands there twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except _NOT_OF_KIND as error:
            kind = node.tag.rpartition(":")[2]
            what = echo_of(node.value) if isinstance(node, yaml.ScalarNode) else "what stands here"
            raise ConstructorError(
                problem=f"{what} cannot be read as {kind}", problem_mark=node.start_mark
            ) from error


def parse_yaml(text: str) -> Any:
    """The plain value that ``text`` stands for; no object is ever built from it.

    Raises:
        yaml.YAMLError: if it is not valid, a key stands twice in one mapping, or it is larger or
            deeper than any value that a person writes.
    """
    try:
        value = yaml.load(text, _Loader)
        require_moderate(value)
    except RecursionError as error:
        raise yaml.YAMLError("lists or mappings are nested too deep") from error
    except ValueError as error:
        raise yaml.YAMLError(str(error)) from error
    return value


def in_one_line(value: Any) -> str:
    """A plain value as it would be typed after ``--set key=``."""
    text = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), sort_keys=False)
    return text.removesuffix("...\n").strip()
