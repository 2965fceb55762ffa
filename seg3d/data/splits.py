"""Which cases train and which validate: k folds, kept in a file that people may edit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from seg3d.common.errors import UserError
from seg3d.common.files import atomic_write
from seg3d.data.cases import Dataset
from seg3d.data.layouts import read_json


class Fold(TypedDict):
    """Names of the cases to train on and of those to validate with."""

    train: list[str]
    val: list[str]


def make_splits(dataset: Dataset, folds: int, seed: int) -> list[Fold]:
    """Divide the labelled cases into folds, each of which validates once.

    A split that the dataset itself states is the only fold. Fewer cases than folds leave one
    out at a time. A lone case trains and validates (`shares_cases`). The order in which the
    cases were found does not matter.

    Args:
        dataset: cases set aside for testing take no part.
        folds: at least 2.
        seed: of the shuffle.

    Raises:
        UserError: if ``folds`` is too small, or the dataset states a split for some cases only.
    """
    if folds < 2:
        raise UserError("the number of folds is too small", given=folds, legal="2 or more")
    if any(case.split == "val" for case in dataset.cases):
        return [_stated_split(dataset)]
    names = sorted(case.name for case in dataset.cases)
    if len(names) == 1:
        return [Fold(train=names, val=names)]
    shuffled = np.random.default_rng(seed).permutation(names)
    return [
        Fold(train=sorted(set(names) - set(part.tolist())), val=sorted(part.tolist()))
        for part in np.array_split(shuffled, min(folds, len(names)))
    ]


def load_or_make_splits(path: str | Path, dataset: Dataset, folds: int, seed: int) -> list[Fold]:
    """Read the splits of a run, or make them if it has none yet (`save_splits` writes them).

    The file has the form of nnU-Net's ``splits_final.json``: a list of
    ``{"train": [names], "val": [names]}``. One that exists is followed as it is, so that a
    person may edit it; cases that it does not name are not used.

    Raises:
        UserError: if the file is malformed, or does not fit the dataset.
    """
    path = Path(path)
    if path.exists():
        return _checked(path, read_json(path), dataset)
    return make_splits(dataset, folds, seed)


def save_splits(splits: Sequence[Fold], path: Path) -> None:
    """Write the splits for people to read and edit."""
    with atomic_write(path, suffix=".json") as temporary:
        temporary.write_text(json.dumps(splits, indent=2) + "\n", encoding="utf-8")


def choose_fold(splits: Sequence[Fold], fold: int) -> Fold:
    """Give fold number ``fold``, counted from 0.

    Raises:
        UserError: if there is no such fold.
    """
    if not 0 <= fold < len(splits):
        raise UserError(
            "there is no such fold", given=fold, legal=f"0 to {len(splits) - 1}, counted from 0"
        )
    return splits[fold]


def shares_cases(fold: Fold) -> bool:
    """Whether a case both trains and validates, so that validation says little."""
    return not set(fold["train"]).isdisjoint(fold["val"])


def _stated_split(dataset: Dataset) -> Fold:
    unstated = [case.name for case in dataset.cases if case.split is None]
    if unstated:
        raise UserError(
            f"{dataset.source} states for some of its cases whether they train or validate, "
            "not for all",
            given=f"nothing for {_few(unstated)}",
            legal="train, val or test for every case, or no val at all",
        )
    fold = Fold(
        train=sorted(case.name for case in dataset.cases if case.split == "train"),
        val=sorted(case.name for case in dataset.cases if case.split == "val"),
    )
    if not fold["train"]:
        raise UserError(
            f"{dataset.source} states a split that leaves no case to train on",
            given=f"val for {_few(fold['val'])}",
            legal="train for at least one case",
        )
    return fold


def _checked(path: Path, content: Any, dataset: Dataset) -> list[Fold]:
    def wrong(problem: str, given: object, legal: str) -> UserError:
        return UserError(
            f"{path}: {problem}",
            given=given,
            legal=legal,
            fix="correct the file, or delete it to have it made anew",
        )

    if not isinstance(content, list) or not content:
        raise wrong("is not a list of folds", content, '[{"train": [...], "val": [...]}, ...]')
    known = {case.name for case in dataset.cases}
    for number, fold in enumerate(content):
        where = f"fold {number}"
        if not isinstance(fold, dict) or fold.keys() != {"train", "val"}:
            given = f"keys {', '.join(fold)}" if isinstance(fold, dict) else fold
            raise wrong(f"{where} is not a split", given, 'the keys "train" and "val"')
        for part, names in fold.items():
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise wrong(f'"{part}" of {where} is not a list of names', names, '["...", ...]')
            if not names:
                raise wrong(f'"{part}" of {where} is empty', names, "at least one case")
            if unknown := sorted(set(names) - known):
                raise wrong(
                    f'"{part}" of {where} names unknown cases',
                    _few(unknown),
                    f"labelled cases of {dataset.source}: {_few(sorted(known))}",
                )
            if len(set(names)) < len(names):
                repeated = sorted({name for name in names if names.count(name) > 1})
                raise wrong(f'"{part}" of {where} repeats cases', _few(repeated), "every case once")
        both = sorted(set(fold["train"]) & set(fold["val"]))
        if both and len(known) > 1:
            raise wrong(
                f"{where} validates with cases that it trains on",
                _few(both),
                'every case in either "train" or "val"',
            )
    return content


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
