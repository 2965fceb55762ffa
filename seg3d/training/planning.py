"""The plan of a run, from looking at the cases to words for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from rich.console import Console

from seg3d.common.device import compute_dtype
from seg3d.common.errors import UserError
from seg3d.common.printing import print_as_is
from seg3d.common.progress import progress_bar
from seg3d.common.sizes import readable
from seg3d.config import Config, Rest
from seg3d.data.cases import Dataset
from seg3d.data.fingerprint import (
    require_fitting_headers,
    require_foreground,
    take_fingerprints,
)
from seg3d.data.layouts import describe, find_dataset
from seg3d.nnunet import are_plans, planned_by
from seg3d.plan import (
    USABLE,
    CaseFingerprint,
    Choice,
    Peak,
    Plan,
    adopted,
    background_values,
    inherited_config,
    inherited_plan,
    load_plan,
    make_plan,
    memory_to_plan_for,
    named_labels,
    plan_for_memory,
    predicted_peak,
    rest_of,
    save_plan,
    typical_shape,
)
from seg3d.training.start_weights import read_start
from seg3d.training.trial import trial_for


def show_plan(config: Config, device: torch.device, console: Console, output: Path | None) -> None:
    """Print the plan that a run would have, and the memory that training would take.

    Args:
        config: of the run.
        device: to train on.
        console: to print on.
        output: file to write the plan to.

    Raises:
        UserError: if the data cannot be used, nothing fits into ``plan.memory``, or ``output`` is a
            folder.
    """
    if output is not None and output.is_dir():
        raise UserError(f"--output: {output} is a folder", fix="name a file, such as plan.yaml")
    config, plan, _ = look_and_plan(config, dataset_of(config, console), device, console)
    file = config.plan.file
    if config.plan.memory is None or (file is not None and not are_plans(file)):
        peak = predicted_peak(config, plan, compute_dtype(config.train.amp, device))
        print_as_is(console, _table(Choice(plan, peak)))
    if output is not None:
        save_plan(plan, output)
        print_as_is(console, output)


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
    config: Config,
    dataset: Dataset,
    device: torch.device,
    console: Console,
    *,
    shared: bool = False,
) -> tuple[Config, Plan, dict[str, CaseFingerprint]]:
    """Look at all cases, plan, and print the plan.

    It is made from the cases, or that of ``plan.file``, or comes with ``train.init_from`` or by
    plans of nnU-Net's.

    Args:
        config: of the run.
        dataset: all cases.
        device: to train on; what is free there may be planned for.
        console: for the plan.
        shared: whether several processes are to train.

    Returns:
        The config, completed by what is inherited; the plan; and what was seen.

    Raises:
        UserError: if the data cannot be used, ``plan.file`` does not fit them, nothing fits into
            ``plan.memory``, or ``train.init_from`` holds no weights.
    """
    asked, theirs = config, _to_inherit(config)
    if theirs is not None:
        config = inherited_config(asked, *theirs)
    file = config.plan.file
    given = None if file is None or are_plans(file) else load_plan(file)
    labels = named_labels(config, dataset)
    legal = None if labels is None else set().union(*labels.values())
    background = background_values(labels)
    orientation = config.preprocess.orientation
    fingerprints = look_at(
        dataset, orientation, legal, background, dataset.channels, rest_of(config), console
    )
    require_foreground(dataset, fingerprints, background)
    if theirs is not None and given is None:
        plan = inherited_plan(asked, config, *theirs, dataset, fingerprints)
    else:
        plan = make_plan(config, dataset, fingerprints)
    choice = None
    if given is not None:
        plan = adopted(config, given, plan)
        for note in _overruled(given, plan):
            print_as_is(console, f"Note: {note}")
    elif config.plan.memory is not None:
        shape = typical_shape(config, plan, fingerprints)
        memory = memory_to_plan_for(config.plan.memory, device)
        dtype = compute_dtype(config.train.amp, device)
        fits = trial_for(config, device, memory, shared)
        choice = plan_for_memory(
            config, plan, shape, len(fingerprints), memory, dtype, fits, shared=shared
        )
        plan = choice.plan
    unit = next(iter(fingerprints.values())).units[0]
    print_as_is(console, _in_words(plan, unit))
    if choice is not None:
        print_as_is(console, _table(choice))
    return config, plan, fingerprints


def _to_inherit(config: Config) -> tuple[Config, Plan] | None:
    """Config and plan that the run goes by where its own config says nothing else."""
    if config.plan.file is not None and are_plans(config.plan.file):
        return planned_by(config.plan.file)
    if config.train.init_from is not None:
        start = read_start(config.train.init_from)
        return start.config, start.plan
    return None


def _overruled(given: Plan, plan: Plan) -> Iterator[str]:
    """What the config says otherwise than a plan that was given."""
    for of_plan, of_config in (("patch_size", "patch.size"), ("batch_size", "train.batch_size")):
        if getattr(given, of_plan) != getattr(plan, of_plan):
            yield (
                f"{of_plan} of the plan has no effect, because the config gives {of_config}; "
                f"with {of_config}=auto it has."
            )


def look_at(
    dataset: Dataset,
    orientation: str,
    legal: set[int] | None,
    background: set[int],
    channels: Sequence[str] | None,
    rest: Rest | None,
    console: Console,
) -> dict[str, CaseFingerprint]:
    """Take the fingerprints of all cases, with a bar; their headers are looked at before."""
    with progress_bar(console, "reading the headers", len(dataset.cases)) as bar:
        require_fitting_headers(dataset, channels, bar.advance)
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
            f"  {_classes(plan)}{_rest(plan)}",
            f"  orientation {plan.orientation}, spacing {spacing}, "
            f"intensity {', '.join(f'{one.name} {one.kind}' for one in plan.channels)}",
            f"  {'whole, up to' if plan.whole else 'patch'} {_by(plan.patch_size)} voxels, "
            f"{len(plan.strides)} levels, "
            f"batch {plan.batch_size}{'' if plan.blocks is None else ', residual encoder'}",
        ]
    )


def _classes(plan: Plan) -> str:
    if plan.regions is None:
        return f"classes: {', '.join(plan.class_names)}"
    regions = (
        f"{one.name} ({'+'.join(map(str, one.values))}) as {written}"
        for one, written in zip(plan.classes, plan.regions, strict=True)
    )
    return f"regions, in the order of writing: {', '.join(regions)}"


def _rest(plan: Plan) -> str:
    if plan.rest is None:
        return ""
    return f"; other values are {'ignored' if plan.rest == 'ignore' else plan.rest}"


def _table(choice: Choice) -> str:
    """The peak of training by its parts, and what else would have fitted or not."""
    head = "memory of a training step, predicted:"
    if choice.memory is not None:
        filled = readable(USABLE * choice.memory)
        how = "predicted, and tried by two steps" if choice.tried else "predicted"
        head = f"memory: {readable(choice.memory)}, of which {filled} may be filled; {how}:"
    rows = [_row("this plan", choice.plan, choice.peak)]
    parts = vars(choice.peak).items()
    rows += [f"    {_PARTS[name]:22} {'':22} {readable(size):>12}" for name, size in parts]
    if choice.memory is not None:
        rows.append(
            _row(_what_is_larger(choice), *choice.larger)
            if choice.larger
            else "  nothing larger: this is a typical volume, or the patch that was asked for"
        )
        if choice.residual:
            rows.append(_row("residual encoder", *choice.residual))
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


def _what_is_larger(choice: Choice) -> str:
    assert choice.larger is not None and choice.memory is not None
    larger, peak = choice.larger
    if peak.total <= USABLE * choice.memory:
        return "out of memory when tried"
    return f"next larger {'patch' if larger.batch_size == choice.plan.batch_size else 'batch'}"


def _row(name: str, plan: Plan, peak: Peak) -> str:
    patches = f"{plan.batch_size} of {_by(plan.patch_size)}"
    return f"  {name:24} {patches:22} {readable(peak.total):>12}"


def _by(values: Sequence[float]) -> str:
    return " × ".join(f"{value:g}" for value in values)
