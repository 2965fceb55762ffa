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

Why 256 voxels, on trained 32- and 64-channel layers at 40^3: the error of the weight gradient
relative to its norm, the bits kept per element (float32 input), and the time to compress and
rebuild relative to the convolution's forward and backward passes on a CPU were

====== ============= ==== =====
voxels error, 1 bit  bits time
====== ============= ==== =====
64     0.009 - 0.16  2.00 0.66
128    0.011 - 0.17  1.50 0.70
256    0.012 - 0.18  1.25 0.78
512    0.014 - 0.20  1.12 1.61
====== ============= ==== =====
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from seg3d.probing.bricks import BrickGrid
from seg3d.probing.keys import ProbeKey
from seg3d.probing.packing import Codebook
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
    voxels: int = 256

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
            energy = rotated.square().sum(1, keepdim=True)
            codes[numbers] = codebook.quantise(rotated, (energy / grid.voxels).sqrt())
            levels = codebook.levels(codes[numbers], grid.voxels)
            # A constant brick has energy 0 and overlap 0; its scale is 0, and NaN stays NaN.
            overlap = (rotated * levels).sum(1, keepdim=True)
            scales[numbers] = (energy / overlap.clamp_min(torch.finfo(overlap.dtype).tiny)).float()
        return codes, means, scales

    def _fill(self, out: Tensor, kept: tuple[Tensor, ...], key: ProbeKey) -> None:
        codes, means, scales = kept
        grid = BrickGrid.of(out.shape, self.voxels)
        rotation = Rotation(grid.voxels, key, out.device, working_dtype(out.dtype))
        codebook = Codebook(self.bits, out.device, rotation.dtype)
        for where, numbers in grid.chunks(chunk_elements(out.device)):
            bricks = rotation.backwards(codebook.levels(codes[numbers], grid.voxels))
            grid.write(out, where, bricks.mul_(scales[numbers]).add_(means[numbers]))


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
        self._matrix = torch.from_numpy(matrix).to(device, dtype, non_blocking=True)
        self._codebook = Codebook(1, device, dtype)
        self._generator = key.generator(device, SIGNS_STREAM)

    def forwards(self, bricks: Tensor) -> Tensor:
        """Rotate the next ``(bricks, voxels)``."""
        return (bricks * self._signs(len(bricks))) @ self._matrix

    def backwards(self, rotated: Tensor) -> Tensor:
        """Undo :meth:`forwards`."""
        return (rotated @ self._matrix.T).mul_(self._signs(len(rotated)))

    def _signs(self, bricks: int) -> Tensor:
        """Random signs from one random number for every 64 of them."""
        count = bricks * self.voxels
        words = torch.randint(
            -(2**63),
            2**63 - 1,
            (-(-count // 64),),
            generator=self._generator,
            device=self._matrix.device,
        )
        signs = self._codebook.levels(words.view(1, -1).view(torch.uint8), count).sign()
        return signs.view(bricks, self.voxels)


@lru_cache(maxsize=16)
def haar_matrix(key: ProbeKey, voxels: int) -> np.ndarray:
    """A matrix from the uniform distribution on the orthogonal group, ``(voxels, voxels)``.

    From the QR factorisation of a normal matrix (Mezzadri, arXiv math-ph/0609050, section 5):
    without the signs of R's diagonal the law of Q would depend on the algorithm.
    """
    generator = np.random.default_rng(key.entropy(ROTATION_STREAM))
    orthogonal, triangular = np.linalg.qr(generator.standard_normal((voxels, voxels)))
    return orthogonal * np.sign(np.diagonal(triangular))


def chunk_elements(device: torch.device) -> int:
    """Elements handled at a time: what fits a core's cache, or what keeps a GPU busy."""
    return 1 << 18 if device.type == "cpu" else 1 << 22
