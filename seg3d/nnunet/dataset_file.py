"""The classes, regions and channels of a model, from its ``dataset.json``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from seg3d.common.errors import UserError
from seg3d.data.layouts import read_json
from seg3d.data.layouts.json_files import channel_names, label_values
from seg3d.nnunet.folder import DATASET
from seg3d.plan import IGNORE_NAME, MOST_CLASSES, LabelClass


class Labels(NamedTuple):
    """What the network tells apart.

    Attributes:
        classes: in the order of its scores; or regions, which may overlap.
        regions: label values that are written for regions, in this order; None if classes are none.
        ignore: label values that training left out.
    """

    classes: list[LabelClass]
    regions: list[int] | None
    ignore: list[int]


def read_dataset(folder: Path) -> tuple[tuple[str, ...], Labels]:
    """Names of the channels, and the labels, of a model.

    Raises:
        UserError: if the file is malformed.
    """
    path = folder / DATASET
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} describes no dataset", given=type(content).__name__)
    names, labels = channel_names(path, content), label_values(path, content)
    if names is None or labels is None:
        missing = "channel_names" if names is None else "labels"
        raise UserError(f'{path} has no "{missing}"', legal="as nnU-Net writes it")
    return names, _labels(path, content, dict(labels))


def _labels(path: Path, content: dict[str, Any], labels: dict[str, int | list[int]]) -> Labels:
    ignore = labels.pop(IGNORE_NAME, [])
    ignored = [ignore] if isinstance(ignore, int) else ignore
    lists = {
        name: [values] if isinstance(values, int) else values for name, values in labels.items()
    }
    if any(len(values) > 1 for values in lists.values()):
        return _regions(path, content, lists, ignored)
    named = sorted((values[0], name) for name, values in lists.items())
    if [value for value, _ in named] != list(range(len(named))) or not len(named) > 1:
        raise UserError(
            f'{path}: "labels" are not numbered from 0, the background, without gaps',
            given=content["labels"],
            legal="0, 1, 2, ..., as nnU-Net has them",
        )
    _require_few(path, len(named))
    classes = [LabelClass(name=name, values=[value]) for value, name in named]
    return Labels(classes, None, ignored)


def _regions(
    path: Path, content: dict[str, Any], lists: dict[str, list[int]], ignored: list[int]
) -> Labels:
    classes = [
        LabelClass(name=name, values=values) for name, values in lists.items() if set(values) != {0}
    ]
    order = content.get("regions_class_order")
    if (
        not isinstance(order, list)
        or len(order) != len(classes)
        or not all(type(value) is int and 0 <= value < 2**16 for value in order)
    ):
        raise UserError(
            f'{path}: "regions_class_order" does not say what is written for each region',
            given=order,
            legal=f"{len(classes)} label values, for {', '.join(one.name for one in classes)}",
        )
    _require_few(path, len(classes) + 1)
    return Labels(classes, order, ignored)


def _require_few(path: Path, count: int) -> None:
    if count > MOST_CLASSES:
        raise UserError(f"{path} has {count} classes", legal=f"at most {MOST_CLASSES}")
