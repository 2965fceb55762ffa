"""A synthetic abdomen in CT: organs of known shape that brightness alone does not tell apart.

The noise is as large as the differences between organs, and each labelled organ has a double that
belongs to the background: the spleen is nearly as bright as the liver, the bowel as the kidneys,
the aorta as the lesions. Place, size and surroundings decide.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import numpy as np
from scipy import ndimage

from seg3d.benchmarks.training import Subject, Task
from seg3d.data.cohort import smooth_warp

SHAPE = (40, 52, 60)  # axial slices; rows from front to back; columns from the patient's right
WINDOW = (-160, 240)  # HU, the usual window for the abdomen
AIR = -1000
MOVE = 1.5  # largest shift of an organ along each axis, in voxels
RESIZE = 0.1  # largest change of its half axes, as a share
RECOLOUR = 6.0  # largest change of its brightness, in HU
BLUR = 0.8  # sigma of the scanner's point spread, in voxels
NOISE, GRAIN = 20.0, 0.8  # standard deviation in HU, and sigma of its correlation in voxels
LIVER, KIDNEYS, LESIONS = 1, 2, 3
LESION_COUNT = (2, 5)  # from two up to four
LESION_RADIUS = (2.5, 4.0)  # voxels
LESION_HU = 130.0


@dataclass(frozen=True)
class Organ:
    """An ellipsoid; ``centre`` and ``half_axes`` in voxels, endless along an axis if infinite."""

    hounsfield: float
    centre: tuple[float, float, float]
    half_axes: tuple[float, float, float]
    label: int = 0


# Later ones cover earlier ones.
ORGANS = (
    Organ(-100, (20, 26, 30), (inf, 25, 29)),  # fat under the skin
    Organ(50, (20, 26, 30), (inf, 22, 26)),  # muscle
    Organ(-90, (20, 25, 30), (inf, 18, 22)),  # fat of the cavity
    Organ(180, (20, 40, 30), (inf, 5, 5)),  # spine
    Organ(85, (30, 16, 37), (6, 5, 8)),  # bowel
    Organ(85, (10, 19, 39), (5, 6, 6)),
    Organ(85, (33, 21, 22), (5, 5, 6)),
    Organ(55, (15, 28, 47), (9, 6, 4)),  # spleen
    Organ(65, (18, 22, 20), (12, 10, 10), LIVER),
    Organ(95, (26, 33, 21), (8, 4.5, 4.5), KIDNEYS),
    Organ(95, (24, 33, 41), (8, 4.5, 4.5), KIDNEYS),
    Organ(130, (20, 32, 31), (inf, 3, 3)),  # aorta
)


def make_phantom(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Make the phantom of that number, the same whenever it is asked for.

    Returns:
        The image in HU, within `WINDOW`, and the class numbers, both `(D, H, W)`.
    """
    rng = np.random.default_rng(number)
    where = smooth_warp(SHAPE, rng)
    hounsfield = np.full(SHAPE, AIR, np.float32)
    labels = np.zeros(SHAPE, np.int16)
    for organ in ORGANS:
        centre = np.add(organ.centre, rng.uniform(-MOVE, MOVE, 3))
        inside = _ellipsoid(where, centre, np.array(organ.half_axes) * _about_one(rng))
        hounsfield[inside] = organ.hounsfield + rng.uniform(-RECOLOUR, RECOLOUR)
        labels[inside] = organ.label
    liver = labels == LIVER
    for centre, radius in _lesions(liver, rng):
        inside = _ellipsoid(np.indices(SHAPE), centre, radius * _about_one(rng)) & liver
        hounsfield[inside] = LESION_HU + rng.uniform(-RECOLOUR, RECOLOUR)
        labels[inside] = LESIONS
    image = ndimage.gaussian_filter(hounsfield, BLUR) + _noise(rng)
    return np.clip(image, *WINDOW), labels


def _about_one(rng: np.random.Generator) -> np.ndarray:
    return 1 + rng.uniform(-RESIZE, RESIZE, 3)


def _ellipsoid(where: np.ndarray, centre: np.ndarray, half_axes: np.ndarray) -> np.ndarray:
    """Which of the positions `(3, D, H, W)` lie inside."""
    column = (3, 1, 1, 1)
    return (((where - centre.reshape(column)) / half_axes.reshape(column)) ** 2).sum(0) < 1


def _lesions(liver: np.ndarray, rng: np.random.Generator) -> list[tuple[np.ndarray, float]]:
    """Centres, some way below the liver's surface, and radii of lesions, in voxels."""
    deep = np.argwhere(ndimage.distance_transform_edt(liver) >= LESION_RADIUS[0])
    centres = rng.choice(deep, rng.integers(*LESION_COUNT), replace=False)
    return [(centre, rng.uniform(*LESION_RADIUS)) for centre in centres]


def _noise(rng: np.random.Generator) -> np.ndarray:
    """Correlated from voxel to voxel, as reconstruction leaves it."""
    noise = ndimage.gaussian_filter(rng.standard_normal(SHAPE, dtype=np.float32), GRAIN)
    return NOISE * noise / noise.std()


PHANTOM = Task(
    ("liver", "kidneys", "lesions"), lambda number: Subject.of_arrays(*make_phantom(number))
)
