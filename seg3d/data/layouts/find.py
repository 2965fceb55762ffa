"""From a folder or list to the dataset that it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seg3d.common.errors import UserError
from seg3d.common.plain_text import is_text
from seg3d.config import FilesConfig, HorizonsConfig
from seg3d.data.cases import Dataset
from seg3d.data.layouts.assemble import assemble
from seg3d.data.layouts.beside import images_beside_segmentations
from seg3d.data.layouts.folders import image_and_label_folders
from seg3d.data.layouts.found import Found
from seg3d.data.layouts.horizons import surveys_with_horizons
from seg3d.data.layouts.json_files import read_json
from seg3d.data.layouts.lists import csv_table, json_list
from seg3d.data.layouts.msd import SECTIONS, listed_in_sections
from seg3d.data.layouts.nnunet import explicit_files, raw_data
from seg3d.data.layouts.pairs import TRAINING_PAIRS
from seg3d.data.layouts.patterns import files_by_pattern
from seg3d.data.layouts.volume_files import visible
from seg3d.io import is_segmentation, volumes_in

LIST_NAMES = ("dataset.json", "dataset.csv")
SHOWN = 10
RECOGNISED = (
    "dataset.json (MSD, nnU-Net, or a list of cases), dataset.csv, "
    "the folders imagesTr and labelsTr, or images and labels, or X.nrrd beside X.seg.nrrd"
)


def find_dataset(
    source: str | Path,
    labels: Mapping[str, object] | HorizonsConfig | None = None,
    files: FilesConfig | None = None,
) -> Dataset:
    """Find the cases of a dataset, whatever its layout. Files are found, not opened.

    Args:
        source: the dataset's folder, or a ``.json`` or ``.csv`` file that lists it.
        labels: ``data.labels`` of the config.
        files: ``data.files`` of the config.

    Raises:
        UserError: if nothing is recognised, or the dataset contradicts itself or lacks files.
    """
    source = Path(source).expanduser().absolute()
    if not source.exists():
        raise UserError(
            f"the dataset {source} does not exist", legal="a folder, or a .json or .csv list"
        )
    dataset = assemble(recognise(source, labels, files or FilesConfig()))
    _require_text(dataset)
    return dataset


def recognise(
    source: Path, labels: Mapping[str, object] | HorizonsConfig | None, files: FilesConfig
) -> Found:
    """What the layout that a source is in finds there.

    Raises:
        UserError: as `find_dataset`.
    """
    if isinstance(labels, HorizonsConfig):
        return surveys_with_horizons(source, labels)
    if files.images or files.label is not None:
        return files_by_pattern(source, files)
    listing = source if source.is_file() else _list_in(source)
    if listing is None:
        for pair in TRAINING_PAIRS:
            if all((source / folder).is_dir() for folder in pair):
                return image_and_label_folders(source, pair)
        if any(map(is_segmentation, volumes_in(source))):
            return images_beside_segmentations(source)
        raise _unrecognised(source)
    match listing.suffix.lower():
        case ".csv":
            return csv_table(listing)
        case ".json":
            return _recognise_json(listing, read_json(listing))
    raise UserError(
        f"{listing} is not a dataset", legal="a folder, or a list that ends in .json or .csv"
    )


def _list_in(folder: Path) -> Path | None:
    """The list that describes a folder, if it holds one."""
    lists = [folder / name for name in LIST_NAMES if (folder / name).is_file()]
    if len(lists) > 1:
        raise UserError(
            f"{folder} holds both {' and '.join(LIST_NAMES)}",
            fix="give the path of the one that describes the dataset",
        )
    return lists[0] if lists else None


def _recognise_json(path: Path, content: Any) -> Found:
    if isinstance(content, list):
        return json_list(path, content)
    if isinstance(content, dict):
        if isinstance(content.get("dataset"), dict):
            return explicit_files(path, content)
        if "file_ending" in content or ("channel_names" in content and "training" not in content):
            return raw_data(path, content)
        if any(section in content for section in SECTIONS):
            return listed_in_sections(path, content)
    raise UserError(
        f"{path} does not describe a dataset",
        given=f"keys {', '.join(content)}" if isinstance(content, dict) else repr(content),
        legal='"training" (MSD), "channel_names" and "file_ending" (nnU-Net), '
        "or a list of objects with image and label",
    )


def _require_text(dataset: Dataset) -> None:
    """Names of cases are written to files and pictures."""
    for case in (*dataset.cases, *dataset.test):
        for name in (case.name, *map(str, case.files)):
            if not is_text(name):
                raise UserError(f"{name}: this name is not in UTF-8", fix="rename it")


def _unrecognised(folder: Path) -> UserError:
    content = visible(folder)
    names = [f"{path.name}/" if path.is_dir() else path.name for path in content]
    more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    signs = (*LIST_NAMES, *(pair.labels for pair in TRAINING_PAIRS))
    inner = [path for path in content if any((path / sign).exists() for sign in signs)]
    return UserError(
        f"{folder} is not a dataset that seg3d recognises",
        given=f"it holds {', '.join(names[:SHOWN]) or 'nothing'}{more}",
        legal=RECOGNISED,
        fix=f"did you mean {inner[0]}?"
        if inner
        else "arrange the files so, list them in a dataset.csv (image,label), or say where they "
        "are: --set data.files.images=[CASE/image.nii.gz] --set data.files.label=CASE/label.nii.gz",
    )
