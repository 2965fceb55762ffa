"""Tasks in which a class is a number counted from afar, as of vertebrae, teeth and layers.

Volumes are long and narrow, `(D, H, W)` with D pointing down: context is a matter of length.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from seg3d.benchmarks.training import Subject, Task
from seg3d.data.cohort import smooth_warp
from seg3d.geometry import Shape3
from seg3d.synth.model import draw_model

# Shares of the volume's length.
TOP = 0.04, 0.18  # above the first band
PITCH = 0.11, 0.14  # from one band to the next, equal within a volume
FEWEST_BANDS, MOST_BANDS = 4, 6
FILLED = 0.6  # of the pitch; the rest is a gap that looks as what is above and below
NOISE, BLUR = 0.4, 0.7  # standard deviation, bands being 1 above gaps; sigma in voxels
DEEPEST_FORMATION = 3
SEED = 7  # of surveys


def make_bands(number: int, shape: Shape3) -> tuple[np.ndarray, np.ndarray]:
    """A stack of alike bands between alike surroundings, bent, shifted and scaled at random.

    A volume has four to six of them, so that they cannot be counted from below.

    Args:
        number: of the volume; the same number gives the same one.
        shape: of the volume, in voxels.

    Returns:
        The image, and of every voxel the number of its band from the top, or 0; both `(D, H, W)`.
    """
    rng = np.random.default_rng(number)
    depth = smooth_warp(shape, rng)[0] / shape[0]
    count = rng.integers(FEWEST_BANDS, MOST_BANDS + 1)
    place = (depth - rng.uniform(*TOP)) / rng.uniform(*PITCH)
    inside = (place > 0) & (place < count) & (place % 1 < FILLED)
    image = ndimage.gaussian_filter(inside.astype(np.float32), BLUR)
    image += NOISE * rng.standard_normal(shape, dtype=np.float32)
    return image, np.where(inside, np.floor(place) + 1, 0).astype(np.int16)


def make_formations(number: int, shape: Shape3) -> tuple[np.ndarray, np.ndarray]:
    """A survey as of ``seg3d synth layers``, its units numbered from the top.

    The unit in the middle of the top has number 0, as has what lies above it elsewhere, the one
    below it 1, and so on to `DEEPEST_FORMATION`, which is also all that is below.

    Args:
        number: of the volume; the same number gives the same one.
        shape: of the volume, in voxels; D is time.

    Returns:
        Amplitudes, and of every voxel the number of its unit; both `(D, H, W)`.
    """
    rng = np.random.default_rng([SEED, number])
    survey = shape[1], shape[2], shape[0]
    model = draw_model(rng, survey, units=True)
    image = model.render(survey, rng).image
    changes = np.diff(model.strata.facies.astype(int)) != 0
    unit_of_layer = np.concatenate([[0], np.cumsum(changes)])
    depth, _ = model.undo(np.indices(survey, np.float32))
    unit = unit_of_layer[np.searchsorted(model.strata.interfaces, depth)]
    first = unit[shape[1] // 2, shape[2] // 2, 0]
    numbers = np.clip(unit - first, 0, DEEPEST_FORMATION).astype(np.int16)
    return np.moveaxis(image, 2, 0), np.moveaxis(numbers, 2, 0)


MAKERS = {"bands": (make_bands, MOST_BANDS), "formations": (make_formations, DEEPEST_FORMATION)}


def numbered(name: str, shape: Shape3) -> Task:
    """One of the tasks in `MAKERS`, with volumes of a shape."""
    make, last = MAKERS[name]
    return Task(
        tuple(str(number) for number in range(1, last + 1)),
        lambda number: Subject.of_arrays(*make(number, shape)),
    )
