"""The labels of a dataset with horizons as volumes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from seg3d.common.errors import UserError
from seg3d.common.files import atomic_write, require_folder
from seg3d.common.printing import print_as_is
from seg3d.common.progress import progress_bar
from seg3d.common.sole_writer import sole_writer
from seg3d.config import DataConfig, HorizonsConfig
from seg3d.data.layouts import describe, find_dataset
from seg3d.io import Interpretation, create_volume, suffix


def write_layers(data: DataConfig, folder: Path, console: Console) -> Iterator[Path]:
    """Write the labels of every survey, with the survey's headers, and ``dataset.json``.

    Args:
        data: says where the surveys are, and which horizons make the labels.
        folder: for the volumes.
        console: for what was found.

    Yields:
        Each file, when it is written.

    Raises:
        UserError: if there are no horizons, or they cannot be used, or another process is writing
            one of the files.
    """
    if data.folder is None:
        raise UserError("no dataset is given", fix="--data FOLDER, or data.folder in the config")
    if not isinstance(data.labels, HorizonsConfig):
        raise UserError(
            "data.labels names no horizons to make layers of",
            given=data.labels,
            legal="{horizons: [top.dat, base.dat]}",
        )
    require_folder(folder, "--output")
    dataset = find_dataset(data.folder, data.labels)
    if folder.resolve() == (dataset.source / "images").resolve():
        raise UserError(
            f"--output {folder} holds the surveys themselves", fix="give another folder"
        )
    print_as_is(console, describe(dataset))
    volumes = [folder / (case.name + suffix(case.images[0])) for case in dataset.cases]
    # Evaluation takes the names from here, and the value of voxels that count nowhere.
    description = folder / "dataset.json"
    with sole_writer(*volumes, description):
        with progress_bar(console, "surveys", len(dataset.cases)) as bar:
            for case, path in zip(dataset.cases, volumes, strict=True):
                assert isinstance(case.label, Interpretation)
                layers = case.label.open()
                with create_volume(path, layers.header, layers.dtype) as volume:
                    layers.write(volume)
                bar.advance()
                yield path
        labels = {"background": 0} | (dataset.labels or {})
        with atomic_write(description) as temporary:
            temporary.write_text(json.dumps({"labels": labels}), encoding="utf-8")
        yield description
