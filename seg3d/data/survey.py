"""One pass over the training data: is every case usable, and what are they like?

What nnU-Net calls verification and fingerprint, in a single reading of the files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from nibabel import orientations

from seg3d.data.cases import Case, Dataset
from seg3d.errors import UserError
from seg3d.geometry import Grid, Shape3, Vector3
from seg3d.io import LARGEST_LABEL, Volume, read_labels, read_volume

# Voxels drawn per case for the intensity statistics, as in nnU-Net.
SAMPLES_PER_CASE = 10_000
# Label files of more classes than this are most likely images.
MOST_CLASSES = 254


@dataclass(frozen=True)
class CaseSurvey:
    """What was seen in one case.

    Attributes:
        shape: voxels, in the orientation that training works in.
        spacing: mm, likewise.
        labels: value in the label file to the number of its voxels.
        zero_fraction: share of voxels that are exactly zero in all channels.
        foreground: `(N, C)` intensities drawn from voxels with something to be found.
    """

    shape: Shape3
    spacing: Vector3
    labels: dict[int, int]
    zero_fraction: float
    foreground: np.ndarray


def survey_dataset(
    dataset: Dataset,
    orientation: str,
    legal: set[int] | None,
    background: set[int],
    advance: Callable[[], object] = lambda: None,
) -> dict[str, CaseSurvey]:
    """Read and check every labelled case.

    Args:
        dataset: the cases.
        orientation: axis codes to report shapes and spacings in, or ``none``.
        legal: label values that may occur; None if any may.
        background: label values that mark nothing to be found.
        advance: called after each case, for a progress bar.

    Returns:
        The survey of each case by its name.

    Raises:
        UserError: listing every case that cannot be used, with the reason.
    """

    def look(case: Case) -> CaseSurvey | UserError:
        try:
            return _survey_case(case, orientation, legal, background)
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
    surveys = {
        case.name: survey
        for case, survey in zip(dataset.cases, found, strict=True)
        if isinstance(survey, CaseSurvey)
    }
    _require_same_channels(surveys)
    if not any(value not in background for one in surveys.values() for value in one.labels):
        raise UserError(
            f"no voxel of {dataset.source} carries a label other than background",
            fix="check the label files, or data.labels",
        )
    return surveys


def _require_same_channels(surveys: dict[str, CaseSurvey]) -> None:
    channels = {name: survey.foreground.shape[1] for name, survey in surveys.items()}
    [(usual, _)] = Counter(channels.values()).most_common(1)
    if odd := {name: count for name, count in channels.items() if count != usual}:
        raise UserError(
            f"{len(odd)} of {len(channels)} labelled cases have another number of channels",
            given=", ".join(f"{name} {count}" for name, count in list(odd.items())[:10]),
            legal=f"{usual}, as in the other cases",
            fix="add what is missing, or take these cases out",
        )


def read_case_images(images: tuple[Path, ...]) -> Volume:
    """Read the channels of a case as one `(C, X, Y, Z)` float32 volume.

    Raises:
        UserError: if channels lie on different grids or hold values that are not finite.
    """
    volumes = [read_volume(path) for path in images]
    first = volumes[0]
    for path, volume in zip(images[1:], volumes[1:], strict=True):
        require_same_grid(images[0], first.grid, path, volume.grid)
    array = np.concatenate([volume.array for volume in volumes], dtype=np.float32, casting="unsafe")
    if count := array.size - np.count_nonzero(np.isfinite(array)):
        raise UserError(
            f"{', '.join(map(str, images))} holds {count} voxels that are NaN or infinite",
            legal="finite numbers",
            fix="replace them (for example by the smallest value of the volume)",
        )
    return Volume(array, first.header)


def _survey_case(
    case: Case, orientation: str, legal: set[int] | None, background: set[int]
) -> CaseSurvey:
    assert case.label is not None
    image = read_case_images(case.images)
    label = read_labels(case.label)
    require_same_grid(case.images[0], image.grid, case.label, label.grid)
    values, counts = np.unique(label.array, return_counts=True)
    labels = {int(value): int(count) for value, count in zip(values, counts, strict=True)}
    if not 0 <= min(labels) <= max(labels) <= LARGEST_LABEL:
        raise UserError(
            f"{case.label} holds label values that cannot be used",
            given=f"values from {min(labels)} to {max(labels)}",
            legal=f"0 to {LARGEST_LABEL}",
            fix="check that this is the label file and not an image; renumber the labels",
        )
    if legal is not None and (wrong := sorted(set(labels) - legal)):
        raise UserError(
            f"{case.label} holds label values that the dataset does not name",
            given=", ".join(f"{value} ({labels[value]} voxels)" for value in wrong[:10]),
            legal=", ".join(map(str, sorted(legal))),
            fix="add them to data.labels (or to the labels of dataset.json), or correct the file",
        )
    if len(labels) > MOST_CLASSES:
        raise UserError(
            f"{case.label} holds {len(labels)} different values",
            legal=f"at most {MOST_CLASSES} classes",
            fix="check that this is the label file and not an image",
        )
    order = _axis_order(image.grid, orientation)
    shape, spacing = image.grid.shape, image.grid.spacing
    generator = np.random.default_rng(hash_of(case.name))
    # In the order of memory (x runs fastest in the files), so that flattening copies nothing.
    voxels = image.array.transpose(0, 3, 2, 1).reshape(len(image.array), -1)
    foreground = np.flatnonzero(~np.isin(label.array[0].T.reshape(-1), list(background)))
    drawn = generator.choice(foreground, min(SAMPLES_PER_CASE, foreground.size), replace=False)
    return CaseSurvey(
        shape=(shape[order[0]], shape[order[1]], shape[order[2]]),
        spacing=(spacing[order[0]], spacing[order[1]], spacing[order[2]]),
        labels=labels,
        zero_fraction=float((image.array == 0).all(0).mean()),
        foreground=voxels[:, drawn].T,
    )


def hash_of(text: str) -> int:
    """A number that depends on the text alone (Python's own hash changes from run to run)."""
    return int.from_bytes(text.encode(), "little") % (2**61 - 1)


def label_counts(surveys: dict[str, CaseSurvey]) -> dict[int, int]:
    """Voxels of every label value in the dataset."""
    total: Counter[int] = Counter()
    for survey in surveys.values():
        total.update(survey.labels)
    return dict(sorted(total.items()))


def _axis_order(grid: Grid, orientation: str) -> list[int]:
    """For each axis of the working orientation, the axis of the file that it comes from."""
    if orientation == "none":
        return [0, 1, 2]
    have = orientations.io_orientation(grid.affine)
    want = orientations.axcodes2ornt(tuple(orientation))
    change = orientations.ornt_transform(have, want)
    return [int(np.flatnonzero(change[:, 0] == axis)[0]) for axis in range(3)]


def require_same_grid(path: Path, grid: Grid, other_path: Path, other: Grid) -> None:
    """Require that the voxels of two files coincide.

    Raises:
        UserError: if they do not.
    """
    if differences := grid.differences(other):
        raise UserError(
            f"{path} and {other_path} do not lie on the same grid",
            given="; ".join(differences),
            legal="the same shape and affine",
            fix="resample one of them onto the other",
        )
