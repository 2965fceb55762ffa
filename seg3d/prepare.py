"""From a config to everything training needs to know about the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from seg3d.checkpoint import load_checkpoint
from seg3d.config import Config
from seg3d.data.cases import Case, Dataset
from seg3d.data.layouts import describe, find_dataset
from seg3d.data.splits import choose_fold, load_or_make_splits, shares_cases
from seg3d.data.survey import label_counts, survey_dataset
from seg3d.errors import UserError
from seg3d.plan import Plan, background_values, make_plan, named_labels, save_plan
from seg3d.progress import progress_bar
from seg3d.run import Run


@dataclass(frozen=True)
class Prepared:
    """A run that is ready to be trained.

    Attributes:
        config: validated.
        plan: what the dataset made of it.
        train: cases to train on.
        val: cases to validate with.
    """

    config: Config
    plan: Plan
    train: list[Case]
    val: list[Case]


def prepare(config: Config, run: Run, resume: bool, console: Console) -> Prepared:
    """Find, check and plan; what was decided is written to the run folder.

    Args:
        config: of the run.
        run: its folder.
        resume: take the plan from the last checkpoint instead of surveying the data again.
        console: for what was found.

    Raises:
        UserError: if the data cannot be used, or does not fit the config.
    """
    if config.data.folder is None:
        raise UserError("no dataset is given", fix="--data FOLDER, or data.folder in the config")
    dataset = find_dataset(config.data.folder)
    console.print(describe(dataset), highlight=False, markup=False, soft_wrap=True)
    plan = load_checkpoint(run.last)[1] if resume else _survey_and_plan(config, dataset, console)
    fold = choose_fold(
        load_or_make_splits(run.splits, dataset, config.data.folds, config.train.seed),
        config.data.fold,
    )
    save_plan(plan, run.plan)
    if shares_cases(fold):
        console.print(
            "Warning: there is one labelled case only; it is used for training and for "
            "validation, so validation scores say nothing about new volumes."
        )
    by_name = {case.name: case for case in dataset.cases}
    return Prepared(
        config,
        plan,
        [by_name[name] for name in fold["train"]],
        [by_name[name] for name in fold["val"]],
    )


def _survey_and_plan(config: Config, dataset: Dataset, console: Console) -> Plan:
    labels = named_labels(config, dataset)
    legal = None if labels is None else set().union(*labels.values())
    with progress_bar(console, "reading the volumes", len(dataset.cases)) as bar:
        surveys = survey_dataset(
            dataset,
            config.preprocess.orientation,
            legal,
            background_values(labels),
            bar.advance,
        )
    plan = make_plan(config, dataset, surveys)
    found = label_counts(surveys)
    absent = [
        one.name for one in plan.classes[1:] if not any(value in found for value in one.values)
    ]
    if absent:
        console.print(f"Warning: no labelled case contains {', '.join(absent)}.")
    console.print(_in_words(plan), highlight=False, markup=False)
    return plan


def _in_words(plan: Plan) -> str:
    spacing = "as stored" if plan.spacing is None else f"{_by(plan.spacing)} mm"
    return "\n".join(
        [
            "plan:",
            f"  classes: {', '.join(plan.class_names)}",
            f"  orientation {plan.orientation}, spacing {spacing}, "
            f"intensity {', '.join(f'{one.name} {one.kind}' for one in plan.channels)}",
            f"  patch {_by(plan.patch_size)} voxels, {len(plan.strides)} levels",
        ]
    )


def _by(values: Sequence[float]) -> str:
    return " × ".join(f"{value:g}" for value in values)


def default_run_folder(config_path: Path, fold: int) -> Path:
    """``runs/NAME`` after the config file, with the fold unless it is the first."""
    return Path("runs") / (config_path.stem + (f"_fold_{fold}" if fold else ""))
