"""Which prediction belongs to which reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from seg3d.common.errors import UserError
from seg3d.io import (
    SUFFIXES,
    is_plain_folder,
    labels_in,
    read_header,
    stem,
    suffix,
    volumes_by_case,
)
from seg3d.io.folders import folders_below
from seg3d.io.reoriented import Turn, require_same_voxels
from seg3d.prediction.jobs import PROBABILITIES

# In messages; the rest are counted.
PRINTED_NAMES = 10


@dataclass(frozen=True)
class Pair:
    """A prediction and the reference it is measured against; None where there is no file."""

    case: str
    prediction: Path | None
    reference: Path | None


def find_pairs(
    predictions: str | Path,
    references: str | Path,
    *,
    recursive: bool = False,
    pattern: str | None = None,
) -> list[Pair]:
    """Match predictions with references by file name without ending; two files match as given.

    Args:
        predictions: a folder (files named ``*_probabilities`` are not looked at) or a file.
        references: a folder or a file, as ``predictions``.
        recursive: take the volumes in folders of the folders too; those match that lie in folders
            of the same names, which are part of the names of their cases.
        pattern: of the references in their folder, see `seg3d.io.patterns`, in place of all
            volumes; predictions have the names of their cases.

    Returns:
        One pair per case, sorted by name, incomplete ones too (see `Pair`).

    Raises:
        UserError: if a path does not exist, one is a file and the other a folder, both are the
            same, two files of a folder have the same name but for the ending, or nothing matches.
    """
    if recursive and pattern:
        raise UserError("--recursive and --pattern are both given", fix="give one of them")
    predictions, references = Path(predictions), Path(references)
    for path in (predictions, references):
        if not path.exists():
            raise UserError(f"{path} does not exist")
    if is_plain_folder(predictions) != is_plain_folder(references):
        raise UserError(
            "a folder cannot be compared with a file",
            given=f"predictions {predictions} and references {references}",
            legal="two folders or two files",
        )
    if predictions.samefile(references):
        raise UserError(f"predictions and references are the same: {predictions}")
    if not is_plain_folder(predictions):
        if recursive or pattern:
            raise UserError(
                "--recursive and --pattern are for folders",
                given=f"the files {predictions} and {references}",
            )
        return [Pair(stem(references), predictions, references)]

    predicted = {
        name: path
        for name, path in _volumes(predictions, recursive, references).items()
        if not name.endswith(PROBABILITIES)
    }
    if pattern:
        referenced = volumes_by_case(references, pattern)
    else:
        referenced = _volumes(references, recursive, predictions)
    if not predicted.keys() & referenced.keys():
        raise UserError(
            "no prediction has the name of a reference",
            given=f"in {predictions}: {some_names(sorted(predicted))}; "
            f"in {references}: {some_names(sorted(referenced))}",
            legal=f"the same name, with any of the endings {', '.join(SUFFIXES)}",
            fix=None if recursive or pattern else "add --recursive to look into folders in them",
        )
    return [
        Pair(name, predicted.get(name), referenced.get(name))
        for name in sorted(predicted.keys() | referenced.keys())
    ]


def require_same_grid(prediction: Path, reference: Path) -> Turn:
    """See that two files lie on the same voxels, by their headers alone.

    Returns:
        What turns the axes of the prediction into those of the reference.

    Raises:
        UserError: if they do not.
    """
    grid, wanted = read_header(prediction).grid, read_header(reference).grid
    return require_same_voxels(reference, wanted, prediction, grid)


def probabilities_of(pair: Pair) -> Path | None:
    """The class probabilities that were written beside a prediction, if they were."""
    assert pair.prediction
    name = f"{stem(pair.prediction)}{PROBABILITIES}{suffix(pair.prediction)}"
    path = pair.prediction.with_name(name)
    return path if path.is_file() else None


def some_names(names: Sequence[str]) -> str:
    """The first few names and how many more there are, for a message."""
    more = len(names) - PRINTED_NAMES
    shown = ", ".join(names[:PRINTED_NAMES]) or "nothing"
    return f"{shown} and {more} more" if more > 0 else shown


def _volumes(folder: Path, recursive: bool, other: Path) -> dict[str, Path]:
    """Label volumes by the names of their cases; one folder may lie in the other."""
    found: dict[str, Path] = {}
    for inner, way in folders_below(folder, but=other) if recursive else [(folder, Path())]:
        for path in labels_in(inner):
            name = (way / stem(path)).as_posix()
            if name in found:
                raise UserError(
                    f"two files in {inner} are for the same case",
                    given=f"{found[name].name} and {path.name}",
                    fix="leave one of them there",
                )
            found[name] = path
    return found
