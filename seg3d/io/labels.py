"""Label volumes: whole numbers, whatever number type the file uses."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from seg3d.common.errors import UserError
from seg3d.io.interpretation import Interpretation
from seg3d.io.regions import Region, VolumeReader, portions, whole
from seg3d.io.segy import Survey
from seg3d.io.volume import Volume, open_volume

# Counting every value takes a table of this length; label files need no more.
LARGEST_LABEL = 65535
# Labels are computed with as 32-bit integers.
LABEL_RANGE = np.iinfo(np.int32)
# What is read where a survey has no trace: neither a class nor background.
UNLABELLED = LABEL_RANGE.min
# Labels stored as floating point pick up dust on the way; more than this is not a label.
LABEL_ROUNDING = 1e-3


class LabelRest(NamedTuple):
    """What is read in place of values that nobody names.

    Attributes:
        named: values that stay what they are.
        becomes: what the others become, `UNLABELLED` among others.
    """

    named: frozenset[int]
    becomes: int


class NotLabels(UserError):
    """A volume cannot be one of labels, by its values or their number per voxel."""


class LabelReader(VolumeReader):
    """Labels, open; what it reads are integers of up to 32 bits, `UNLABELLED` for missing traces.

    Args:
        path: of the file, or horizons.
        rest: what is not named; by default all values stay.

    Attributes:
        stored_dtype: of the voxels in the file, scaled if the file asks for it.

    Raises:
        UserError: if the file cannot be opened.
        NotLabels: if it has more than one channel; by `read`, if values are not whole numbers of 32
            bits.
    """

    def __init__(self, path: str | Path | Interpretation, rest: LabelRest | None = None) -> None:
        self.path = path
        self._rest = rest
        self._named = np.array(sorted(rest.named) if rest else [])
        self._stored = path.open() if isinstance(path, Interpretation) else open_volume(path)
        self.header = self._stored.header
        self.slow_axis = self._stored.slow_axis
        self.dtype = self.stored_dtype = self._stored.dtype
        survey = self.header.native if isinstance(self.header.native, Survey) else None
        self._traces = None if survey is None or survey.mask.all() else survey.mask
        widened = self._traces is not None or (rest is not None and rest.becomes == UNLABELLED)
        if widened or not np.can_cast(self.dtype, np.int32):
            self.dtype = np.dtype(np.int32)
        if self.header.channels != 1:
            self.close()
            raise NotLabels(
                f"{path} is used as a label but has {self.header.channels} channels",
                legal="one integer per voxel",
                fix="merge the channels into one label volume",
            )

    def read(self, region: Region) -> np.ndarray:
        array = self._stored.read(region)
        if np.issubdtype(array.dtype, np.floating):
            if _fractional(array).any():
                raise self._not_whole()
            array = np.rint(array)
        if array.dtype != self.dtype:
            smallest, largest = int(array.min()), int(array.max())
            if smallest <= UNLABELLED or largest > LABEL_RANGE.max:
                raise NotLabels(
                    f"{self.path} is used as a label but holds values that are too large",
                    given=f"values from {smallest} to {largest}",
                    legal=f"{UNLABELLED + 1} to {LABEL_RANGE.max}",
                    fix="renumber the labels",
                )
            array = array.astype(self.dtype)
        if self._rest is not None:
            named = np.isin(array, self._named)
            array = np.where(named, array, array.dtype.type(self._rest.becomes))
        if self._traces is not None:
            array[:, ~self._traces[region[:2]]] = UNLABELLED
        return array

    def close(self) -> None:
        self._stored.close()

    def _not_whole(self) -> NotLabels:
        """What to say about a volume with voxels that are not whole numbers; all are counted."""
        count = 0
        examples = np.empty(0)
        for region in portions(self.header.grid.shape, self.slow_axis):
            array = self._stored.read(region)
            wrong = array[_fractional(array)]
            count += wrong.size
            examples = np.unique(np.append(examples, wrong))[:5]
        return NotLabels(
            f"{self.path} is used as a label but {count} voxels are not whole numbers",
            given=f"values such as {', '.join(f'{value:g}' for value in examples)}",
            legal="whole numbers",
            fix="check that this is the label file and not an image or a probability map",
        )


def read_labels(path: str | Path, rest: LabelRest | None = None) -> Volume:
    """Read a label volume as integers `(1, X, Y, Z)`, whatever number type the file uses.

    Args:
        path: of the file.
        rest: what is not named; by default all values stay.

    Raises:
        UserError: if values are not whole numbers of 32 bits, or there is more than one channel.
    """
    with LabelReader(path, rest) as volume:
        return Volume(volume.read(whole(volume.header.grid.shape)), volume.header)


def _fractional(array: np.ndarray) -> np.ndarray:
    """Which values are not whole numbers; those that are not finite are not."""
    with np.errstate(invalid="ignore"):
        fractional: np.ndarray = ~(np.abs(array - np.rint(array)) <= LABEL_ROUNDING)
    return fractional
