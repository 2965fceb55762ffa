"""A copy of a dataset in which some files are repaired."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from seg3d.checking.repairs import Repair
from seg3d.common.errors import UserError
from seg3d.common.files import UnfinishedFolder
from seg3d.common.sole_writer import sole_writer
from seg3d.config import Config
from seg3d.data.cases import Dataset
from seg3d.data.layouts import find_dataset
from seg3d.io import is_volume
from seg3d.io.parts import parts_of


def copy_dataset(
    dataset: Dataset,
    config: Config,
    repairs: Mapping[Path, Repair],
    target: Path,
    advance: Callable[[], object] = lambda: None,
) -> Dataset:
    """Copy what the cases use and the list of them, with repaired files in place of the others.

    The copy appears under its name when it is whole. The dataset is only read.

    Args:
        dataset: to be copied.
        config: by which it was found.
        repairs: by the file in the dataset.
        target: a new folder, or an empty one.
        advance: called after each file of a case, for a progress bar.

    Returns:
        The copy, as it is found there.

    Raises:
        UserError: if the target may not be written to, files of the dataset lie elsewhere, or a
            file cannot be copied.
    """
    root = root_of(dataset)
    files = require_copyable(dataset, target)
    with sole_writer(target):
        copy = UnfinishedFolder(target)
        try:
            for part in _beside(root):
                _copy(part, root, copy.temporary)
            for path in files:
                there = copy.temporary / Path(os.path.normpath(path)).relative_to(root)
                if repair := repairs.get(path):
                    repair.write(there)
                else:
                    for part in parts_of(path) if is_volume(path) else [path]:
                        _copy(part, root, copy.temporary)
                advance()
            _require_inside(_found(dataset, config, copy.temporary), copy.temporary)
            copy.finish()
        finally:
            copy.discard()
    return _found(dataset, config, target)


def root_of(dataset: Dataset) -> Path:
    """The folder of a dataset."""
    return dataset.source if dataset.source.is_dir() else dataset.source.parent


def require_copyable(dataset: Dataset, target: Path) -> list[Path]:
    """Require that a dataset can be copied to a folder.

    Returns:
        All files of its cases, each once.

    Raises:
        UserError: as `copy_dataset`, before anything is read.
    """
    root = root_of(dataset)
    _require_apart(root, target)
    cases = (*dataset.cases, *dataset.test)
    files = dict.fromkeys(path for case in cases for path in case.files)
    for path in files:
        if not Path(os.path.normpath(path)).is_relative_to(root):
            raise _elsewhere(dataset, path)
    return list(files)


def _require_apart(root: Path, target: Path) -> None:
    here, there = root.resolve(), target.resolve()
    if here == there or here in there.parents or there in here.parents:
        raise UserError(
            f"--fix {target} would change the dataset itself",
            given=f"the dataset is {root}",
            legal="a folder outside of the dataset, and not around it",
        )
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(
            f"--fix {target} is not an empty folder",
            fix="give a folder that does not exist yet, or remove this one",
        )


def _beside(root: Path) -> Iterator[Path]:
    """The list of cases, and what else lies there and is small: a licence, a description."""
    for path in root.iterdir():
        if path.is_file() and not path.name.startswith(".") and not is_volume(path):
            yield path


def _copy(path: Path, root: Path, folder: Path) -> None:
    target = folder / Path(os.path.normpath(path)).relative_to(root)
    target.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        shutil.copytree(path, target, dirs_exist_ok=True)
    else:
        shutil.copy2(path, target)


def _found(dataset: Dataset, config: Config, folder: Path) -> Dataset:
    source = folder / dataset.source.relative_to(root_of(dataset))
    return find_dataset(source, config.data.labels, config.data.files)


def _require_inside(copy: Dataset, folder: Path) -> None:
    """Absolute paths in a list still lead to the dataset that was copied."""
    for case in (*copy.cases, *copy.test):
        for path in case.files:
            if not Path(os.path.normpath(path)).is_relative_to(folder.absolute()):
                raise _elsewhere(copy, path)


def _elsewhere(dataset: Dataset, path: Path) -> UserError:
    return UserError(
        f"{dataset.source.name} names files outside of its folder, which no copy of it would have",
        given=path,
        legal="paths relative to the list, in its folder or below",
        fix="move the list to a folder above the files",
    )
