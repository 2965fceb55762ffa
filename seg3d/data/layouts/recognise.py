"""Recognise how a dataset is laid out on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from seg3d.common.errors import UserError
from seg3d.config import HorizonsConfig
from seg3d.data.cases import Case, Dataset
from seg3d.data.layouts.assemble import Found, assemble
from seg3d.data.layouts.dataset_json import channel_names, label_values, read_json
from seg3d.data.layouts.folders import (
    TEST_PAIR,
    TRAINING_PAIRS,
    Pair,
    cases_for_testing,
    cases_for_training,
    files_of,
    unmatched,
)
from seg3d.data.layouts.horizons import cases_with_horizons, class_values
from seg3d.data.layouts.lists import (
    SECTIONS,
    Entry,
    data_list,
    entry,
    json_list,
    listed_cases,
    read_csv,
)
from seg3d.data.layouts.volume_files import LeftOut, left_out, visible, without_channel
from seg3d.io import SUFFIXES, stem

LIST_NAMES = ("dataset.json", "dataset.csv")
SHOWN = 10
RECOGNISED = (
    "dataset.json (MSD, nnU-Net, or a list of cases), dataset.csv, "
    "or the folders imagesTr and labelsTr, or images and labels"
)


def find_dataset(
    source: str | Path, labels: Mapping[str, object] | HorizonsConfig | None = None
) -> Dataset:
    """Find the cases of a dataset, whatever its layout.

    Recognised are the Medical Segmentation Decathlon (``dataset.json`` that lists files, also
    MONAI data lists), nnU-Net raw data (v1 and v2), image and label folders with matching file
    names, and tables: CSV, or JSON with the same keys; and, if ``labels`` says that horizons are to
    be used, ``images/X.sgy`` with ``horizons/X/``. Files are found, not opened.

    Args:
        source: the dataset's folder, or a ``.json`` or ``.csv`` file that lists it.
        labels: ``data.labels`` of the config.

    Raises:
        UserError: if nothing is recognised, or the dataset contradicts itself or lacks files.
    """
    source = Path(source).expanduser().absolute()
    if not source.exists():
        raise UserError(
            f"the dataset {source} does not exist", legal="a folder, or a .json or .csv list"
        )
    if isinstance(labels, HorizonsConfig):
        return _with_horizons(source, labels)
    if source.is_file():
        return _from_list(source)
    lists = [source / name for name in LIST_NAMES if (source / name).is_file()]
    if len(lists) > 1:
        raise UserError(
            f"{source} holds both {' and '.join(LIST_NAMES)}",
            fix="give the path of the one that describes the dataset",
        )
    if lists:
        return _from_list(lists[0])
    for pair in TRAINING_PAIRS:
        if all((source / folder).is_dir() for folder in pair):
            return assemble(source, _folders(source, pair))
    raise _unrecognised(source)


def _with_horizons(source: Path, labels: HorizonsConfig) -> Dataset:
    if source.is_file():
        raise UserError(
            f"{source} is a list, of which data.labels.horizons can make no labels",
            legal="a folder with images/X.sgy and horizons/X/",
        )
    cases, unused = cases_with_horizons(source, labels)
    cases += cases_for_testing(source, numbered=_numbered(cases))
    found = Found("SEG-Y with horizons", cases, unused)
    return assemble(source, found, labels=class_values(labels))


def _from_list(path: Path) -> Dataset:
    if path.suffix.lower() == ".csv":
        return assemble(path, _listed(path, "CSV list", read_csv(path)))
    if path.suffix.lower() != ".json":
        raise UserError(
            f"{path} is not a dataset", legal="a folder, or a list that ends in .json or .csv"
        )
    content = read_json(path)
    if isinstance(content, list):
        return assemble(path, _listed(path, "JSON list", json_list(path, content)))
    return assemble(
        path,
        _described(path, content),
        channels=channel_names(path, content),
        labels=label_values(path, content),
    )


def _described(path: Path, content: Any) -> Found:
    """Read a ``dataset.json`` in the manner of MSD or nnU-Net."""
    if isinstance(content, dict):
        if isinstance(content.get("dataset"), dict):
            return _nnunet_explicit(path, content)
        if "file_ending" in content or ("channel_names" in content and "training" not in content):
            return _nnunet(path, content)
        if any(section in content for section in SECTIONS):
            return _msd(path, content)
    raise UserError(
        f"{path} does not describe a dataset",
        given=f"keys {', '.join(content)}" if isinstance(content, dict) else repr(content),
        legal='"training" (MSD), "channel_names" and "file_ending" (nnU-Net), '
        "or a list of objects with image and label",
    )


def _listed(path: Path, layout: str, entries: list[Entry]) -> Found:
    return Found(layout, *listed_cases(path, entries))


def _folders(root: Path, pair: Pair) -> Found:
    cases = cases_for_training(root, pair)
    cases += cases_for_testing(root, numbered=_numbered(cases))
    layout = f"folders {pair.images} and {pair.labels}"
    return Found(layout, cases, unmatched(root, pair, cases))


def _msd(path: Path, content: dict[str, Any]) -> Found:
    entries, notes = data_list(path, content)
    cases, absent = listed_cases(path, entries)
    cases = [_with_reference(path.parent, case) for case in cases]
    used = files_of(cases)
    unlisted = [
        leftover
        for folder in (*TRAINING_PAIRS[0], *TEST_PAIR)
        for leftover in left_out(path.parent, folder, used, f"not listed in {path.name}")
    ]
    numbered = _numbered(cases)
    layout = "nnU-Net v1" if numbered else "MSD"
    return Found(layout, cases, [*notes, *absent, *unlisted])


def _with_reference(root: Path, case: Case) -> Case:
    """MSD lists test cases by their images; references, if there are any, lie in labelsTs."""
    reference = root / TEST_PAIR.labels / case.images[0].name
    unlabelled_test = case.split == "test" and case.label is None
    return replace(case, label=reference) if unlabelled_test and reference.exists() else case


def _nnunet(path: Path, content: dict[str, Any]) -> Found:
    root, pair, ending = path.parent, TRAINING_PAIRS[0], _file_ending(path, content)
    cases = cases_for_training(root, pair, ending)
    notes: list[LeftOut] = []
    stated = content.get("numTraining")
    if stated is not None and stated != len(cases):
        notes.append((f"{path.name}: numTraining", f"states {stated}, but {len(cases)} are there"))
    cases += cases_for_testing(root, numbered=_numbered(cases), ending=ending)
    notes += unmatched(root, pair, cases, ending)
    return Found("nnU-Net", cases, notes)


def _nnunet_explicit(path: Path, content: dict[str, Any]) -> Found:
    entries = []
    for name, files in content["dataset"].items():
        where = f'{path}, dataset["{name}"]'
        if not isinstance(files, dict) or not {"images", "label"} <= files.keys():
            raise UserError(
                f"{where} does not name its files",
                given=files,
                legal='{"images": [...], "label": "..."}',
            )
        row = {"name": name, "image": files["images"], "label": files["label"]}
        entries.append(entry(where, row))
    cases, absent = listed_cases(path, entries)
    cases += cases_for_testing(path.parent, numbered=True, ending=_file_ending(path, content))
    return Found("nnU-Net", cases, absent)


def _file_ending(path: Path, content: dict[str, Any]) -> str:
    ending = content.get("file_ending", "")
    if ending and ending not in SUFFIXES:
        raise UserError(
            f'{path}: "file_ending" is not that of a volume that seg3d reads',
            given=ending,
            legal=", ".join(SUFFIXES),
            fix="convert the files, and correct file_ending",
        )
    return ending


def _numbered(cases: list[Case]) -> bool:
    """Whether image names end in the number of the channel, as in ``liver_1_0000.nii.gz``."""
    return any(
        stem(case.images[0]) != case.name and without_channel(stem(case.images[0])) == case.name
        for case in cases
    )


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
        else "arrange the files so, or list them in a dataset.csv (image,label)",
    )


def describe(dataset: Dataset) -> str:
    """Say in a few lines what was recognised and what was not used."""
    lines = [
        f"dataset: {dataset.source} ({dataset.layout})",
        f"  cases: {len(dataset.cases)} with label, {len(dataset.test)} for testing",
    ]
    parts = [case.split for case in dataset.cases]
    if "val" in parts:
        lines.append(f"  split: {parts.count('train')} train, {parts.count('val')} val, as stated")
    files = len(dataset.cases[0].images)
    names = f": {', '.join(dataset.channels)}" if dataset.channels else ""
    lines.append(f"  images: {files} file{'s' if files > 1 else ''} per case{names}")
    if dataset.labels:
        values = (
            f"{name} {'+'.join(map(str, value)) if isinstance(value, list) else value}"
            for name, value in dataset.labels.items()
        )
        lines.append(f"  labels: {', '.join(values)}")
    if dataset.left_out:
        lines.append(f"  left out: {len(dataset.left_out)}")
        lines += [f"    {what}: {reason}" for what, reason in dataset.left_out[:SHOWN]]
        if len(dataset.left_out) > SHOWN:
            lines.append(f"    and {len(dataset.left_out) - SHOWN} more")
    return "\n".join(lines)
