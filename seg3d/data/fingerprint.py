"""A look at all training data: is every case usable, and what are they like?

What nnU-Net calls verification and fingerprint. Volumes are read in slabs, labels twice and images
once, so that their size does not matter.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from nibabel import orientations

from seg3d.common.errors import UserError
from seg3d.data.cases import Case, Dataset
from seg3d.data.draw import Draw, seed_of
from seg3d.data.images import ImageReader, not_finite, require_finite, require_same_grid
from seg3d.geometry import Grid
from seg3d.io import LARGEST_LABEL, UNLABELLED, Interpretation, LabelReader, portions
from seg3d.io.regions import STREAMING_ORDERS
from seg3d.plan import MOST_CLASSES, CaseFingerprint

# Voxels drawn per case for the intensity statistics, as in nnU-Net.
SAMPLES_PER_CASE = 10_000


def take_fingerprints(
    dataset: Dataset,
    orientation: str,
    legal: set[int] | None,
    background: set[int],
    advance: Callable[[], object] = lambda: None,
) -> dict[str, CaseFingerprint]:
    """Read and check every labelled case.

    Args:
        dataset: the cases.
        orientation: axis codes to report shapes and spacings in, or ``none``.
        legal: label values that may occur; None if any may.
        background: label values that mark nothing to be found.
        advance: called after each case, for a progress bar.

    Returns:
        The fingerprint of each case by its name.

    Raises:
        UserError: listing every case that cannot be used, with the reason.
    """

    def look(case: Case) -> CaseFingerprint | UserError:
        try:
            return _fingerprint_case(case, orientation, legal, background)
        except UserError as error:
            return error
        finally:
            advance()

    with ThreadPoolExecutor(max_workers=4) as pool:
        found = list(pool.map(look, dataset.cases))
    errors = [error for error in found if isinstance(error, UserError)]
    if errors:
        shown = "\n".join(str(error) for error in errors[:10])
        more = f"\n... and {len(errors) - 10} more" if len(errors) > 10 else ""
        raise UserError(
            f"{len(errors)} of {len(found)} labelled cases cannot be used:\n{shown}{more}"
        )
    fingerprints = {
        case.name: fingerprint
        for case, fingerprint in zip(dataset.cases, found, strict=True)
        if isinstance(fingerprint, CaseFingerprint)
    }
    _require_same_channels(fingerprints)
    return fingerprints


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


def _require_same_channels(fingerprints: dict[str, CaseFingerprint]) -> None:
    channels = {name: fingerprint.foreground.shape[1] for name, fingerprint in fingerprints.items()}
    [(usual, _)] = Counter(channels.values()).most_common(1)
    if odd := {name: count for name, count in channels.items() if count != usual}:
        raise UserError(
            f"{len(odd)} of {len(channels)} labelled cases have another number of channels",
            given=", ".join(f"{name} {count}" for name, count in list(odd.items())[:10]),
            legal=f"{usual}, as in the other cases",
            fix="add what is missing, or take these cases out",
        )


def _fingerprint_case(
    case: Case, orientation: str, legal: set[int] | None, background: set[int]
) -> CaseFingerprint:
    assert case.label is not None
    with ImageReader(case.images) as image, LabelReader(case.label) as label:
        grid = image.header.grid
        require_same_grid(case.images[0], grid, case.label, label.header.grid)
        labels = _count_labels(case.label, label)
        _require_usable(case.label, labels, legal)
        zeros, foreground = _look_at_intensities(case, image, label, labels, background)
    order = _axis_order(grid, orientation)
    return CaseFingerprint(
        shape=(grid.shape[order[0]], grid.shape[order[1]], grid.shape[order[2]]),
        spacing=(grid.spacing[order[0]], grid.spacing[order[1]], grid.spacing[order[2]]),
        labels=labels,
        zero_fraction=zeros / math.prod(grid.shape),
        foreground=foreground,
        units=(grid.units[order[0]], grid.units[order[1]], grid.units[order[2]]),
    )


def _count_labels(path: Path | Interpretation, label: LabelReader) -> dict[int, int]:
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
            fix="check that this is the label file and not an image; renumber the labels",
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
            fix="add them to data.labels (or to the labels of dataset.json), or correct the file",
        )
    if len(labels) > MOST_CLASSES:
        raise UserError(
            f"{path} holds {len(labels)} different values",
            legal=f"at most {MOST_CLASSES} classes",
            fix="check that this is the label file and not an image",
        )


def _look_at_intensities(
    case: Case,
    image: ImageReader,
    label: LabelReader,
    labels: dict[int, int],
    background: set[int],
) -> tuple[int, np.ndarray]:
    """The number of voxels that are zero in all channels, and a draw from the foreground."""
    found = sum(count for value, count in labels.items() if value not in background)
    nothing = [*background, UNLABELLED]
    draw = Draw(found, SAMPLES_PER_CASE, seed_of(case.name))
    wrong = zeros = 0
    foreground = []
    for region in portions(image.header.grid.shape, image.slow_axis):
        voxels = _flat(image.read(region), image.slow_axis)
        inside = ~np.isin(_flat(label.read(region), image.slow_axis)[0], nothing)
        wrong += not_finite(voxels)
        zeros += int(np.count_nonzero((voxels == 0).all(0)))
        places = np.flatnonzero(inside)
        foreground.append(voxels[:, places[draw.among(len(places))]].T)
    require_finite(case.images, wrong)
    return zeros, np.concatenate(foreground)


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
