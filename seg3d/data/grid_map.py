"""From a file's voxels to those that the network works on, and back.

A volume is streamed along the axis that the file is read along, so all that happens to it by
blocks happens in the *streaming order*: the axes of the file, slowest first, in the directions of
the file. The network wants the orientation and the spacing of its training. The spacing is changed
block by block (`Resampling`), the orientation window by window (`GridMap.to_network`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from monai.data.utils import AFFINE_TOL
from torch import Tensor

from seg3d.data.transforms import oriented_grid, preprocessed_grids
from seg3d.geometry import Grid, Shape3, Vector3
from seg3d.io.regions import STREAMING_ORDERS, Region, lengths, whole
from seg3d.io.resampling import HALF_WAY, Resampling
from seg3d.plan import NnunetRules, Plan


@dataclass(frozen=True, eq=False)
class GridMap:
    """The way between a file's grid and the network's, both in streaming order.

    Attributes:
        order: the axes of the file in streaming order.
        permutation: for each axis of the network, that of the streaming order.
        flips: axes of the network that run against the file.
        forward: makes the network's grid from the file's.
        backward: makes the file's grid from the network's.
        origin: in the file, of the box that the network sees, if it does not see all of it; what
            is said here of the file's grid is said of that box.
        whole: shape of the whole file. Both are in streaming order.
    """

    order: tuple[int, int, int]
    permutation: tuple[int, int, int]
    flips: tuple[int, ...]
    forward: Resampling
    backward: Resampling
    origin: Shape3
    whole: Shape3

    @classmethod
    def of(cls, grid: Grid, slow_axis: int, plan: Plan, box: Region | None = None) -> GridMap:
        """The way that MONAI's ``Orientation`` and then its ``Spacing`` take, or that of nnU-Net.

        Args:
            grid: of the file.
            slow_axis: of the file.
            plan: whose orientation and spacing the network works in.
            box: of the file, in streaming order, that nnU-Net crops it to; None for all of it.
        """
        order = STREAMING_ORDERS[slow_axis]
        if plan.nnunet is not None:
            return cls._of_nnunet(grid, order, plan, plan.nnunet, box)
        oriented, working = preprocessed_grids(grid, plan)
        turned = np.rint(np.linalg.solve(grid.affine, oriented.affine))
        scaled = np.linalg.solve(oriented.affine, working.affine)
        if _unchanged(oriented, working, scaled):
            scaled = np.eye(4)
        axes = np.abs(turned[:3, :3]).argmax(0)
        flips = tuple(int(axis) for axis in range(3) if turned[axes[axis], axis] < 0)
        i, j, k = (order.index(axis) for axis in axes)
        permutation = (i, j, k)
        # Voxels of the network to voxels of the file, both in streaming order.
        affine = (
            np.linalg.inv(_streamed(np.argsort(order), (), grid.shape))
            @ turned
            @ scaled
            @ _streamed(permutation, flips, working.shape)
        )
        stored, shape = (
            _ordered(shape, places)
            for shape, places in ((grid.shape, order), (working.shape, np.argsort(permutation)))
        )
        return cls(
            order,
            permutation,
            flips,
            Resampling.between(affine, stored, shape),
            Resampling.between(np.linalg.inv(affine), shape, stored),
            (0, 0, 0),
            stored,
        )

    @classmethod
    def _of_nnunet(
        cls,
        grid: Grid,
        order: tuple[int, int, int],
        plan: Plan,
        rules: NnunetRules,
        box: Region | None,
    ) -> GridMap:
        """The way that nnU-Net takes: whole voxels are cropped, turned and stretched to others."""
        oriented = oriented_grid(grid, plan)
        turned = np.rint(np.linalg.solve(grid.affine, oriented.affine))[:3, :3][:, rules.axes]
        axes = np.abs(turned).argmax(0)
        flips = tuple(int(axis) for axis in range(3) if turned[axes[axis], axis] < 0)
        i, j, k = (order.index(axis) for axis in axes)
        places = np.argsort((i, j, k))
        box = box or whole(_ordered(grid.shape, order))
        stored = lengths(box)
        spacing = _vector(np.array(grid.spacing)[axes])
        target = spacing if plan.spacing is None else plan.spacing
        # As Python rounds, in the order of nnU-Net's terms.
        shape = _ordered(
            [
                max(1, int(round(one / other * stored[place])))
                for one, other, place in zip(spacing, target, (i, j, k), strict=True)
            ],
            places,
        )

        def stretched(
            source: Shape3, result: Shape3, separate: int | None, order: int, order_z: int
        ) -> Resampling:
            affine = np.diag([*np.divide(source, result), 1.0])
            affine[:3, 3] = affine.diagonal()[:3] / 2 - 0.5
            z = None if separate is None else (i, j, k)[separate]
            x, y, w = (order_z if place == z else order for place in range(3))
            for place, one in enumerate((x, y, w)):
                # Half way between two voxels, SciPy takes the one that comes later in the network.
                if one == 0 and place not in [(i, j, k)[axis] for axis in flips]:
                    affine[place, 3] += HALF_WAY
            return Resampling.between(affine, source, result, (x, y, w), z)

        there = rules.separate_axis(spacing, target)
        back = rules.separate_axis(target, spacing)
        return cls(
            order,
            (i, j, k),
            flips,
            stretched(stored, shape, there, rules.image_order, rules.image_order_z),
            stretched(shape, stored, back, rules.scores_order, rules.scores_order_z),
            (box[0].start, box[1].start, box[2].start),
            _ordered(grid.shape, order),
        )

    @property
    def stored(self) -> Shape3:
        """Shape of the file's grid, in streaming order."""
        return self.backward.shape

    @property
    def shape(self) -> Shape3:
        """Shape of the network's grid, in streaming order."""
        return self.forward.shape

    def in_file(self, region: Region) -> Region:
        """A region of the file's grid, in the order of the file's axes, counted in the file."""
        x, y, z = (
            slice(first + part.start, first + part.stop)
            for first, part in zip(self.origin, region, strict=True)
        )
        return self.in_whole_file((x, y, z))

    def in_whole_file(self, region: Region) -> Region:
        """A region of the whole file, in the order of the file's axes."""
        x, y, z = (region[place] for place in np.argsort(self.order))
        return x, y, z

    def within(self, region: Region) -> tuple[Region, Region]:
        """What a region of the whole file has in common with `stored`.

        Returns:
            It, counted in what is stored, and counted in the region; empty if there is nothing.
        """
        stored, place = [], []
        for part, first, length in zip(region, self.origin, self.stored, strict=True):
            start = min(max(part.start - first, 0), length)
            stop = min(max(part.stop - first, start), length)
            stored.append(slice(start, stop))
            place.append(slice(start + first - part.start, stop + first - part.start))
        return (stored[0], stored[1], stored[2]), (place[0], place[1], place[2])

    @property
    def cropped(self) -> bool:
        """Whether the network does not see all of the file."""
        return self.stored != self.whole

    def in_file_order(self, array: np.ndarray) -> np.ndarray:
        """A view of `(C, d, h, w)` in the order of the file's axes."""
        return array.transpose(0, *(1 + place for place in np.argsort(self.order)))

    def streamed(self, shape: Shape3) -> Shape3:
        """A shape of the network's, such as that of a patch, in streaming order."""
        return _ordered(shape, np.argsort(self.permutation))

    @property
    def working(self) -> Shape3:
        """Shape of the network's grid, in the order of its axes."""
        return _ordered(self.shape, self.permutation)

    @property
    def streamed_flips(self) -> tuple[int, ...]:
        """`flips` in streaming order."""
        return tuple(self.permutation[axis] for axis in self.flips)

    def to_network(self, windows: Tensor) -> Tensor:
        """Turn windows `(B, C, d, h, w)` into the network's orientation."""
        turned = windows.permute(0, 1, *(2 + place for place in self.permutation))
        return flipped(turned, [2 + axis for axis in self.flips]).contiguous()

    def from_network(self, scores: Tensor) -> Tensor:
        """Turn what the network makes of windows `(B, K, D, H, W)` back into streaming order."""
        back = np.argsort(self.permutation)
        turned = flipped(scores, [2 + axis for axis in self.flips])
        return turned.permute(0, 1, *(2 + back))


