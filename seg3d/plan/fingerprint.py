"""What a plan is made from: what the data are like, and what their source says about them.

`seg3d.data.fingerprint` takes it from the files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from seg3d.common.notes import Note
from seg3d.geometry import Shape3, Vector3

# Label files of more classes than this are most likely images.
MOST_CLASSES = 254


class Source(Protocol):
    """A folder or list that cases come from.

    Attributes:
        layout: how it was recognised, in words for people.
        source: the folder or list.
        channels: names of the channels, if it gives them.
        labels: class name to the value or values in the label files, if it gives them.
        regions_class_order: value to be written for each region, if it gives them.
    """

    @property
    def layout(self) -> str: ...
    @property
    def source(self) -> Path: ...
    @property
    def channels(self) -> tuple[str, ...] | None: ...
    @property
    def labels(self) -> dict[str, int | list[int]] | None: ...
    @property
    def regions_class_order(self) -> tuple[int, ...] | None: ...


@dataclass(frozen=True)
class CaseFingerprint:
    """What was seen in one case.

    Attributes:
        shape: voxels, in the orientation that training works in.
        spacing: in ``units``, likewise.
        labels: value in the label file to the number of its voxels.
        zero_fraction: share of voxels that are exactly zero in all channels.
        foreground: `(N, C)` intensities drawn from voxels with something to be found.
        lowest, highest: intensity of each channel.
        digest: of all voxels of the image, in the order in which they are read.
        units: of the spacing along each axis.
        notes: what is odd about the files.
    """

    shape: Shape3
    spacing: Vector3
    labels: dict[int, int]
    zero_fraction: float
    foreground: np.ndarray
    lowest: tuple[float, ...]
    highest: tuple[float, ...]
    digest: str
    units: tuple[str, str, str] = ("mm", "mm", "mm")
    notes: tuple[Note, ...] = ()


class Labelled(Protocol):
    """What has been looked at: voxels of every label value."""

    @property
    def labels(self) -> dict[int, int]: ...


def label_counts(fingerprints: Mapping[str, Labelled]) -> dict[int, int]:
    """Voxels of every label value in the dataset."""
    total: Counter[int] = Counter()
    for fingerprint in fingerprints.values():
        total.update(fingerprint.labels)
    return dict(sorted(total.items()))
