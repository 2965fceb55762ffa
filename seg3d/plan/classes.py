"""The classes of the network, and the label values that stand for them."""

from __future__ import annotations

from seg3d.common.errors import UserError
from seg3d.config import REST_NAME, Config, HorizonsConfig, Rest
from seg3d.plan.fingerprint import MOST_CLASSES, CaseFingerprint, Source, label_counts
from seg3d.plan.plan import LabelClass

IGNORE_NAME = "ignore"


def named_labels(config: Config, dataset: Source) -> dict[str, list[int]] | None:
    """Class names and values from the config or the dataset, or None if neither gives them.

    Value 0 is background: if no class holds it, ``background`` does.

    Raises:
        UserError: if a value belongs to two classes, 0 is to be ignored, nothing is left besides
            background, or there is a rest of nothing.
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
    owner: dict[int, str] = {}
    for name, values in labels.items():
        if not values:
            raise UserError(f"data.labels.{name} has no value", legal="one or more integers")
        for value in values:
            if value in owner:
                raise UserError(
                    f"label value {value} belongs to both {owner[value]} and {name}",
                    legal="every value in one class (regions that overlap are not supported)",
                    fix="give data.labels with separate values",
                )
            owner[value] = name
    if 0 in labels.get(IGNORE_NAME, []):
        raise UserError(
            "label value 0 cannot be ignored",
            given=given,
            legal=f"0 for background, other values for {IGNORE_NAME}",
            fix="renumber the label files",
        )
    if 0 not in owner:
        labels["background"] = [0, *labels.get("background", [])]
    if not any(0 not in values for name, values in labels.items() if name != IGNORE_NAME):
        raise UserError("data.labels names no class besides background", given=given)
    return labels


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


def background_values(labels: dict[str, list[int]] | None) -> set[int]:
    """The values that mark nothing to be found: those of the class that holds 0, and to ignore."""
    if labels is None:
        return {0}
    background = next(values for values in labels.values() if 0 in values)
    return {*background, *labels.get(IGNORE_NAME, [])}


def label_classes(
    config: Config, dataset: Source, fingerprints: dict[str, CaseFingerprint]
) -> tuple[list[LabelClass], list[int]]:
    """The network's classes, background first, and the values to be ignored.

    Raises:
        UserError: if there are more classes than a byte can number.
    """
    labels = named_labels(config, dataset)
    if labels is None:
        labels = {
            "background" if value == 0 else f"label {value}": [value]
            for value in sorted({0, *label_counts(fingerprints)})
        }
    labels = dict(labels)
    ignore = labels.pop(IGNORE_NAME, [])
    if len(labels) > MOST_CLASSES:
        raise UserError(
            f"{dataset.source} has {len(labels)} classes",
            legal=f"at most {MOST_CLASSES}",
            fix="merge classes in data.labels",
        )
    ordered = sorted(labels.items(), key=lambda item: 0 not in item[1])
    # The value that is written for background is 0 even if others are merged into it.
    return [
        LabelClass(name=name, values=sorted(values, key=lambda value: value != 0))
        for name, values in ordered
    ], ignore
