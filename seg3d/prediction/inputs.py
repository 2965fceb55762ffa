"""What a program may give to be segmented: files, arrays, volumes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from seg3d.common.errors import UserError
from seg3d.data.images import Image
from seg3d.io import Volume
from seg3d.io.in_ram import volume_of

Given = str | Path | Sequence[str | Path] | Volume | np.ndarray


def images_of(
    given: Given, spacing: Sequence[float] | None = None, affine: ArrayLike | None = None
) -> list[Image]:
    """The images of a case.

    Args:
        given: a file, one file per channel, an array `(X, Y, Z)` or `(C, X, Y, Z)`, or what
            `read_volume` gives.
        spacing: of an array, as for `volume_of`.
        affine: of an array, as for `volume_of`.

    Raises:
        UserError: if an array is not as `volume_of` wants it, or if something that says itself
            where its voxels lie is given a spacing or an affine.
    """
    if isinstance(given, np.ndarray):
        return [volume_of(given, spacing, affine)]
    if spacing is not None or affine is not None:
        raise UserError(
            "spacing and affine are for arrays: files and volumes say theirs themselves",
            given=given,
        )
    if isinstance(given, Volume):
        return [given]
    files = [given] if isinstance(given, str | Path) else given
    if not files or not all(isinstance(file, str | Path) for file in files):
        raise UserError(
            "this cannot be segmented",
            given=type(given).__name__,
            legal="a file, a list of files (one per channel), an array of NumPy or a Volume",
        )
    return [Path(file) for file in files]
