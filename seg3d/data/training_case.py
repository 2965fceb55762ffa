"""What training cuts its patches from: a case on the network's grid, with patch centres.

It is made block by block, so that its size does not matter. Arrays lie in streaming order (see
`seg3d.data.grid_map`); training sees them through a view in the network's orientation. A label
voxel holds its class number plus one, and 0 where there is no label.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Self

import numpy as np

from seg3d.data.cases import Case
from seg3d.data.draw import Draw, seed_of
from seg3d.data.open_case import open_case
from seg3d.data.reference import ReferenceReader
from seg3d.geometry import Shape3
from seg3d.io.regions import Region, portions
from seg3d.plan import Plan

# Voxels per class that are remembered as possible patch centres, as in nnU-Net.
CENTRES_PER_CLASS = 10_000


class TrainingCase:
    """A labelled case, open, to be read once from the beginning to the end.

    Args:
        case: with a label.
        plan: what to make of it.

    Attributes:
        shape: of the arrays, in streaming order; padded as :meth:`Plan.least_shape` says.
        channels: of the image.
        permutation: for each axis of the network, that of the streaming order.
        flips: axes of the network that run against the streaming order.

    Raises:
        UserError: if files cannot be used.
    """

    def __init__(self, case: Case, plan: Plan) -> None:
        assert case.label is not None
        self._name = case.name
        self._classes = len(plan.parts)
        with ExitStack() as opened:
            self._image = opened.enter_context(open_case(case.images, plan))
            self._reference = opened.enter_context(
                closing(ReferenceReader(case.label, self._image))
            )
            self._opened = opened.pop_all()
        grid_map = self._image.grid_map
        self.channels = len(plan.channels)
        self.permutation, self.flips = grid_map.permutation, grid_map.flips
        self.shape, self._before = padding(
            grid_map.shape,
            grid_map.streamed(plan.least_shape(grid_map.working)),
            grid_map.streamed_flips,
        )

    def blocks(self) -> Iterator[tuple[Region, np.ndarray, np.ndarray]]:
        """Regions of the arrays with their image `(C, d, h, w)` and label `(1, d, h, w)`.

        What no region holds is padding, zeros in both.

        Raises:
            UserError: if a file is damaged, or holds values that cannot be used.
        """
        regions = self._image.cut()
        self._image.measure()
        for region in regions:
            x, y, z = (
                slice(before + part.start, before + part.stop)
                for before, part in zip(self._before, region, strict=True)
            )
            yield (x, y, z), self._image.read(region).numpy(), self._reference.read(region)

    def centres(self, read: Callable[[Region], np.ndarray]) -> list[np.ndarray]:
        """Where patches may be centred: voxels without label, then voxels of each class.

        Args:
            read: gives regions of the label array, when all of it is there.

        Returns:
            Per kind up to `CENTRES_PER_CLASS` voxels, drawn evenly, as indices into the flattened
            array in the network's orientation, int64.
        """
        counts = np.zeros(self._classes + 1, dtype=np.int64)
        for region in portions(self.shape, 0):
            counts += np.bincount(read(region).reshape(-1), minlength=len(counts))
        draws = [
            Draw(int(count), CENTRES_PER_CLASS, [seed_of(self._name), kind])
            for kind, count in enumerate(counts)
        ]
        drawn: list[list[np.ndarray]] = [[] for _ in draws]
        passed = 0
        for region in portions(self.shape, 0):
            numbers = read(region).reshape(-1)
            for kind in np.flatnonzero(np.bincount(numbers)):
                places = np.flatnonzero(numbers == kind)
                drawn[kind].append(passed + places[draws[kind].among(len(places))])
            passed += numbers.size
        empty = np.empty(0, dtype=np.int64)
        return [self._in_network(np.concatenate([empty, *parts])) for parts in drawn]

    def _in_network(self, flat: np.ndarray) -> np.ndarray:
        """Indices into the flattened array, in the network's orientation."""
        places = np.unravel_index(flat, self.shape)
        turned = [
            self.shape[axis] - 1 - places[axis] if number in self.flips else places[axis]
            for number, axis in enumerate(self.permutation)
        ]
        return np.ravel_multi_index(turned, [self.shape[axis] for axis in self.permutation])

    def close(self) -> None:
        """Give back what is open."""
        self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


def padding(
    shape: Shape3, patch: Shape3, backwards: tuple[int, ...] = ()
) -> tuple[Shape3, tuple[int, int, int]]:
    """The shape of a volume that is padded to the patch, and the voxels in front of it.

    Args:
        shape: of the volume.
        patch: no side of the result is shorter.
        backwards: axes along which the rest of an uneven padding comes in front.
    """
    gaps = [max(side - length, 0) for length, side in zip(shape, patch, strict=True)]
    x, y, z = (length + gap for length, gap in zip(shape, gaps, strict=True))
    i, j, k = (gap - gap // 2 if axis in backwards else gap // 2 for axis, gap in enumerate(gaps))
    return (x, y, z), (i, j, k)
