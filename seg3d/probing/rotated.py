"""Sketches that keep every probe of a small brick of voxels, in one, two or four bits.

A brick is a few neighbouring voxels of one channel. Its mean is kept as it is; the rest, x with
n voxels, is rotated by random signs and a Haar-random orthogonal matrix R, the n rotated values
are quantised to the Lloyd-Max levels of the normal distribution, q = Q(R x), and the brick is
rebuilt as S R^T q with S = |x|^2 / <R x, q>. This is DRIVE (Vargaftik et al., arXiv 2105.08339)
for one bit and EDEN (Vargaftik et al., arXiv 2108.08842) for more. Because R is uniform on the
orthogonal group, the mean of the rebuilt brick is x exactly, for sparse bricks too; a Hadamard
matrix with random signs is biased for those, and at this size no faster.

The error is orthogonal to x and otherwise without direction. For every functional g its
variance is k / (n - 1) (|x|^2 |g|^2 - <g, x>^2), where k, about 0.571, 0.133 and 0.0096 for one,
two and four bits, is its energy relative to |x|^2.

Why 128 voxels: mean and scale of a brick of float32 cost 64 bits, half a bit a voxel at 128.
Smaller bricks have less left after their mean is taken out, and so less noise, but cost more
bits; larger ones cost more time, since the rotation takes n multiplications a voxel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from seg3d.probing.bricks import BrickGrid
from seg3d.probing.keys import ProbeKey
from seg3d.probing.packing import Codebook, random_signs
from seg3d.probing.sketches import Sketch, working_dtype

ROTATION_STREAM, SIGNS_STREAM = 0, 1


@dataclass(frozen=True)
class RotatedSketch(Sketch):
    """Keeps per brick: ``bits`` bits a voxel, the mean in x's type and the scale S in float32.

    Attributes:
        bits: 1, 2 or 4.
        voxels: largest number of voxels of a brick.
    """

    bits: int
    voxels: int = 128

    def _compress(self, x: Tensor, key: ProbeKey) -> tuple[Tensor, ...]:
        grid = BrickGrid.of(x.shape, self.voxels)
        rotation = Rotation(grid.voxels, key, x.device, working_dtype(x.dtype))
        codebook = Codebook(self.bits, x.device, rotation.dtype)
        codes = x.new_empty(grid.bricks, -(-grid.voxels * self.bits // 8), dtype=torch.uint8)
        means = x.new_empty(grid.bricks, 1)
        scales = x.new_empty(grid.bricks, 1, dtype=torch.float32)
        for where, numbers in grid.chunks(chunk_elements(x.device)):
            bricks = grid.read(x, where, rotation.dtype)
            means[numbers] = bricks.mean(1, keepdim=True)
            # Subtracting the mean as it was rounded loses nothing to the rounding.
            rotated = rotation.forwards(bricks - means[numbers])
            norm = torch.linalg.vector_norm(rotated, dim=1, keepdim=True)
            codes[numbers] = codebook.quantise(rotated, norm / grid.voxels**0.5)
            # A constant brick has norm 0 and overlap 0; its scale is 0, and NaN stays NaN.
            overlap = codebook.overlap(rotated, codes[numbers])
            energy = norm.square()
            scales[numbers] = (energy / overlap.clamp_min(torch.finfo(overlap.dtype).tiny)).float()
        return codes, means, scales

    def _fill(self, out: Tensor, kept: tuple[Tensor, ...], key: ProbeKey) -> None:
        codes, means, scales = kept
        grid = BrickGrid.of(out.shape, self.voxels)
        rotation = Rotation(grid.voxels, key, out.device, working_dtype(out.dtype))
        codebook = Codebook(self.bits, out.device, rotation.dtype)
        for where, numbers in grid.chunks(chunk_elements(out.device)):
            bricks = rotation.backwards(codebook.levels(codes[numbers], grid.voxels))
            grid.write(out, where, torch.addcmul(means[numbers], bricks, scales[numbers]))


class Rotation:
    """One Haar-random matrix, preceded by random signs of its own for every brick.

    Bricks must be rotated forwards in the order in which they are rotated backwards.
    """

    def __init__(
        self, voxels: int, key: ProbeKey, device: torch.device, dtype: torch.dtype
    ) -> None:
        # One matrix serves all layers of a step, which saves a QR factorisation for each;
        # the signs of every brick of every layer differ.
        matrix = haar_matrix(replace(key, layer=0), voxels)
        self.voxels = voxels
        self.dtype = dtype
        self._matrix = matrix.to(device, dtype, non_blocking=True)
        self._generator = key.generator(device, SIGNS_STREAM)

    def forwards(self, bricks: Tensor) -> Tensor:
        """Rotate the next ``(bricks, voxels)``."""
        return (bricks * self._signs(len(bricks))) @ self._matrix

    def backwards(self, rotated: Tensor) -> Tensor:
        """Undo :meth:`forwards`."""
        return (rotated @ self._matrix.T).mul_(self._signs(len(rotated)))

    def _signs(self, bricks: int) -> Tensor:
        signs = random_signs(bricks * self.voxels, self._generator, self.dtype)
        return signs.view(bricks, self.voxels)


def haar_matrix(key: ProbeKey, voxels: int) -> Tensor:
    """A matrix from the uniform distribution on the orthogonal group, ``(voxels, voxels)``."""
    matrix = torch.empty(voxels, voxels, dtype=torch.float64, device="cpu")
    # Fake tensors, with which memory is measured, have no values and must not be remembered.
    return _drawn_haar_matrix(key, voxels) if type(matrix) is Tensor else matrix


@lru_cache(maxsize=16)
def _drawn_haar_matrix(key: ProbeKey, voxels: int) -> Tensor:
    """By QR factorisation of a normal matrix (Mezzadri, arXiv math-ph/0609050, section 5)."""
    normal = np.random.default_rng(key.entropy(ROTATION_STREAM)).standard_normal((voxels, voxels))
    # torch's QR and not numpy's, whose own pool of threads would fight with torch's.
    orthogonal, triangular = torch.linalg.qr(torch.from_numpy(normal))
    # Without the signs of the diagonal the law of Q would depend on the algorithm.
    return orthogonal * triangular.diagonal().sign()


def chunk_elements(device: torch.device) -> int:
    """Elements handled at a time: what fits a core's cache, or what keeps a GPU busy."""
    return 1 << 18 if device.type == "cpu" else 1 << 22