def network_view(array: np.ndarray, permutation: Sequence[int], flips: Sequence[int]) -> np.ndarray:
    """A view of `(C, d, h, w)` in streaming order, in the network's orientation.

    Args:
        array: in streaming order.
        permutation: of `GridMap`.
        flips: of `GridMap`.
    """
    axes = tuple(1 + axis for axis in flips)
    return np.flip(array.transpose(0, *(1 + place for place in permutation)), axes)


def _unchanged(oriented: Grid, working: Grid, scaled: np.ndarray) -> bool:
    """Whether MONAI finds that resampling is not worth it."""
    return oriented.shape == working.shape and (
        np.allclose(oriented.affine, working.affine, atol=AFFINE_TOL)
        or np.allclose(scaled, np.eye(4), atol=AFFINE_TOL)
    )


def _streamed(
    places: tuple[int, ...] | np.ndarray, flips: tuple[int, ...], shape: Shape3
) -> np.ndarray:
    """`(4, 4)`, voxels in streaming order to voxels of a grid whose axes stand at ``places``."""
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for axis, place in enumerate(places):
        affine[axis, place] = -1 if axis in flips else 1
        affine[axis, 3] = shape[axis] - 1 if axis in flips else 0
    return affine


def _vector(values: np.ndarray) -> Vector3:
    x, y, z = (float(value) for value in values)
    return x, y, z


def _ordered(shape: Sequence[int], places: tuple[int, ...] | np.ndarray) -> Shape3:
    x, y, z = (int(shape[place]) for place in places)
    return x, y, z


def flipped(tensor: Tensor, axes: Sequence[int]) -> Tensor:
    """The tensor with some axes run through backwards; itself, not a copy, if there are none."""
    return tensor.flip(list(axes)) if axes else tensor
