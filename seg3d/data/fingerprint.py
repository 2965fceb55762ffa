"""A look at all training data: is every case usable, and what are they like?

What nnU-Net calls verification and fingerprint. Volumes are read in slabs, labels twice and images
once, so that their size does not matter.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
from nibabel import orientations

from seg3d.common.errors import UserError
from seg3d.common.threads import in_threads
from seg3d.config import Rest
from seg3d.data.cases import Case, Dataset
from seg3d.data.draw import seed_of
from seg3d.data.images import ImageReader, require_finite
from seg3d.data.looking import (
    ForegroundDraw,
    count_labels,
    look_at_intensities,
    require_few,
    require_named,
)
from seg3d.data.reference import label_rest
from seg3d.geometry import Grid
from seg3d.io import LabelReader, LabelRest, VolumeReader
from seg3d.io.reoriented import on_grid_of
from seg3d.plan import CaseFingerprint, Labelled

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
            with _open_case(case, others, counts) as (image, label):
                return _fingerprint_case(case, image, label, orientation, legal, background)
        except UserError as error:
            return error
        finally:
            advance()

    found = in_threads(look, dataset.cases)
    _require_usable(dataset.cases, found, counts, channels)
    return {
        case.name: fingerprint
        for case, fingerprint in zip(dataset.cases, found, strict=True)
        if isinstance(fingerprint, CaseFingerprint)
    }


def require_fitting_headers(
    dataset: Dataset, channels: Sequence[str] | None, advance: Callable[[], object] = lambda: None
) -> None:
    """Look at the headers of every labelled case, in which most of what is wrong can be seen.

    It takes moments, where `take_fingerprints` reads every voxel.

    Args:
        dataset: the cases.
        channels: names of those that every image should have; by default as many as most have.
        advance: called after each case, for a progress bar.

    Raises:
        UserError: listing the cases whose files are missing or do not fit each other.
    """
    counts: dict[str, int] = {}

    def look(case: Case) -> UserError | None:
        try:
            with _open_case(case, None, counts):
                return None
        except UserError as error:
            return error
        finally:
            advance()

    fix = shlex.join(["seg3d", "check", str(dataset.source)])
    found = in_threads(look, dataset.cases)
    _require_usable(dataset.cases, found, counts, channels, f"{fix} looks at the voxels as well")


@contextmanager
def _open_case(
    case: Case, rest: LabelRest | None, counts: dict[str, int]
) -> Iterator[tuple[ImageReader, VolumeReader]]:
    """Image and label on one grid; how many channels the image has is written to ``counts``."""
    assert case.label is not None
    with ImageReader(case.images) as image:
        counts[case.name] = image.header.channels
        with LabelReader(case.label, rest) as label:
            yield image, on_grid_of(case.images[0], image.header.grid, case.label, label)


def _require_usable(
    cases: Sequence[Case],
    found: Sequence[object],
    counts: Mapping[str, int],
    channels: Sequence[str] | None,
    fix: str | None = None,
) -> None:
    """Require that nothing that was found of the cases is an error, and all have equal channels."""
    wrong = {
        case.name: error
        for case, error in zip(cases, found, strict=True)
        if isinstance(error, UserError)
    }
    said = [str(error) for error in wrong.values()][:SHOWN]
    if len(wrong) > SHOWN:
        said.append(f"... and {len(wrong) - SHOWN} more")
    odd, about_channels = with_other_channels(cases, counts, channels)
    if about_channels is not None:
        said.append(str(about_channels))
    if unusable := wrong.keys() | odd.keys():
        listed = "\n".join(said)
        problem = f"{len(unusable)} of {len(found)} labelled cases cannot be used:\n{listed}"
        raise UserError(problem, fix=fix)


def require_foreground(
    dataset: Dataset, fingerprints: Mapping[str, Labelled], background: set[int]
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


def with_other_channels(
    cases: Sequence[Case], counts: Mapping[str, int], names: Sequence[str] | None
) -> tuple[dict[str, str], UserError | None]:
    """The cases whose images have another number of channels than they should.

    Args:
        cases: all of them.
        counts: of the channels of those that could be opened.
        names: of the channels; None: as many as most have.

    Returns:
        What each of these cases has, in words, by its name; and the error that they are.
    """
    if names is None:
        [(count, _)] = Counter(counts.values()).most_common(1) or [(0, 0)]
        legal, fix = f"{count}, as in the other cases", "add what is missing"
    else:
        count = len(names)
        legal = f"{count} ({', '.join(names)})"
        fix = "add what is missing, correct the names of the channels"
    odd = {
        case.name: f"{counts[case.name]} ({', '.join(path.name for path in case.images)})"
        for case in cases
        if counts.get(case.name, count) != count
    }
    if not odd:
        return {}, None
    given = [f"{name} has {has}" for name, has in odd.items()]
    more = [f"and {len(odd) - SHOWN} more"] if len(odd) > SHOWN else []
    return odd, UserError(
        f"{len(odd)} of {len(counts)} images have another number of channels",
        given="; ".join(given[:SHOWN] + more),
        legal=legal,
        fix=f"{fix}, or take these cases out",
    )


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
    labels = count_labels(case.label, label)
    require_named(case.label, labels, legal)
    require_few(case.label, labels)
    draw = ForegroundDraw(label, labels, background, SAMPLES_PER_CASE, seed_of(case.name))
    seen = look_at_intensities(image, draw)
    require_finite(case.images, sum(seen.not_finite))
    order = _axis_order(grid, orientation)
    return CaseFingerprint(
        shape=(grid.shape[order[0]], grid.shape[order[1]], grid.shape[order[2]]),
        spacing=(grid.spacing[order[0]], grid.spacing[order[1]], grid.spacing[order[2]]),
        labels=labels,
        zero_fraction=seen.zero_fraction,
        foreground=draw.drawn,
        lowest=seen.lowest,
        highest=seen.highest,
        digest="".join(seen.digests),
        units=(grid.units[order[0]], grid.units[order[1]], grid.units[order[2]]),
        notes=image.header.notes + label.header.notes,
    )


def _axis_order(grid: Grid, orientation: str) -> list[int]:
    """For each axis of the working orientation, the axis of the file that it comes from."""
    if orientation == "none":
        return [0, 1, 2]
    have = orientations.io_orientation(grid.affine)
    want = orientations.axcodes2ornt(tuple(orientation))
    change = orientations.ornt_transform(have, want)
    return [int(np.flatnonzero(change[:, 0] == axis)[0]) for axis in range(3)]
