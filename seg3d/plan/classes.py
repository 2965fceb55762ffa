"""The classes of the network, and the label values that stand for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from seg3d.common.errors import UserError
from seg3d.config import REST_NAME, Config, HorizonsConfig, Rest
from seg3d.plan.fingerprint import MOST_CLASSES, CaseFingerprint, Source, label_counts
from seg3d.plan.plan import LabelClass

BACKGROUND_NAME = "background"
IGNORE_NAME = "ignore"

Labels = dict[str, list[int]]


def named_labels(config: Config, dataset: Source) -> Labels | None:
    """Class names and values from the config or the dataset, or None if neither gives them.

    Value 0 is background: if no class holds it, ``background`` does.

    Raises:
        UserError: if names that share values cannot be regions, 0 is to be ignored, nothing is left
            besides background, or there is a rest of nothing.
    """
    rest = rest_of(config)
    given = _classes_in(config) or dataset.labels
    if given is None:
        if rest is not None:
            raise UserError(
                f"data.labels.{REST_NAME} is {rest}, but no class is named",
                given=f"neither data.labels nor {dataset.source} names one",
                legal=f"such as {{liver: 1, {REST_NAME}: {rest}}}",
            )
        return None
    labels = {
        str(name): [value] if isinstance(value, int) else list(value)
        for name, value in given.items()
    }
    for name, values in labels.items():
        if not values:
            raise UserError(f"data.labels.{name} has no value", legal="one or more integers")
        if len(set(values)) < len(values):
            raise UserError(f"data.labels.{name} has a value twice", given=values)
    if 0 in labels.get(IGNORE_NAME, []):
        raise UserError(
            "label value 0 cannot be ignored",
            given=given,
            legal=f"0 for background, other values for {IGNORE_NAME}",
            fix="renumber the label files",
        )
    if not any(0 in values for values in labels.values()):
        labels[BACKGROUND_NAME] = [0, *labels.get(BACKGROUND_NAME, [])]
    if not any(0 not in values for name, values in labels.items() if name != IGNORE_NAME):
        raise UserError("data.labels names no class besides background", given=given)
    order = _order_of(config, dataset)
    if is_of_regions(labels, order):
        _require_regions(labels, order)
    return labels


def is_of_regions(labels: Mapping[str, Sequence[int]], order: Sequence[int] | None) -> bool:
    """Whether names stand for regions, of which a voxel may be in several.

    Args:
        labels: values by name.
        order: value to be written for each region, if that is given.
    """
    values = [value for of_name in labels.values() for value in of_name]
    return order is not None or len(values) > len(set(values))


def regions_in(labels: Mapping[str, Sequence[int]]) -> dict[str, list[int]]:
    """What of the names are regions: all but background and what is to be ignored."""
    return {
        name: list(values)
        for name, values in labels.items()
        if 0 not in values and name != IGNORE_NAME
    }


def _require_regions(labels: Labels, order: Sequence[int] | None) -> None:
    regions = regions_in(labels)
    owner: dict[int, str] = {}
    for name, values in labels.items():
        for value in values:
            if value in owner and not {name, owner[value]} <= regions.keys():
                raise UserError(
                    f"label value {value} belongs to both {owner[value]} and {name}",
                    legal="values that several names have for regions alone, not for the one that "
                    f"has 0, nor for {IGNORE_NAME}",
                    fix="give data.labels with separate values",
                )
            owner[value] = name
    background = next(values for values in labels.values() if 0 in values)
    if len(background) > 1:
        raise UserError(
            "beside regions, background is 0 alone",
            given=background,
            legal=f"{REST_NAME}: background, for all values that are in no region",
        )
    if order is None:
        return
    key = "data.regions_class_order"
    if len(order) != len(regions):
        raise UserError(
            f"{key} does not give a value for each region",
            given=list(order),
            legal=f"{len(regions)} values, for {', '.join(regions)}",
        )
    for value, (name, values) in zip(order, regions.items(), strict=True):
        if value not in values:
            raise UserError(
                f"{key}: {value} is to be written for {name}, and is not in it",
                given=list(order),
                legal=f"one of {', '.join(map(str, values))} in that place",
            )


def rest_of(config: Config) -> Rest | None:
    """What label values are that no class has; None if there should be none."""
    labels = config.data.labels
    if labels is None or isinstance(labels, HorizonsConfig):
        return None
    rest = labels.get(REST_NAME)
    return rest if isinstance(rest, str) else None


def _classes_in(config: Config) -> dict[str, int | list[int]]:
    labels = config.data.labels
    if labels is None or isinstance(labels, HorizonsConfig):
        return {}
    return {name: value for name, value in labels.items() if not isinstance(value, str)}


def _order_of(config: Config, dataset: Source) -> Sequence[int] | None:
    """The values to be written for regions, from where their names are."""
    given = config.data.regions_class_order
    return given if given is not None or _classes_in(config) else dataset.regions_class_order


def background_values(labels: Labels | None) -> set[int]:
    """The values that mark nothing to be found: those of the class that holds 0, and to ignore."""
    if labels is None:
        return {0}
    background = next(values for values in labels.values() if 0 in values)
    return {*background, *labels.get(IGNORE_NAME, [])}


def label_classes(
    config: Config, dataset: Source, fingerprints: dict[str, CaseFingerprint]
) -> tuple[list[LabelClass], list[int] | None, list[int]]:
    """The network's classes, background first; what is written for regions; what is ignored.

    Raises:
        UserError: if there are more classes than a byte can number, or an order of regions where
            there are none.
    """
    labels = named_labels(config, dataset)
    order = _order_of(config, dataset)
    if labels is None:
        if order is not None:
            raise UserError(
                "data.regions_class_order is given, but no region is named",
                given=list(order),
                fix="name the regions in data.labels",
            )
        labels = {
            BACKGROUND_NAME if value == 0 else f"label {value}": [value]
            for value in sorted({0, *label_counts(fingerprints)})
        }
    labels = dict(labels)
    regions = is_of_regions(labels, order)
    ignore = labels.pop(IGNORE_NAME, [])
    parts = len(set().union(*labels.values())) if regions else len(labels)
    if parts > MOST_CLASSES:
        raise UserError(
            f"{dataset.source} has {parts} classes",
            legal=f"at most {MOST_CLASSES}",
            fix="merge classes in data.labels",
        )
    if regions:
        return *_regions(regions_in(labels), order), ignore
    ordered = sorted(labels.items(), key=lambda item: 0 not in item[1])
    # The value that is written for background is 0 even if others are merged into it.
    return [
        LabelClass(name=name, values=sorted(values, key=lambda value: value != 0))
        for name, values in ordered
    ], None, ignore  # fmt: skip


def _regions(regions: Labels, order: Sequence[int] | None) -> tuple[list[LabelClass], list[int]]:
    """Regions in the order of writing, and the value that is written for each."""
    if order is None:
        # nnU-Net wants it said. Where regions lie in one another, this is what one would say.
        ordered = sorted(regions.items(), key=lambda item: -len(item[1]))
        order = []
        for number, (_, values) in enumerate(ordered):
            later = set().union(*(others for _, others in ordered[number + 1 :]))
            order.append(next((value for value in values if value not in later), values[0]))
        regions = dict(ordered)
    return [LabelClass(name=name, values=values) for name, values in regions.items()], list(order)
