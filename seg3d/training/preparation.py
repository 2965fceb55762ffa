"""From a config to everything training needs to know about the data."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console

from seg3d.common.files import atomic_write
from seg3d.common.printing import print_as_is
from seg3d.config import Config, save_config
from seg3d.data.cases import Case, Dataset
from seg3d.data.layouts import read_json
from seg3d.data.notes import notes_on
from seg3d.data.splits import Fold, choose_fold, load_or_make_splits, save_splits, shares_cases
from seg3d.plan import CaseFingerprint, Plan, label_counts, save_plan, source_of, with_patch
from seg3d.probing import kernels
from seg3d.runs.checkpoint import load_checkpoint
from seg3d.runs.run_folder import Run
from seg3d.training.planning import dataset_of, look_and_plan, look_at

# Notes on the cases that are printed; more are in the log alone.
PRINTED_NOTES = 10


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
        notes: what a person should know about the data, a line each.
    """

    config: Config
    plan: Plan
    splits: list[Fold]
    train: list[Case]
    val: list[Case]
    stamps: dict[str, str]
    notes: list[str]


def prepare(
    config: Config,
    run: Run,
    resume: bool,
    console: Console,
    device: torch.device,
    *,
    shared: bool = False,
) -> Prepared:
    """Find, check and plan; nothing is written yet.

    Args:
        config: of the run.
        run: its folder.
        resume: take the plan from the last checkpoint; of the cases, only those are looked at that
            have come or changed since.
        console: for what was found.
        device: to train on; what is free there may be planned for.
        shared: whether several processes are to train.

    Raises:
        UserError: if the data cannot be used, or does not fit the config.
    """
    dataset = dataset_of(config, console)
    notes: list[str] = []

    def say(note: str) -> None:
        notes.append(note)
        print_as_is(console, f"Note: {note}")

    if resume:
        plan = with_patch(config, load_checkpoint(run.last)[1])
        fingerprints: dict[str, CaseFingerprint] = {}
        if changed := _changed(dataset, _load_stamps(run.cases)):
            say(_change_in_words(plan, changed))
            fingerprints = _look_again(plan, changed, console)
    else:
        config, plan, fingerprints = look_and_plan(config, dataset, device, console, shared=shared)
        if absent := _absent_classes(plan, fingerprints):
            say(f"no labelled case contains {', '.join(absent)}.")
    splits = load_or_make_splits(run.splits, dataset, config.data.folds, config.train.seed)
    fold = choose_fold(splits, config.data.fold)
    if shares_cases(fold):
        say(
            "there is one labelled case only; it is used for training and for validation, "
            "so validation scores say nothing about new volumes."
        )
    by_name = {case.name: case for case in dataset.cases}
    if unknown := sorted(by_name.keys() - {*fold["train"], *fold["val"]}):
        say(f"{run.splits} leaves out {', '.join(unknown)}.")
    if device.type == "cpu" and config.probing.sketch != "exact":
        if kernels.lacks_numba():
            say("without numba training on a CPU takes longer; pip install numba.")
        elif kernels.are_to_be_compiled():
            print_as_is(console, "compiling kernels for this CPU: once, a quarter of a minute")
    odd = notes_on(dataset, fingerprints, config, plan, fold)
    for note in odd[:PRINTED_NOTES]:
        say(note)
    if rest := odd[PRINTED_NOTES:]:
        notes += rest
        print_as_is(console, f"Note: {len(rest)} more in {run.log}")
    return Prepared(
        config,
        plan,
        splits,
        [by_name[name] for name in fold["train"]],
        [by_name[name] for name in fold["val"]],
        {case.name: case.stamp for case in dataset.cases},
        notes,
    )


def _changed(dataset: Dataset, stamps: dict[str, str]) -> Dataset | None:
    """The part of a dataset that has come or changed since it was looked at; None if none has."""
    cases = tuple(case for case in dataset.cases if stamps.get(case.name) != case.stamp)
    return replace(dataset, cases=cases) if cases else None


def _change_in_words(plan: Plan, changed: Dataset) -> str:
    if plan.dataset != source_of(changed):
        return f"the run was planned for {plan.dataset}."
    names = ", ".join(case.name for case in changed.cases)
    return f"new or changed since the run was planned: {names}."


def _look_again(plan: Plan, changed: Dataset, console: Console) -> dict[str, CaseFingerprint]:
    """Data that are not those of the plan may go on with it if they are of the same kind."""
    return look_at(
        changed,
        plan.orientation,
        plan.named_values,
        {*plan.parts[0].values, *plan.ignore},
        [one.name for one in plan.channels],
        plan.rest,
        console,
    )


def _absent_classes(plan: Plan, fingerprints: dict[str, CaseFingerprint]) -> list[str]:
    found = label_counts(fingerprints)
    return [one.name for one in plan.sought if not any(value in found for value in one.values)]


def save_prepared(prepared: Prepared, run: Run) -> None:
    """Write down config and plan, the folds, and in what state the cases were looked at."""
    save_config(prepared.config, run.config)
    save_plan(prepared.plan, run.plan)
    if not run.splits.exists():
        save_splits(prepared.splits, run.splits)
    with atomic_write(run.cases) as temporary:
        temporary.write_text(json.dumps(prepared.stamps, indent=2) + "\n", encoding="utf-8")


def _load_stamps(path: Path) -> dict[str, str]:
    stamps: dict[str, str] = read_json(path) if path.exists() else {}
    return stamps
