"""What a ``dataset.json`` says about channels and labels."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from seg3d.common.errors import UserError
from seg3d.common.plain_values import require_moderate

INTEGER = re.compile(r"-?\d+")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        UserError: if it is not JSON, with line and column.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        require_moderate(content)
    except RecursionError as error:
        raise UserError(f"{path} is not valid JSON", given="lists nested too deep") from error
    except ValueError as error:
        raise UserError(
            f"{path} is not valid JSON", given=str(error), fix="correct the file at that place"
        ) from error
    return content


def channel_names(path: Path, content: dict[str, Any]) -> tuple[str, ...] | None:
    """Names under ``channel_names`` (nnU-Net) or ``modality`` (MSD), in order of their numbers.

    Raises:
        UserError: if they are not numbered from 0.
    """
    key = "channel_names" if "channel_names" in content else "modality"
    names = content.get(key)
    if names is None:
        return None
    if isinstance(names, list):
        names = {str(number): name for number, name in enumerate(names)}
    if (
        not isinstance(names, dict)
        or sorted(names) != sorted(str(number) for number in range(len(names)))
        or not names
        or not all(isinstance(name, str) for name in names.values())
    ):
        raise UserError(
            f'{path}: "{key}" does not name the channels',
            given=names,
            legal='names numbered from 0, such as {"0": "T1", "1": "T2"}',
        )
    return tuple(names[str(number)] for number in range(len(names)))


def label_values(path: Path, content: dict[str, Any]) -> dict[str, int | list[int]] | None:
    """Class names and their values in the label files, from either form of ``labels``.

    MSD writes ``{"1": "liver"}``, nnU-Net ``{"liver": 1}`` or ``{"whole": [1, 2]}``.

    Raises:
        UserError: if a value is not a whole number, or two values share a name.
    """
    labels = content.get("labels")
    if labels is None:
        return None
    if not isinstance(labels, dict) or not labels:
        raise _bad_labels(path, labels)
    pairs = list(labels.items())
    if all(INTEGER.fullmatch(key) and isinstance(name, str) for key, name in pairs):
        pairs = [(name, value) for value, name in pairs]
    found: dict[str, int | list[int]] = {}
    for name, value in pairs:
        if name in found:
            raise UserError(
                f'{path}: "labels" gives two values the name {name!r}',
                given=labels,
                legal="a name of its own for every value",
            )
        if isinstance(value, list) and value:
            found[name] = [_whole(path, name, one) for one in value]
        else:
            found[name] = _whole(path, name, value)
    return found


def regions_class_order(path: Path, content: dict[str, Any]) -> tuple[int, ...] | None:
    """Values that nnU-Net writes for regions, in the order of their names.

    Raises:
        UserError: if they are no list of whole numbers.
    """
    order = content.get("regions_class_order")
    if order is None:
        return None
    if not isinstance(order, list) or not all(type(value) is int for value in order):
        raise UserError(
            f'{path}: "regions_class_order" is not a list of whole numbers',
            given=order,
            legal="a label value for each region",
        )
    return tuple(order)


def _whole(path: Path, name: str, value: object) -> int:
    if isinstance(value, str) and INTEGER.fullmatch(value):
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise _bad_labels(path, {name: value})


def _bad_labels(path: Path, given: object) -> UserError:
    return UserError(
        f'{path}: "labels" does not map class names to whole numbers',
        given=given,
        legal='{"background": 0, "liver": 1} or {"0": "background", "1": "liver"}',
    )
