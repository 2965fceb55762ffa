"""A training run from its settings to its end: what ``seg3d train`` and `seg3d.train` do."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from seg3d.common.device import choose_device
from seg3d.common.errors import UserError
from seg3d.common.printing import make_console, print_as_is
from seg3d.common.ranks import Ranks, joined_ranks
from seg3d.config import Config, config_from_tree, ignored_overrides, load_config, path_override
from seg3d.runs.run_folder import Run, require_new_run, resume_run, sole_user
from seg3d.training.loop import Ending, train_prepared
from seg3d.training.preparation import Prepared, prepare


@dataclass(frozen=True)
class Trained:
    """A run that has ended.

    Attributes:
        run: its folder, with the paths of all that lies there.
        ending: ``finished``; or ``interrupted`` or ``out of time``, and it can be resumed.
    """

    run: Run
    ending: Ending


def train(
    config: str | Path | Config,
    *,
    data: str | Path | None = None,
    run: str | Path | None = None,
    device: str = "auto",
    resume: bool = False,
    overrides: Sequence[str] = (),
    init_from: str | Path | None = None,
    console: Console | None = None,
) -> Trained:
    """Train a network, or go on with its training.

    Processes that ``torchrun`` has started train together; the first one prepares and writes.

    Args:
        config: a YAML file, or what `load_config` made of one.
        data: dataset folder or list file; by default ``data.folder`` of the config.
        run: folder to write to, or to go on in; by default ``runs/NAME`` after the config file.
        device: ``auto`` or a name such as ``cpu`` or ``cuda:1``.
        resume: continue the run from its last checkpoint. It keeps the config that it was begun
            with, but for ``data`` and ``overrides``.
        overrides: changes of single keys, such as ``train.epochs=100``.
        init_from: run or checkpoint whose weights, and plan, a new run begins with.
        console: for messages and progress; by default standard output.

    Returns:
        The run and how it ended.

    Raises:
        UserError: if a setting, the data or the folder cannot be used.
        RunFailed: if the loss stops being finite.
    """
    with joined_ranks() as ranks:
        where = _device(device, ranks)
        overrides = (
            *overrides,
            *path_override("data.folder", data),
            *path_override("train.init_from", init_from),
        )
        asked = _asked(config, overrides)
        folder = Run(_folder(config, asked) if run is None else Path(run))
        console = console or make_console(quiet=not ranks.first)
        with sole_user(folder) if ranks.first else nullcontext():
            source = "the one given" if isinstance(config, Config) else str(config)
            prepared = ranks.from_first(
                lambda: _prepared(
                    asked, source, folder, resume, overrides, console, where, ranks.count > 1
                )
            )
            ending = train_prepared(prepared, folder, device, resume, console, ranks)
    return Trained(folder, ending)


def _device(name: str, ranks: Ranks) -> torch.device:
    device = choose_device(name)
    if ranks.count > 1 and (device.index is not None or device.type == "mps"):
        raise UserError(
            f"--device {name}: several processes cannot train on one device",
            legal="cuda, where each process has a GPU of its own, or cpu",
        )
    return ranks.device(device)


def _prepared(
    asked: Config,
    source: str,
    folder: Run,
    resume: bool,
    overrides: tuple[str, ...],
    console: Console,
    device: torch.device,
    shared: bool,
) -> Prepared:
    """What is to be trained, with what there is to say about it."""
    settings = asked
    if resume:
        settings, differing = resume_run(folder, asked, overrides)
        if differing:
            print_as_is(
                console,
                f"Note: the run keeps its own {folder.config}; it differs from {source} in "
                f"{', '.join(differing)}. Use --set to change a key.",
            )
    else:
        require_new_run(folder)
    for note in ignored_overrides(settings, overrides):
        print_as_is(console, f"Note: {note}")
    return prepare(settings, folder, resume, console, device, shared=shared)


def _asked(config: str | Path | Config, overrides: tuple[str, ...]) -> Config:
    if not isinstance(config, Config):
        return load_config(config, overrides)
    # Only what has been set: of the rest, a run that goes on need not be told.
    return config_from_tree(config.model_dump(mode="json", exclude_unset=True), overrides)


def _folder(config: str | Path | Config, asked: Config) -> Path:
    """``runs/NAME`` after the config file, with the fold unless it is the first."""
    if isinstance(config, Config):
        raise UserError("no folder is given for the run", fix="run=FOLDER")
    fold = asked.data.fold
    return Path("runs") / (Path(config).stem + (f"_fold_{fold}" if fold else ""))
