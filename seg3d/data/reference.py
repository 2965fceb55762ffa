"""The reference segmentation of a case as the network wants it, read block by block."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from seg3d.config import Rest
from seg3d.data.case_reader import CaseReader
from seg3d.io import LARGEST_LABEL, UNLABELLED, Interpretation, LabelReader, LabelRest, Region
from seg3d.io.reoriented import on_grid_of
from seg3d.plan import LabelClass


class ReferenceReader:
    """The labels of a case, open.

    Args:
        path: of the file, or horizons.
        case: the images, whose grid the labels must share, in whatever order their axes stand.

    Raises:
        UserError: if the file cannot be used.
    """

    def __init__(self, path: Path | Interpretation, case: CaseReader) -> None:
        plan = case.plan
        labels = LabelReader(path, label_rest(plan.named_values, plan.rest))
        self._grid_map = case.grid_map
        self._classes = case.plan.parts
        self._labels = on_grid_of(case.images[0], case.header.grid, path, labels)

    def read(self, region: Region) -> np.ndarray:
        """Numbers of the plan's parts plus one, 0 where there is no label, on a region of the grid.

        A voxel takes the class of the voxel of the file that is nearest to it.

        Returns:
            `(1, d, h, w)` uint8, in streaming order.

        Raises:
            UserError: if the file is damaged there, or its values are no labels.
        """
        forward, order = self._grid_map.forward, self._grid_map.order
        labels = self._labels.read(self._grid_map.in_file(forward.needed(region)))
        streamed = labels.transpose(0, *(1 + axis for axis in order))
        numbers = torch.from_numpy(class_numbers(streamed, self._classes))
        return forward.apply(numbers, region, nearest=True).numpy()

    def close(self) -> None:
        """Give back what is open."""
        self._labels.close()


def label_rest(named: set[int], rest: Rest | None) -> LabelRest | None:
    """How labels are read of which some values may have no name.

    Args:
        named: values of the classes, 0 among them, and those to be ignored.
        rest: what the others are; None if they are mistakes.
    """
    if rest is None:
        return None
    return LabelRest(frozenset(named), 0 if rest == "background" else UNLABELLED)


def class_numbers(values: np.ndarray, classes: Sequence[LabelClass]) -> np.ndarray:
    """Class numbers plus one, as uint8, of label values; 0 for values of no class."""
    # The last entry is for what is beyond the table, at either end.
    table = np.zeros(LARGEST_LABEL + 2, dtype=np.uint8)
    for number, one in enumerate(classes):
        for value in one.values:
            if 0 <= value <= LARGEST_LABEL:
                table[value] = number + 1
    return table.take(values.astype(np.int32).clip(-1, LARGEST_LABEL + 1), mode="wrap")
