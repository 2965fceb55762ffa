"""What coding a tensor takes, whoever does it: which bricks, which rotation, which levels.

The encoder and the decoder of `seg3d.probing.rotated` are made of it; the GPU kernels take from
it all that they are told.
"""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from functools import cached_property, lru_cache
from typing import Any, Self

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from seg3d.common.device import brought
from seg3d.probing.bricks import BrickGrid
from seg3d.probing.keys import ProbeKey, random_words, skipping
from seg3d.probing.packing import Codebook, multiply_by_signs_

ROTATION_STREAM, SIGNS_STREAM, CHOICE_STREAM = 0, 1, 3
STRUCTURED = 128  # voxels of the bricks whose rotation is structured


class Coder:
    """What encoding and decoding have in common.

    Attributes:
        grid: the bricks.
        choice: which of them are coded.
        key: of the draw.
        dtype: of rows of voxels.
        kept: packed signs, means, codes and scales.
        told: what kernels are told of all this, from the first time on.
    """

    kept: tuple[Tensor, ...]
    told: dict[str, Any] | None = None
    _row: int = 0  # the first row of bricks, in the grid that this one is part of

    def __init__(
        self,
        bits: float,
        most_voxels: int,
        shape: torch.Size,
        key: ProbeKey,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.grid = BrickGrid.of(shape, most_voxels)
        self.key = key
        self.dtype = dtype
        self._bits, self._device = bits, device
        self.choice = self._choice()

    def part(self, samples: slice, layers: slice) -> Self:
        """The same for some of the volume, in tensors that hold no more than that.

        Args:
            samples: which.
            layers: which; all of them, or those of a single sample.
        """
        whole, part = self.grid, copy(self)
        before = samples.start * whole.layers + layers.start
        part.grid, part.told, part._row = whole.part(samples, layers), None, self._row + before
        part.choice = part._choice()
        part.__dict__.pop("rotation", None)
        first, first_coded = before * whole.row, before * self.choice.groups
        bricks = slice(first, first + part.grid.bricks)
        coded = slice(first_coded, first_coded + part.choice.count)
        signs, means, codes, scales = self.kept
        part.kept = signs[bricks], means[bricks], codes[coded], scales[coded]
        return part

    def _choice(self) -> Choice:
        return Choice(self._bits, self.grid, self.key, self._device, self._row)

    @property
    def signs_number(self) -> int:
        """Of the random signs, one word or two for every brick."""
        words = -(-self.grid.voxels // 64)
        return skipping(self.key.number(SIGNS_STREAM), self._row * self.grid.row * words)

    # The kernels have no use for these two.
    @cached_property
    def rotation(self) -> Rotation:
        key, number = self.key, self.signs_number
        return Rotation(self.grid.voxels, key, number, self._device, self.dtype)

    @cached_property
    def codebook(self) -> Codebook:
        return Codebook(self.choice.code_bits, self._device, self.rotation.dtype)


class Choice:
    """Which bricks are coded: all of them, or one, drawn at random, of every few in a row.

    Attributes:
        code_bits: bits a voxel of a coded brick.
        count: number of coded bricks in the grid.
        number: of the draw.
    """

    def __init__(
        self, bits: float, grid: BrickGrid, key: ProbeKey, device: torch.device, first_row: int
    ) -> None:
        self.code_bits = max(1, round(bits))
        self.row = grid.row
        self.per_group = round(1 / bits) if bits < 1 else 1
        self.groups = -(-grid.row // self.per_group)
        self.count = grid.bricks // max(1, grid.row) * self.groups
        self.device = device
        self.number = skipping(key.number(CHOICE_STREAM), first_row * self.groups)

    def of(self, numbers: slice) -> tuple[slice, Tensor | None, Tensor | None]:
        """For whole rows of bricks: their places among the coded ones, which ones, and weights.

        Which ones are counted from the first of ``numbers``; None stands for all. The weights,
        a column, are the inverses of the odds of being drawn.
        """
        if self.per_group == 1:
            return numbers, None, None
        first, last = numbers.start // self.row, numbers.stop // self.row
        group = torch.arange(first * self.groups, last * self.groups, device=self.device)
        row, place = group // self.groups - first, group % self.groups * self.per_group
        size = (self.row - place).clamp_max_(self.per_group)
        draw = random_words(self.number, group) & 0x7FFFFFFF
        chosen = row * self.row + place + (draw * size >> 31)
        return slice(first * self.groups, last * self.groups), chosen, size[:, None]


class Rotation:
    """One random matrix, preceded by random signs of its own for every brick.

    Attributes:
        dtype: of the factors of its products.
    """

    def __init__(
        self,
        voxels: int,
        key: ProbeKey,
        signs_number: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        # One matrix serves all layers of a step, which saves drawing one for each;
        # the signs of every brick of every layer differ.
        matrix = rotation_matrix(replace(key, layer=0), voxels)
        if multiplies_bf16(device) and type(matrix) is Tensor and dtype == torch.float32:
            dtype = torch.bfloat16
        self.dtype = dtype
        self._matrix = brought(matrix.to(dtype), device)
        self._signs_number = signs_number

    def forwards(self, rows: Tensor, bricks: Tensor, precision: torch.dtype) -> Tensor:
        """Rotate ``(bricks, voxels)`` of numbers that have the precision of this type.

        ``bricks`` are their numbers. The rows are written over.
        """
        multiply_by_signs_(rows, bricks, self._signs_number)
        factors, matrix = rows, self._matrix
        if torch.finfo(self.dtype).eps > torch.finfo(precision).eps:
            # What rounding takes from the rows would be missing in the mean over R.
            factors = rows.new_empty(len(rows), 2, rows.shape[1], dtype=self.dtype)
            factors[:, 0] = rows
            factors[:, 1] = rows.sub_(factors[:, 0])
            factors, matrix = factors.flatten(1), matrix.repeat(2, 1)
        return (factors.to(self.dtype) @ matrix).to(rows.dtype)

    def backwards(self, levels: Tensor, bricks: Tensor, dtype: torch.dtype) -> Tensor:
        """Undo :meth:`forwards`, in :attr:`dtype` and then in the other."""
        rows = (levels @ self._matrix.T).to(dtype)
        return multiply_by_signs_(rows, bricks, self._signs_number)


def multiplies_bf16(device: torch.device) -> bool:
    """Whether this is a CPU with instructions for it, which are faster than those for float32.

    What rounding R and its products to 8 bits of mantissa adds is small beside the error of the
    codes, and as often positive as negative, whatever the sign of what R is multiplied by.
    """
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()


def rotation_matrix(key: ProbeKey, voxels: int) -> Tensor:
    """An orthogonal matrix, ``(voxels, voxels)`` float64: the usual bricks' is structured.

    Other bricks are of small volumes or odd ones, and have a matrix that is uniform.
    """
    matrix = torch.empty(voxels, voxels, dtype=torch.float64, device="cpu")
    # Fake tensors, with which memory is measured, have no values and must not be remembered.
    if type(matrix) is not Tensor:
        return matrix
    return structured_matrix(key) if voxels == STRUCTURED else haar_matrix(key, voxels)


@lru_cache(maxsize=16)
def rotation_flips(key: ProbeKey) -> np.ndarray:
    """Of :func:`structured_matrix`: ``(2, STRUCTURED)`` uint32, the highest bit says minus."""
    draw = np.random.default_rng(key.entropy(ROTATION_STREAM))
    return draw.integers(2, size=(2, STRUCTURED), dtype=np.uint32) << np.uint32(31)


@lru_cache(maxsize=16)
def structured_matrix(key: ProbeKey) -> Tensor:
    """H D H D' H / n^1.5, with Hadamard's matrix H and random signs D and D'; rows go before it.

    With the signs that every brick has of its own these are three rounds of the rotation of Ailon
    and Chazelle (SIAM J. Comput. 39, 2009), which is multiplied by in n log n additions. A brick of
    two or three voxels other than zero would be rebuilt with a bias after a single round, and after
    two with one of up to 0.016 of its norm; after three 0.0012 was the largest found.
    """
    hadamard = torch.from_numpy(scipy.linalg.hadamard(STRUCTURED)).double()
    first, second = torch.from_numpy(1.0 - 2.0 * (rotation_flips(key) >> np.uint32(31)))
    return hadamard @ (first[:, None] * hadamard) @ (second[:, None] * hadamard) / STRUCTURED**1.5


@lru_cache(maxsize=16)
def haar_matrix(key: ProbeKey, voxels: int) -> Tensor:
    """A matrix from the uniform distribution on the orthogonal group, ``(voxels, voxels)``.

    By QR factorisation of a normal matrix (Mezzadri, arXiv math-ph/0609050, section 5).
    """
    normal = np.random.default_rng(key.entropy(ROTATION_STREAM)).standard_normal((voxels, voxels))
    # torch's QR and not numpy's, whose own pool of threads would fight with torch's.
    orthogonal, triangular = torch.linalg.qr(torch.from_numpy(normal))
    # Without the signs of the diagonal the law of Q would depend on the algorithm.
    return orthogonal * triangular.diagonal().sign()
