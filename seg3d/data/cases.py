"""What a dataset is to the rest of the program, whatever its layout on disk."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from seg3d.common.files import stamp
from seg3d.io import Interpretation

Split = Literal["train", "val", "test"]


@dataclass(frozen=True)
class Case:
    """One subject or survey.

    Attributes:
        name: unique within the dataset; outputs are named after it.
        images: one file per channel, or one file that holds all channels.
        label: the reference segmentation, if there is one: a volume, or horizons.
        split: the part that the dataset itself assigns the case to, if it does.
    """

    name: str
    images: tuple[Path, ...]
    label: Path | Interpretation | None = None
    split: Split | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """All that the case is made of."""
        if isinstance(self.label, Interpretation):
            return *self.images, *self.label.horizons
        return self.images if self.label is None else (*self.images, self.label)

    @property
    def stamp(self) -> str:
        """Changes when a file of the case is moved or written anew, or horizons are read otherwise.

        Nothing is read for it.
        """
        label = self.label
        reading = (
            (label.values, label.columns, label.scale, label.reach)
            if isinstance(label, Interpretation)
            else None
        )
        state = [reading, *(stamp(path) for path in self.files)]
        return hashlib.sha256(repr(state).encode()).hexdigest()


@dataclass(frozen=True)
class Dataset:
    """Cases found in a folder or list, and what that source says about them.

    Attributes:
        layout: how it was recognised, in words for people ("MSD", "nnU-Net", ...).
        source: the folder or list that was given.
        cases: cases with a label, for training and validation, sorted by name.
        test: cases without a label, or that the source sets aside for testing.
        channels: names of the channels, if the source gives them ("CT", "T1", ...).
        labels: class name to the value or values in the label files, if the source gives them.
        regions_class_order: value that is written for each region, if the source gives them.
        left_out: files that were seen and not used, each with the reason.
    """

    layout: str
    source: Path
    cases: tuple[Case, ...]
    test: tuple[Case, ...] = ()
    channels: tuple[str, ...] | None = None
    labels: dict[str, int | list[int]] | None = None
    regions_class_order: tuple[int, ...] | None = None
    left_out: tuple[tuple[str, str], ...] = ()
