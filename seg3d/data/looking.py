"""Reading a case once, slab by slab: which labels it has, and which intensities."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import numpy as np

from seg3d.common.errors import UserError
from seg3d.data.draw import Draw
from seg3d.data.images import not_finite
from seg3d.io import (
    LARGEST_LABEL,
    UNLABELLED,
    Interpretation,
    NotLabels,
    Region,
    VolumeReader,
    portions,
)
from seg3d.io.regions import STREAMING_ORDERS
from seg3d.plan import MOST_CLASSES


def count_labels(path: Path | Interpretation, label: VolumeReader) -> dict[int, int]:
    """Voxels of every value.

    Args:
        path: for messages.
        label: what a `LabelReader` gives.

    Raises:
        UserError: if the file is damaged.
        NotLabels: if values are no labels, or none that can be counted.
    """
    extremes: list[int] = []
    counts = np.zeros(LARGEST_LABEL + 1, dtype=np.int64)
    for region in portions(label.header.grid.shape, label.slow_axis):
        values = _flat(label.read(region), label.slow_axis)[0]
        values = values[values != UNLABELLED]
        if not len(values):
            continue
        extremes += int(values.min()), int(values.max())
        if 0 <= extremes[-2] <= extremes[-1] <= LARGEST_LABEL:
            found = np.bincount(values)
            counts[: len(found)] += found
    if extremes and not 0 <= min(extremes) <= max(extremes) <= LARGEST_LABEL:
        raise NotLabels(
            f"{path} holds label values that cannot be used",
            given=f"values from {min(extremes)} to {max(extremes)}",
            legal=f"0 to {LARGEST_LABEL}",
            fix="check that this is the label file and not an image; renumber the labels, or leave "
            "them to data.labels.rest",
        )
    return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}


def require_named(
    path: Path | Interpretation, labels: dict[int, int], legal: set[int] | None
) -> None:
    """Require that all label values have a name.

    Args:
        path: for the message.
        labels: voxels of every value.
        legal: values that have one; None if they need none.

    Raises:
        UserError: if one has none.
    """
    if legal is not None and (wrong := sorted(set(labels) - legal)):
        raise UserError(
            f"{path} holds label values that the dataset does not name",
            given=", ".join(f"{value} ({labels[value]} voxels)" for value in wrong[:10]),
            legal=", ".join(map(str, sorted(legal))),
            fix="add them to data.labels (or to the labels of dataset.json), correct the file, or "
            "take them all for background (data.labels.rest=background)",
        )


def require_few(path: Path | Interpretation, labels: dict[int, int]) -> None:
    """Require that there are not more label values than classes can be.

    Raises:
        NotLabels: if there are.
    """
    if len(labels) > MOST_CLASSES:
        raise NotLabels(
            f"{path} holds {len(labels)} different values",
            legal=f"at most {MOST_CLASSES} classes",
            fix="check that this is the label file and not an image",
        )


class Intensities(NamedTuple):
    """What was seen in an image.

    Attributes:
        not_finite: per channel, the number of values that are NaN or infinite.
        zero_fraction: share of voxels that are zero in all channels.
        lowest, highest: per channel, of the finite values; infinite the wrong way if there is none.
        digests: of the voxels of each channel; the same for files that hold the same numbers on a
            grid of the same shape and are read along the same axis, whatever their number types and
            compression.
    """

    not_finite: tuple[int, ...]
    zero_fraction: float
    lowest: tuple[float, ...]
    highest: tuple[float, ...]
    digests: tuple[str, ...]


class ForegroundDraw:
    """Intensities drawn from the voxels in which there is something to be found.

    Args:
        label: open, along the axes of the image.
        labels: voxels of every value in it.
        background: values that mark nothing to be found.
        most: voxels to be drawn.
        seed: of the draw.
    """

    def __init__(
        self,
        label: VolumeReader,
        labels: dict[int, int],
        background: Collection[int],
        most: int,
        seed: int,
    ) -> None:
        found = sum(count for value, count in labels.items() if value not in background)
        self._label = label
        self._nothing = [*background, UNLABELLED]
        self._draw = Draw(found, most, seed)
        self._drawn: list[np.ndarray] = []

    def add(self, region: Region, voxels: np.ndarray, slow_axis: int) -> None:
        """Draw from a region's voxels `(C, N)`, flat along this axis."""
        inside = ~np.isin(_flat(self._label.read(region), slow_axis)[0], self._nothing)
        places = np.flatnonzero(inside)
        self._drawn.append(voxels[:, places[self._draw.among(len(places))]].T)

    @property
    def drawn(self) -> np.ndarray:
        """What has been drawn, `(N, C)`."""
        return np.concatenate(self._drawn)


def look_at_intensities(image: VolumeReader, draw: ForegroundDraw | None = None) -> Intensities:
    """Read all voxels of an image, once.

    Args:
        image: what an `ImageReader` gives.
        draw: sees every voxel as well.

    Raises:
        UserError: if the file is damaged.
    """
    zeros = 0
    shape, channels = image.header.grid.shape, image.header.channels
    wrong = np.zeros(channels, dtype=np.int64)
    lowest, highest = np.full(channels, np.inf), np.full(channels, -np.inf)
    # A channel at a time, so that the cut into slabs does not matter.
    start = repr(shape).encode()
    digests = [hashlib.blake2b(start, digest_size=16) for _ in range(channels)]
    for region in portions(shape, image.slow_axis):
        voxels = _flat(image.read(region), image.slow_axis)
        zeros += int(np.count_nonzero((voxels == 0).all(0)))
        used: np.ndarray | bool = True
        if not_finite(voxels):
            used = np.isfinite(voxels)
            wrong += np.count_nonzero(~used, axis=1)
        lowest = np.minimum(lowest, voxels.min(1, where=used, initial=np.inf))
        highest = np.maximum(highest, voxels.max(1, where=used, initial=-np.inf))
        for digest, row in zip(digests, voxels, strict=True):
            digest.update(np.ascontiguousarray(row).data)
        if draw is not None:
            draw.add(region, voxels, image.slow_axis)
    return Intensities(
        tuple(wrong.tolist()),
        zeros / math.prod(shape),
        tuple(lowest.tolist()),
        tuple(highest.tolist()),
        tuple(digest.hexdigest() for digest in digests),
    )


def _flat(block: np.ndarray, slow_axis: int) -> np.ndarray:
    """A block `(C, x, y, z)` as `(C, N)` in an order in which slabs lie one behind the other."""
    order = STREAMING_ORDERS[slow_axis]
    return block.transpose(0, *(1 + axis for axis in order)).reshape(len(block), -1)
