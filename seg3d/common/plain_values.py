"""Values as YAML, JSON and checkpoints hold them: words, numbers, lists and mappings."""

from __future__ import annotations

from typing import Any

from seg3d.common.plain_text import is_text

# What a person, or seg3d itself, never comes near to.
DEEPEST, MOST_PARTS, MOST_BITS = 32, 1_000_000, 1000


def require_moderate(value: Any) -> None:
    """Require that a value is of whole characters, and not too deep or large to be worked with.

    A part that stands in several places counts in each: a few lines can stand for billions of
    them, or for a list that holds itself.

    Raises:
        ValueError: if it is not.
    """
    left, parts = [(value, 0)], 0
    while left:
        one, depth = left.pop()
        parts += 1
        if isinstance(one, int) and one.bit_length() > MOST_BITS:
            raise ValueError("a number has more than 300 digits")
        if isinstance(one, str) and not is_text(one):
            raise ValueError("a text holds half characters")
        if isinstance(one, dict):
            inside = [*one, *one.values()]
        elif isinstance(one, (list, tuple, set, frozenset)):
            inside = list(one)
        else:
            continue
        if depth == DEEPEST:
            raise ValueError(f"lists or mappings are nested more than {DEEPEST} deep")
        if parts + len(left) + len(inside) > MOST_PARTS:
            raise ValueError(f"there are more than {MOST_PARTS} parts")
        left += [(part, depth + 1) for part in inside]
