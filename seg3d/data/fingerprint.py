"""A look at all training data: is every case usable, and what are they like?

What nnU-Net calls verification and fingerprint. Volumes are read in slabs, labels twice and images
once, so that their size does not matter.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from nibabel import orientations

from seg3d.common.errors import UserError
from seg3d.config import Rest
from seg3d.data.cases import Case, Dataset
from seg3d.data.draw import Draw, seed_of
from seg3d.data.images import ImageReader, not_finite, require_finite
from seg3d.data.reference import label_rest
from seg3d.geometry import Grid
from seg3d.io import LARGEST_LABEL, UNLABELLED, Interpretation, LabelReader, VolumeReader, portions
from seg3d.io.regions import STREAMING_ORDERS
from seg3d.io.reoriented import on_grid_of
from seg3d.plan import MOST_CLASSES, CaseFingerprint

# Voxels drawn per case for the intensity statistics, as in nnU-Net.
SAMPLES_PER_CASE = 10_000
# Cases that a message names.
SHOWN = 10


def take_fingerprints(
    dataset: Dataset,
    orientation: str,
    legal: set[int] | None,
    background: set[int],
    *,
    channels: Sequence[str] | None = None,
    rest: Rest | None = None,
    advance: Callable[[], object] = lambda: None,
) -> dict[str, CaseFingerprint]:
    """Read and check every labelled case.

    Args:
        dataset: the cases.
        orientation: axis codes to report shapes and spacings in, or ``none``.
        legal: label values that have a name; None if they need none.
        background: label values that mark nothing to be found.
        channels: names of those that every image should have; by default as many as most have.
        rest: what label values without a name are; by default mistakes.
        advance: called after each case, for a progress bar.

    Returns:
        The fingerprint of each case by its name.

    Raises:
        UserError: listing every case that cannot be used, with the reason.
    """

    counts: dict[str, int] = {}
    others = label_rest(legal or set(), rest)

    def look(case: Case) -> CaseFingerprint | UserError:
        try:
            with ImageReader(case.images) as image:
                counts[case.name] = image.header.channels
                assert case.label is not None
                with LabelReader(case.label, others) as stored:
                    label = on_grid_of(case.images[0], image.header.grid, case.label, stored)
                    return _fingerprint_case(case, image, label, orientation, legal, background)
        except UserError as error:
            return error
        finally:
            advance()

    with ThreadPoolExecutor(max_workers=4) as pool:
        found = list(pool.map(look, dataset.cases))
    wrong = {
        case.name: error
        for case, error in zip(dataset.cases, found, strict=True)
        if isinstance(error, UserError)
    }
    said = [str(error) for error in wrong.values()][:SHOWN]
    if len(wrong) > SHOWN:
        said.append(f"... and {len(wrong) - SHOWN} more")
    odd, about_channels = _with_other_channels(dataset.cases, counts, channels)
    if unusable := wrong.keys() | odd:
        listed = "\n".join(said + about_channels)
        raise UserError(f"{len(unusable)} of {len(found)} labelled cases cannot be used:\n{listed}")
    return {
        case.name: fingerprint
        for case, fingerprint in zip(dataset.cases, found, strict=True)
        if isinstance(fingerprint, CaseFingerprint)
    }


def require_foreground(
    dataset: Dataset, fingerprints: dict[str, CaseFingerprint], background: set[int]
) -> None:
    """Require that there is something to be found in a dataset.

    Raises:
        UserError: if there is not.
    """
    if not any(value not in background for one in fingerprints.values() for value in one.labels):
        raise UserError(
            f"no voxel of {dataset.source} carries a label other than background",
            fix="check the label files, or data.labels",
        )


def _with_other_channels(
    cases: Sequence[Case], counts: dict[str, int], names: Sequence[str] | None
) -> tuple[set[str], list[str]]:
    """The cases whose images have another number of channels than they should, also in words.

    Args:
        cases: all of them.
        counts: of the channels of those that could be opened.
        names: of the channels; None: as many as most have.
    """
    if names is None:
        [(count, _)] = Counter(counts.values()).most_common(1) or [(0, 0)]
        legal, fix = f"{count}, as in the other cases", "add what is missing"
    else:
        count = len(names)
        legal = f"{count} ({', '.join(names)})"
        fix = "add what is missing, correct the names of the channels"
    odd = [case for case in cases if counts.get(case.name, count) != count]
    if not odd:
        return set(), []
    given = [
        f"{case.name} has {counts[case.name]} ({', '.join(path.name for path in case.images)})"
        for case in odd[:SHOWN]
    ]
    more = [f"and {len(odd) - SHOWN} more"] if len(odd) > SHOWN else []
    error = UserError(
        f"{len(odd)} of {len(counts)} images have another number of channels",
        given="; ".join(given + more),
        legal=legal,
        fix=f"{fix}, or take these cases out",
    )
    return {case.name for case in odd}, [str(error)]


def _fingerprint_case(
    case: Case,
    image: ImageReader,
    label: VolumeReader,
    orientation: str,
    legal: set[int] | None,
    background: set[int],
) -> CaseFingerprint:
    assert case.label is not None
    grid = image.header.grid
    labels = _count_labels(case.label, label)
    _require_usable(case.label, labels, legal)
    seen = _look_at_intensities(case, image, label, labels, background)
    order = _axis_order(grid, orientation)
    return CaseFingerprint(
        shape=(grid.shape[order[0]], grid.shape[order[1]], grid.shape[order[2]]),
        spacing=(grid.spacing[order[0]], grid.spacing[order[1]], grid.spacing[order[2]]),
        labels=labels,
        zero_fraction=seen.zeros / math.prod(grid.shape),
        foreground=seen.foreground,
        lowest=seen.lowest,
        highest=seen.highest,
        digest=seen.digest,
        units=(grid.units[order[0]], grid.units[order[1]], grid.units[order[2]]),
        notes=image.header.notes + label.header.notes,
    )


def _count_labels(path: Path | Interpretation, label: VolumeReader) -> dict[int, int]:
    """Voxels of every value."""
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
        raise UserError(
            f"{path} holds label values that cannot be used",
            given=f"values from {min(extremes)} to {max(extremes)}",
            legal=f"0 to {LARGEST_LABEL}",
            fix="check that this is the label file and not an image; renumber the labels, or leave "
            "them to data.labels.rest",
        )
    return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}


def _require_usable(
    path: Path | Interpretation, labels: dict[int, int], legal: set[int] | None
) -> None:
    if legal is not None and (wrong := sorted(set(labels) - legal)):
        raise UserError(
            f"{path} holds label values that the dataset does not name",
            given=", ".join(f"{value} ({labels[value]} voxels)" for value in wrong[:10]),
            legal=", ".join(map(str, sorted(legal))),
            fix="add them to data.labels (or to the labels of dataset.json), correct the file, or "
            "take them all for background (data.labels.rest=background)",
        )
    if len(labels) > MOST_CLASSES:
        raise UserError(
            f"{path} holds {len(labels)} different values",
            legal=f"at most {MOST_CLASSES} classes",
            fix="check that this is the label file and not an image",
        )


class _Intensities(NamedTuple):
    """What was seen in an image.

    Attributes:
        zeros: the number of voxels that are zero in all channels.
        foreground: a draw from the voxels with something to be found, `(N, C)`.
        lowest, highest: per channel.
        digest: of all voxels; the same for files that hold the same numbers on a grid of the same
            shape and are read along the same axis, whatever their number types and compression.
    """

    zeros: int
    foreground: np.ndarray
    lowest: tuple[float, ...]
    highest: tuple[float, ...]
    digest: str


def _look_at_intensities(
    case: Case,
    image: ImageReader,
    label: VolumeReader,
    labels: dict[int, int],
    background: set[int],
) -> _Intensities:
    found = sum(count for value, count in labels.items() if value not in background)
    nothing = [*background, UNLABELLED]
    draw = Draw(found, SAMPLES_PER_CASE, seed_of(case.name))
    wrong = zeros = 0
    foreground = []
    channels = image.header.channels
    lowest, highest = np.full(channels, np.inf), np.full(channels, -np.inf)
    # A channel at a time, so that the cut into slabs does not matter.
    start = repr(image.header.grid.shape).encode()
    digests = [hashlib.blake2b(start, digest_size=16) for _ in range(channels)]
    for region in portions(image.header.grid.shape, image.slow_axis):
        voxels = _flat(image.read(region), image.slow_axis)
        inside = ~np.isin(_flat(label.read(region), image.slow_axis)[0], nothing)
        wrong += not_finite(voxels)
        zeros += int(np.count_nonzero((voxels == 0).all(0)))
        lowest = np.minimum(lowest, voxels.min(1))
        highest = np.maximum(highest, voxels.max(1))
        for digest, row in zip(digests, voxels, strict=True):
            digest.update(np.ascontiguousarray(row).data)
        places = np.flatnonzero(inside)
        foreground.append(voxels[:, places[draw.among(len(places))]].T)
    require_finite(case.images, wrong)
    return _Intensities(
        zeros,
        np.concatenate(foreground),
        tuple(lowest.tolist()),
        tuple(highest.tolist()),
        "".join(digest.hexdigest() for digest in digests),
    )


def _flat(block: np.ndarray, slow_axis: int) -> np.ndarray:
    """A block `(C, x, y, z)` as `(C, N)` in an order in which slabs lie one behind the other."""
    order = STREAMING_ORDERS[slow_axis]
    return block.transpose(0, *(1 + axis for axis in order)).reshape(len(block), -1)


def _axis_order(grid: Grid, orientation: str) -> list[int]:
    """For each axis of the working orientation, the axis of the file that it comes from."""
    if orientation == "none":
        return [0, 1, 2]
    have = orientations.io_orientation(grid.affine)
    want = orientations.axcodes2ornt(tuple(orientation))
    change = orientations.ornt_transform(have, want)
    return [int(np.flatnonzero(change[:, 0] == axis)[0]) for axis in range(3)]
