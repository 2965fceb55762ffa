"""The plan of a run, from looking at the cases to words for people."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from rich.console import Console

from seg3d.common.device import compute_dtype
from seg3d.common.errors import UserError
from seg3d.common.printing import print_as_is
from seg3d.common.progress import progress_bar
from seg3d.common.sizes import readable
from seg3d.config import Config, Rest
from seg3d.data.cases import Dataset
from seg3d.data.fingerprint import require_foreground, take_fingerprints
from seg3d.data.layouts import describe, find_dataset
from seg3d.geometry import Shape3
from seg3d.plan import (
    USABLE,
    CaseFingerprint,
    Choice,
    Peak,
    Plan,
    background_values,
    make_plan,
    memory_to_plan_for,
    named_labels,
    plan_for_memory,
    predicted_peak,
    rest_of,
    typical_volume,
)


def show_plan(config: Config, device: torch.device, console: Console) -> None:
    """Print the plan that a run would have, and the memory that training would take.

    Raises:
        UserError: if the data cannot be used, or nothing fits into ``plan.memory``.
    """
    plan, _ = look_and_plan(config, dataset_of(config, console), device, console)
    if config.plan.memory is None:
        peak = predicted_peak(config, plan, compute_dtype(config.train.amp, device))
        print_as_is(console, _table(Choice(plan, peak)))


def dataset_of(config: Config, console: Console) -> Dataset:
    """The dataset that a config names.

    Raises:
        UserError: if it names none, or what it names is none.
    """
    if config.data.folder is None:
        raise UserError("no dataset is given", fix="--data FOLDER, or data.folder in the config")
    dataset = find_dataset(config.data.folder, config.data.labels, config.data.files)
    print_as_is(console, describe(dataset))
    return dataset


def look_and_plan(
    config: Config, dataset: Dataset, device: torch.device, console: Console
) -> tuple[Plan, dict[str, CaseFingerprint]]:
    """Look at all cases, plan, and print the plan.

    Args:
        config: of the run.
        dataset: all cases.
        device: to train on; what is free there may be planned for.
        console: for the plan.

    Raises:
        UserError: if the data cannot be used, or nothing fits into ``plan.memory``.
    """
    labels = named_labels(config, dataset)
    legal = None if labels is None else set().union(*labels.values())
    background = background_values(labels)
    orientation = config.preprocess.orientation
    fingerprints = look_at(
        dataset, orientation, legal, background, dataset.channels, rest_of(config), console
    )
    require_foreground(dataset, fingerprints, background)
    plan = make_plan(config, dataset, fingerprints)
    choice = None
    if config.plan.memory is not None:
        shape = typical_volume(config, fingerprints)[2]
        memory = memory_to_plan_for(config.plan.memory, device)
        dtype = compute_dtype(config.train.amp, device)
        choice = plan_for_memory(config, plan, shape, memory, dtype)
        plan = choice.plan
    unit = next(iter(fingerprints.values())).units[0]
    print_as_is(console, _in_words(plan, unit))
    if choice is not None:
        print_as_is(console, _table(choice))
    return plan, fingerprints


def look_at(
    dataset: Dataset,
    orientation: str,
    legal: set[int] | None,
    background: set[int],
    channels: Sequence[str] | None,
    rest: Rest | None,
    console: Console,
) -> dict[str, CaseFingerprint]:
    """Take the fingerprints of all cases, with a bar."""
    with progress_bar(console, "reading the volumes", len(dataset.cases)) as bar:
        return take_fingerprints(
            dataset,
            orientation,
            legal,
            background,
            channels=channels,
            rest=rest,
            advance=bar.advance,
        )


def _in_words(plan: Plan, unit: str) -> str:
    spacing = "as stored" if plan.spacing is None else f"{_by(plan.spacing)} {unit}"
    return "\n".join(
        [
            "plan:",
            f"  classes: {', '.join(plan.class_names)}{_rest(plan)}",
            f"  orientation {plan.orientation}, spacing {spacing}, "
            f"intensity {', '.join(f'{one.name} {one.kind}' for one in plan.channels)}",
            f"  patch {_by(plan.patch_size)} voxels, {len(plan.strides)} levels"
            f"{'' if plan.blocks is None else ', residual encoder'}",
        ]
    )


def _rest(plan: Plan) -> str:
    if plan.rest is None:
        return ""
    return f"; other values are {'ignored' if plan.rest == 'ignore' else plan.rest}"


def _table(choice: Choice) -> str:
    """The peak of training by its parts, and what else would have fitted or not."""
    head = "memory of a training step, predicted:"
    if choice.memory is not None:
        filled = readable(USABLE * choice.memory)
        head = f"memory: {readable(choice.memory)}, of which {filled} may be filled; predicted:"
    rows = [_row("this plan", choice.plan.patch_size, choice.peak)]
    parts = vars(choice.peak).items()
    rows += [f"    {_PARTS[name]:22} {'':17} {readable(size):>12}" for name, size in parts]
    if choice.memory is not None:
        rows.append(
            _row("next larger patch", *choice.larger)
            if choice.larger
            else "  no larger patch: this is a typical volume, or the patch that was asked for"
        )
        rows.append(
            _row("with exact gradients", *choice.exact)
            if choice.exact
            else "  with exact gradients   no patch fits"
        )
    return "\n".join([head, *rows])


_PARTS = {
    "weights": "weights, optimiser",
    "codes": "kept by layers",
    "scores": "kept by the loss",
    "working": "working set",
}


def _row(name: str, patch: Shape3, peak: Peak) -> str:
    return f"  {name:24} {_by(patch):17} {readable(peak.total):>12}"


def _by(values: Sequence[float]) -> str:
    return " × ".join(f"{value:g}" for value in values)
