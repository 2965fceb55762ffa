"""The folder of a model of nnU-Net's: how it is recognised, and which networks lie in it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from seg3d.common.errors import UserError

PLANS, DATASET = "plans.json", "dataset.json"
# Those that prediction may use, the one wanted most first.
CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth")
# Of version 1, whose plans are pickled.
FIRST_VERSION = ("plans.pkl", "*.model.pkl", "fold_*/*.model.pkl", "all/*.model.pkl")
WANTED = f"a folder with {PLANS}, {DATASET} and fold_*/{CHECKPOINTS[0]}"
FOLD = re.compile(r"fold_(0|[1-9][0-9]{0,8}|all)")
ALL = "all"

Fold = int | str


def is_nnunet(path: Path) -> bool:
    """Whether a path looks like a model of nnU-Net's, or like what lies in one or around one."""
    if path.is_file():
        return (path.parent.parent / PLANS).is_file() or path.name == PLANS
    return path.is_dir() and (
        any((path / name).is_file() for name in (PLANS, *CHECKPOINTS, "debug.json"))
        or any(FOLD.fullmatch(one.name) for one in path.glob("fold_*"))
        or _is_of_first_version(path)
        or bool(_models_below(path))
    )


def require_model(path: Path) -> None:
    """Require that a path is the whole folder of a model.

    Raises:
        UserError: if it is something near it; it says what to give instead.
    """
    if _is_of_first_version(path):
        raise UserError(
            f"{path} is a model of nnU-Net version 1",
            legal="models of nnU-Net version 2",
            fix="train it anew with version 2, or with seg3d train",
        )
    above = path.parent.parent if path.is_file() and path.name != PLANS else path.parent
    if (above / PLANS).is_file() and not (path / PLANS).is_file():
        raise UserError(
            f"{path} is a part of a model of nnU-Net's",
            legal=WANTED,
            fix=f"give {above}, and choose folds with --set predict.folds=[0]",
        )
    if models := _models_below(path):
        raise UserError(
            f"{path} holds several models of nnU-Net's"
            if len(models) > 1
            else f"{path} holds a model of nnU-Net's, but is none",
            given=", ".join(sorted(one.name for one in models)),
            legal=WANTED,
            fix=f"give {_best_of(models)}",
        )
    if missing := [name for name in (PLANS, DATASET) if not (path / name).is_file()]:
        raise UserError(
            f"{path} is an incomplete model of nnU-Net's: {' and '.join(missing)} missing",
            legal=WANTED,
            fix=f"copy {' and '.join(missing)} from where it was trained",
        )


def folds_in(path: Path) -> dict[Fold, Path]:
    """The checkpoint of every fold of a model, in order, ``all`` at the end.

    Raises:
        UserError: if there is none.
    """
    found: dict[Fold, Path] = {}
    for folder in path.glob("fold_*"):
        if match := FOLD.fullmatch(folder.name):
            fold = match[1] if match[1] == ALL else int(match[1])
            files = [folder / name for name in CHECKPOINTS if (folder / name).is_file()]
            if files:
                found[fold] = files[0]
    if not found:
        raise UserError(
            f"{path} is an incomplete model of nnU-Net's: no fold holds a checkpoint",
            legal=WANTED,
            fix="wait until nnU-Net has finished training, or copy the folders fold_*",
        )
    return dict(sorted(found.items(), key=lambda item: (item[0] == ALL, str(item[0]).zfill(9))))


def chosen_folds(there: Sequence[Fold], wanted: str | Sequence[Fold], name: object) -> list[Fold]:
    """The folds to be used: those that are wanted, or all that are numbered, as in nnU-Net.

    Args:
        there: all folds.
        wanted: ``predict.folds``, or ``first``.
        name: of the model, for the message.

    Raises:
        UserError: if one is not there.
    """
    if wanted in ("auto", "first"):
        found = [one for one in there if one != ALL] or list(there)
        return found if wanted == "auto" else found[:1]
    if missing := [one for one in wanted if one not in there]:
        raise UserError(
            f"predict.folds: {name} has no fold {', '.join(map(str, missing))}",
            given=f"[{', '.join(map(str, wanted))}]",
            legal=", ".join(map(str, there)),
        )
    return list(wanted)


def _is_of_first_version(path: Path) -> bool:
    return path.is_dir() and any(
        next(path.glob(pattern), None) is not None for pattern in FIRST_VERSION
    )


def _models_below(path: Path) -> list[Path]:
    """Models in a folder of the results of a dataset, which are named TRAINER__PLANS__KIND."""
    if not path.is_dir() or (path / PLANS).is_file():
        return []
    return [one for one in sorted(path.glob("*__*__*")) if (one / PLANS).is_file()]


def _best_of(models: Sequence[Path]) -> Path:
    kinds = ("3d_fullres", "3d_lowres")
    return next((one for kind in kinds for one in models if one.name.endswith(kind)), models[0])
