"""The keys of a config in words: for the reference page, and for messages about mistakes."""

from __future__ import annotations

import difflib
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from seg3d.config.labels import HorizonsConfig
from seg3d.config.sections import Config
from seg3d.errors import UserError
from seg3d.yaml_text import in_one_line


def keys_of(section: BaseModel, prefix: str = "") -> list[tuple[str, str, str, str]]:
    """All keys as (key, value, what is legal, description), in the order of the models."""
    rows: list[tuple[str, str, str, str]] = []
    plain = section.model_dump(mode="json")
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            rows += keys_of(value, f"{prefix}{name}.")
        else:
            text = in_one_line(plain[name])
            rows.append(
                (f"{prefix}{name}", text, legal(_annotated(field)), field.description or "")
            )
    return rows


def documented_keys() -> list[tuple[str, str, str, str]]:
    """All keys as (key, default, what is legal, description), in the order of the models."""
    return keys_of(Config())


def documented_horizon_keys() -> list[tuple[str, str, str, str]]:
    """Likewise those of labels from horizons."""
    return keys_of(HorizonsConfig(horizons=["top.dat", "base.dat"]), "data.labels.")


def legal(annotation: Any) -> str:
    """What a key of this type may be; a text among the annotations says it instead of the type."""
    if get_origin(annotation) is Annotated:
        kind, *metadata = get_args(annotation)
        said = [one for one in metadata if isinstance(one, str)]
        return said[-1] if said else legal(kind) + _bounds(metadata)
    names = {int: "integer", float: "number", bool: "true or false", str: "text", Path: "text"}
    if annotation in names:
        return names[annotation]
    if annotation is type(None):
        return "null"
    inside = get_args(annotation)
    if get_origin(annotation) is Literal:
        return _choice(_words(annotation))
    if get_origin(annotation) in (Union, types.UnionType):
        return _choice([word for choice in inside for word in _words(choice)])
    if get_origin(annotation) is tuple:
        return f"[{', '.join(map(legal, inside))}]"
    raise TypeError(f"{annotation} needs a text that says what is legal")


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
    return UserError(f"{source}: " + "\n".join(said.values()))


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
            kind = None if field is None else _annotated(field)
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


def _annotated(field: FieldInfo) -> Any:
    return Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation


def _words(choice: Any) -> list[str]:
    return [*map(str, get_args(choice))] if get_origin(choice) is Literal else [legal(choice)]


def _choice(words: list[str]) -> str:
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _bounds(metadata: list[Any]) -> str:
    """The limits among the annotations, such as `` ≥ 0 and < 1``."""
    flat = [
        one
        for item in metadata
        for one in (item.metadata if isinstance(item, FieldInfo) else [item])
    ]
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
    found = [
        f"{sign} {getattr(one, name)}"
        for one in flat
        for name, sign in signs.items()
        if hasattr(one, name)
    ]
    return " " + " and ".join(found) if found else ""
