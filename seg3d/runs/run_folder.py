"""The folder of a run: what lies where, and what may change when the run goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from seg3d.common.errors import UserError
from seg3d.common.files import no_entry_explained, remove_unfinished, require_folder
from seg3d.common.yaml_text import in_one_line
from seg3d.config import Config, config_from_tree, config_tree, load_config
from seg3d.config.mistakes import value_at

# What the weights, the optimiser's state and the order of the patches depend on.
FIXED_KEYS = (
    "data.labels",
    "data.regions_class_order",
    "data.folds",
    "data.fold",
    "preprocess",
    "plan",
    "patch.voxels",
    "patch.foreground",
    "network",
    "train.optimizer",
    "train.init_from",
    "train.freeze",
    "train.lr_factors",
    "train.batch_size",
    "train.accumulate",
    "train.iterations_per_epoch",
    "train.seed",
)


@dataclass(frozen=True)
class Run:
    """Paths of a run: ``RUN/{config.yaml, plan.yaml, splits.json, checkpoints/, ...}``."""

    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "config.yaml"

    @property
    def plan(self) -> Path:
        return self.folder / "plan.yaml"

    @property
    def splits(self) -> Path:
        return self.folder / "splits.json"

    @property
    def cases(self) -> Path:
        return self.folder / "cases.json"

    @property
    def last(self) -> Path:
        return self.folder / "checkpoints" / "last.pt"

    @property
    def best(self) -> Path:
        return self.folder / "checkpoints" / "best.pt"

    @property
    def log(self) -> Path:
        return self.folder / "log.jsonl"

    @property
    def files(self) -> tuple[Path, ...]:
        """Those that are written again and again."""
        return self.config, self.plan, self.splits, self.cases, self.log, self.last, self.best

    @property
    def tensorboard(self) -> Path:
        return self.folder / "tensorboard"

    @property
    def cache(self) -> Path:
        return self.folder / "cache"


@contextmanager
def sole_user(run: Run) -> Iterator[None]:
    """Keep other processes from training in the same folder while the block runs.

    What a killed process has left of files that it was writing is removed.

    Raises:
        UserError: if one does already, or if there cannot be such a folder.
    """
    require_folder(run.folder, "--run")
    lock = FileLock(run.folder / ".lock")
    with no_entry_explained(run.folder):
        run.folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise UserError(
                f"another process is training in {run.folder}",
                fix="wait until it has ended, or give another folder (--run)",
            ) from error
    try:
        for path in run.files:
            remove_unfinished(path)
        yield
    finally:
        if list(run.folder.iterdir()) == [Path(lock.lock_file)]:
            # A start that failed leaves nothing behind.
            Path(lock.lock_file).unlink()
            with suppress(OSError):
                run.folder.rmdir()
        lock.release()


def require_new_run(run: Run) -> None:
    """Require that a run can be started in a folder.

    Raises:
        UserError: if it already holds a run, or cannot be a folder.
    """
    require_folder(run.folder, "--run")
    if run.last.exists() or run.best.exists():
        # One that was imported has been trained elsewhere, and cannot be continued.
        resumable = "--resume to continue it, or " if run.last.exists() else ""
        raise UserError(
            f"{run.folder} already holds a run", fix=f"{resumable}--run with another folder"
        )


def resume_run(run: Run, asked: Config, overrides: tuple[str, ...]) -> tuple[Config, list[str]]:
    """The config with which a run goes on: its own, changed by ``--set`` alone.

    Args:
        run: the run to continue.
        asked: the config as the command line gives it now.
        overrides: the ``--set`` of the command line.

    Returns:
        The config, and the keys that ``asked`` sets to something else (for a note to the user).

    Raises:
        UserError: if there is nothing to resume, or a fixed key is changed.
    """
    if not run.last.is_file():
        raise UserError(
            f"--resume: {run.folder} holds no checkpoint to continue from",
            given=f"{run.last} does not exist",
            fix="leave --resume out to start a new run, or give --run",
        )
    if not run.config.is_file():
        raise UserError(
            f"--resume: {run.config} is missing",
            fix="put it back, or start a new run with --run",
        )
    stored = load_config(run.config)
    config = config_from_tree(config_tree(stored), overrides, source=str(run.config))
    for key in changed_keys(stored, config):
        if any(key == fixed or key.startswith(f"{fixed}.") for fixed in FIXED_KEYS):
            raise UserError(
                f"{key} cannot change when a run is resumed",
                given=in_one_line(value_at(config_tree(config), key.split("."))),
                legal=in_one_line(value_at(config_tree(stored), key.split("."))),
                fix="start a new run with --run",
            )
    explicit = asked.model_dump(mode="json", exclude_unset=True)
    differing = changed_keys(config, asked)
    return config, [key for key in differing if value_at(explicit, key.split(".")) is not None]


def changed_keys(one: Config, other: Config) -> list[str]:
    """Keys, in dots, whose values differ."""

    def walk(a: dict[str, Any], b: dict[str, Any], prefix: str) -> list[str]:
        found = []
        for key in {**a, **b}:
            if isinstance(a.get(key), dict) and isinstance(b.get(key), dict):
                found += walk(a[key], b[key], f"{prefix}{key}.")
            elif a.get(key) != b.get(key):
                found.append(f"{prefix}{key}")
        return found

    return walk(config_tree(one), config_tree(other), "")
