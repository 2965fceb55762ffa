"""From a config to everything training needs to know about the data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from seg3d.common.errors import UserError
from seg3d.common.files import atomic_write
from seg3d.common.printing import print_as_is
from seg3d.common.progress import progress_bar
from seg3d.config import Config
from seg3d.data.cases import Case, Dataset
from seg3d.data.fingerprint import (
    require_foreground,
    take_fingerprints,
)
from seg3d.data.layouts.dataset_json import read_json
from seg3d.data.layouts.recognise import describe, find_dataset
from seg3d.data.splits import Fold, choose_fold, load_or_make_splits, shares_cases
from seg3d.plan import (
    CaseFingerprint,
    Plan,
    background_values,
    label_counts,
    make_plan,
    named_labels,
    source_of,
)
from seg3d.runs.checkpoint import load_checkpoint
from seg3d.runs.run_folder import Run


@dataclass(frozen=True)
class Prepared:
    """A run that is ready to be trained.

    Attributes:
        config: validated.
        plan: what the dataset made of it.
        splits: all folds.
        train: cases to train on.
        val: cases to validate with.
        stamps: of all cases, as they have been looked at.
    """

    config: Config
    plan: Plan
    splits: list[Fold]
    train: list[Case]
    val: list[Case]
    stamps: dict[str, str]


def prepare(config: Config, run: Run, resume: bool, console: Console) -> Prepared:
    """Find, check and plan; nothing is written yet.

    Args:
        config: of the run.
        run: its folder.
        resume: take the plan from the last checkpoint; of the cases, only those are looked at that
            have come or changed since.
        console: for what was found.

    Raises:
        UserError: if the data cannot be used, or does not fit the config.
    """
    if config.data.folder is None:
        raise UserError("no dataset is given", fix="--data FOLDER, or data.folder in the config")
    dataset = find_dataset(config.data.folder, config.data.labels)
    print_as_is(console, describe(dataset))
    if resume:
        plan = load_checkpoint(run.last)[1]
        _require_what_was_planned(plan, dataset, _load_stamps(run.cases), console)
    else:
        plan = _look_and_plan(config, dataset, console)
    splits = load_or_make_splits(run.splits, dataset, config.data.folds, config.train.seed)
    fold = choose_fold(splits, config.data.fold)
    if shares_cases(fold):
        console.print(
            "Warning: there is one labelled case only; it is used for training and for "
            "validation, so validation scores say nothing about new volumes."
        )
    by_name = {case.name: case for case in dataset.cases}
    if unknown := sorted(by_name.keys() - {*fold["train"], *fold["val"]}):
        print_as_is(console, f"Note: {run.splits} leaves out {', '.join(unknown)}.")
    return Prepared(
        config,
        plan,
        splits,
        [by_name[name] for name in fold["train"]],
        [by_name[name] for name in fold["val"]],
        {case.name: case.stamp for case in dataset.cases},
    )


def _require_what_was_planned(
    plan: Plan, dataset: Dataset, stamps: dict[str, str], console: Console
) -> None:
    """Data that are not those of the plan may go on with it if they are of the same kind."""
    changed = [case for case in dataset.cases if stamps.get(case.name) != case.stamp]
    if not changed:
        return
    if plan.dataset != source_of(dataset):
        note = f"the run was planned for {plan.dataset}"
    else:
        note = f"new or changed since the run was planned: {', '.join(one.name for one in changed)}"
    print_as_is(console, f"Note: {note}.")
    background, *others = (set(one.values) for one in plan.classes)
    fingerprints = _look_at(
        replace(dataset, cases=tuple(changed)),
        plan.orientation,
        background.union(plan.ignore, *others),
        background.union(plan.ignore),
        console,
    )
    channels = next(iter(fingerprints.values())).foreground.shape[1]
    if channels != len(plan.channels):
        raise UserError(
            f"--resume: images of {dataset.source} have another number of channels",
            given=channels,
            legal=f"{len(plan.channels)} ({', '.join(one.name for one in plan.channels)})",
        )


def _look_at(
    dataset: Dataset,
    orientation: str,
    legal: set[int] | None,
    background: set[int],
    console: Console,
) -> dict[str, CaseFingerprint]:
    with progress_bar(console, "reading the volumes", len(dataset.cases)) as bar:
        return take_fingerprints(dataset, orientation, legal, background, bar.advance)


def _look_and_plan(config: Config, dataset: Dataset, console: Console) -> Plan:
    labels = named_labels(config, dataset)
    legal = None if labels is None else set().union(*labels.values())
    background = background_values(labels)
    fingerprints = _look_at(dataset, config.preprocess.orientation, legal, background, console)
    require_foreground(dataset, fingerprints, background)
    plan = make_plan(config, dataset, fingerprints)
    found = label_counts(fingerprints)
    absent = [
        one.name for one in plan.classes[1:] if not any(value in found for value in one.values)
    ]
    if absent:
        print_as_is(console, f"Warning: no labelled case contains {', '.join(absent)}.")
    unit = next(iter(fingerprints.values())).units[0]
    print_as_is(console, _in_words(plan, unit))
    return plan


def _in_words(plan: Plan, unit: str) -> str:
    spacing = "as stored" if plan.spacing is None else f"{_by(plan.spacing)} {unit}"
    return "\n".join(
        [
            "plan:",
            f"  classes: {', '.join(plan.class_names)}",
            f"  orientation {plan.orientation}, spacing {spacing}, "
            f"intensity {', '.join(f'{one.name} {one.kind}' for one in plan.channels)}",
            f"  patch {_by(plan.patch_size)} voxels, {len(plan.strides)} levels",
        ]
    )


def save_stamps(stamps: dict[str, str], path: Path) -> None:
    """Write down in what state the cases were looked at."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(stamps, indent=2) + "\n", encoding="utf-8")


def _load_stamps(path: Path) -> dict[str, str]:
    stamps: dict[str, str] = read_json(path) if path.exists() else {}
    return stamps


def _by(values: Sequence[float]) -> str:
    return " × ".join(f"{value:g}" for value in values)


def default_run_folder(config_path: Path, fold: int) -> Path:
    """``runs/NAME`` after the config file, with the fold unless it is the first."""
    return Path("runs") / (config_path.stem + (f"_fold_{fold}" if fold else ""))
