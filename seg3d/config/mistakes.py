"""What is wrong in a config, in the words of its file."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from seg3d.common.errors import UserError
from seg3d.common.yaml_text import in_one_line
from seg3d.config.keys import annotated, keys_of, legal

# Mistakes; a person corrects them one by one.
SHOWN = 8


def explained(
    error: ValidationError, tree: dict[str, Any], defaults: BaseModel, source: str
) -> UserError:
    """Say the mistakes in the words of the config file, one for each key.

    Args:
        error: pydantic's, which for a choice of types reports every branch.
        tree: what was validated.
        defaults: the config of which ``tree`` should have the keys.
        source: the file, for the message.
    """
    said: dict[str, str] = {}
    for mistake in error.errors():
        key, kind = _place(mistake["loc"], type(defaults))
        name = ".".join(key)
        if kind is None:
            said[name] = _unknown(key, mistake["loc"], defaults)
            continue
        if not _is_section(kind):
            allowed = legal(kind)
        elif mistake["type"] == "value_error":
            allowed = mistake["msg"].removeprefix("Value error, ")
        else:
            allowed = f"keys {', '.join(kind.model_fields)}"
        said[name] = f"{name}\n  given: {in_one_line(value_at(tree, key))}\n  legal: {allowed}"
    shown = list(said.values())[:SHOWN]
    if len(said) > SHOWN:
        shown.append(f"... and {len(said) - SHOWN} more mistakes")
    return UserError(f"{source}: " + "\n".join(shown))


def value_at(tree: Any, key: Sequence[str]) -> Any:
    """What stands under a key of several parts in nested mappings; None if nothing does."""
    for part in key:
        tree = tree.get(part) if isinstance(tree, dict) else None
    return tree


def _unknown(key: tuple[str, ...], location: tuple[int | str, ...], defaults: BaseModel) -> str:
    _, section = _place(location[:-1], type(defaults))
    beside = list(section.model_fields)
    close = difflib.get_close_matches(key[-1], beside, n=1)
    meant = [".".join((*key[:-1], name)) for name in close] or [
        name for name, *_ in keys_of(defaults) if name.split(".")[-1] == key[-1]
    ]
    hint = f"; did you mean {meant[0]}?" if meant else ""
    return f"{'.'.join(key)} is not a key{hint}\n  legal: {', '.join(beside)}"


def _place(location: tuple[int | str, ...], root: type[BaseModel]) -> tuple[tuple[str, ...], Any]:
    """The key that pydantic's location stands in, and its type: a section, or what `legal` takes.

    Locations go on inside the value of a key, and name the branches of unions; both are left out.
    The type is None if there is no such key.
    """
    key: list[str] = []
    kind: Any = root
    for part in location:
        if _is_section(kind):
            field = kind.model_fields.get(part)
            key.append(str(part))
            kind = None if field is None else annotated(field)
        elif branch := _tagged(kind, part):
            kind = branch
        else:
            break
    return tuple(key), kind


def _tagged(kind: Any, tag: int | str) -> Any:
    """The section that stands under ``tag`` in a union of sections."""
    choices = get_args(get_args(kind)[0]) if get_origin(kind) is Annotated else get_args(kind)
    for choice in choices:
        marked = any(getattr(one, "tag", None) == tag for one in get_args(choice))
        if marked and _is_section(get_args(choice)[0]):
            return get_args(choice)[0]
    return None


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
