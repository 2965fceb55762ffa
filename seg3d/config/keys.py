"""The keys of a config, their values and what is legal, in words."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from seg3d.common.yaml_text import in_one_line
from seg3d.config.labels import HorizonsConfig
from seg3d.config.sections import Config


def documented_keys() -> list[tuple[str, str, str, str]]:
    """All keys as (key, default, what is legal, description), in the order of the models."""
    return keys_of(Config())


def documented_horizon_keys() -> list[tuple[str, str, str, str]]:
    """Likewise those of labels from horizons."""
    return keys_of(HorizonsConfig(horizons=["top.dat", "base.dat"]), "data.labels.")


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
            rows.append((f"{prefix}{name}", text, legal(annotated(field)), field.description or ""))
    return rows


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


def annotated(field: FieldInfo) -> Any:
    """The type of a key with all that its annotations say of it."""
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
