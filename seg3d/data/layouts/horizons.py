"""Datasets of SEG-Y surveys whose labels are horizons: ``images/X.sgy`` beside ``horizons/X/``."""

from __future__ import annotations

from pathlib import Path

from seg3d.common.errors import UserError
from seg3d.config import HorizonsConfig
from seg3d.data.cases import Case
from seg3d.data.layouts.found import Found
from seg3d.data.layouts.pairs import cases_for_testing
from seg3d.data.layouts.volume_files import (
    channel_files,
    files_of,
    images_by_stem,
    left_out,
    numbered,
    visible,
)
from seg3d.io import SEGY, Interpretation, suffix
from seg3d.io.horizon_layers import MOST_HORIZONS, label_values

IMAGES, HORIZONS = "images", "horizons"
SHOWN = 10


def surveys_with_horizons(root: Path, labels: HorizonsConfig) -> Found:
    """Surveys of which there are an image and a folder of horizons, and what is in ``imagesTs``.

    Args:
        root: holds the folders.
        labels: which files make the labels.

    Raises:
        UserError: if there is none, horizons are missing, or an image is not SEG-Y.
    """
    if root.is_file():
        raise UserError(
            f"{root} is a list, of which data.labels.horizons can make no labels",
            legal="a folder with images/X.sgy and horizons/X/",
        )
    if not all((root / folder).is_dir() for folder in (IMAGES, HORIZONS)):
        raise UserError(
            f"data.labels.horizons: {root} does not hold surveys with horizons",
            given=f"it holds {_names(root)}",
            legal=f"{IMAGES}/X.sgy with {HORIZONS}/X/{labels.horizons[0]}",
        )
    images = images_by_stem(root / IMAGES)
    cases = [
        Case(folder.name, files, _interpretation(files[0], folder, labels))
        for folder in visible(root / HORIZONS)
        if folder.is_dir() and (files := channel_files(folder.name, images.get))
    ]
    if not cases:
        raise UserError(
            f"{root}: no survey in {IMAGES} has a folder in {HORIZONS}",
            given=f"{IMAGES} holds {_names(root / IMAGES)}; "
            f"{HORIZONS} holds {_names(root / HORIZONS)}",
            legal=f"{IMAGES}/X.sgy with {HORIZONS}/X/{labels.horizons[0]}",
        )
    names = {case.name for case in cases}
    unused = left_out(root, IMAGES, files_of(cases), f"no folder of this name in {HORIZONS}")
    unused += [
        (f"{HORIZONS}/{path.name}", f"no survey of this name in {IMAGES}")
        for path in visible(root / HORIZONS)
        if path.name not in names
    ]
    cases += cases_for_testing(root, numbered=numbered(cases))
    return Found("SEG-Y with horizons", root, cases, unused, labels=_class_values(labels))


def _class_values(labels: HorizonsConfig) -> dict[str, int | list[int]]:
    """Class names and the label values of the layers that carry them."""
    return dict(label_values(_layer_names(labels)))


def _layer_names(labels: HorizonsConfig) -> list[str]:
    """A name for each layer, from top to bottom."""
    if labels.layers is not None:
        return labels.layers
    names = [Path(name).stem for name in labels.horizons]
    between = [f"{above} to {below}" for above, below in zip(names, names[1:], strict=False)]
    return [f"above {names[0]}", *between, f"below {names[-1]}"]


def _interpretation(survey: Path, folder: Path, labels: HorizonsConfig) -> Interpretation:
    if suffix(survey) not in SEGY:
        raise UserError(
            f"data.labels.horizons: {survey} has no line numbers to which horizons could refer",
            legal=", ".join(f"a survey that ends in {ending}" for ending in SEGY),
        )
    files = [folder / name for name in labels.horizons]
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        raise UserError(
            f"data.labels.horizons: {folder} does not hold {', '.join(missing)}",
            given=f"it holds {_names(folder)}",
            legal="every horizon for every survey, under the same file name",
            fix="rename the files, or take the survey out",
        )
    if len(files) > MOST_HORIZONS:
        raise UserError(
            "data.labels.horizons names too many", given=len(files), legal=f"1 to {MOST_HORIZONS}"
        )
    values = label_values(_layer_names(labels))
    return Interpretation(
        survey,
        tuple(files),
        tuple(values[name] for name in _layer_names(labels)),
        None if labels.columns is None else tuple(labels.columns),
        labels.scale,
        labels.reach,
    )


def _names(folder: Path) -> str:
    names = [path.name for path in visible(folder)]
    more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return (", ".join(names[:SHOWN]) or "nothing") + more
