"""Sketches that keep rotated bricks of voxels in a few bits, or in less than one.

A brick is a few neighbouring voxels of one channel. Its mean is kept as it is; the rest, x with
n voxels, is rotated by random signs and an orthogonal matrix R, the n rotated values are quantised
to the Lloyd-Max levels of the normal distribution, q = Q(R x), and the brick is rebuilt as
S R^T q with S = |x|^2 / <R x, q>. This is DRIVE (Vargaftik et al., arXiv 2105.08339) for one bit
and EDEN (Vargaftik et al., arXiv 2108.08842) for more. Where R is uniform on the orthogonal group
the mean of the rebuilt brick is x exactly, for sparse bricks too. Bricks of 128 voxels have an R
that is multiplied by faster, and the mean of which is x to a thousandth even if they are sparse:
see :func:`seg3d.probing.coder.structured_matrix`. Those of other sizes have a uniform one.

The error is orthogonal to x and otherwise without direction. For every functional g its
variance is k / (n - 1) (|x|^2 |g|^2 - <g, x>^2), where k, about 0.571, 0.133 and 0.0096 for one,
two and four bits, is its energy relative to |x|^2.

Two means. Where it is known anyway which voxels are positive (a leaky ReLU has to remember
that), a brick has two means, one over either kind of voxel. Of a normal distribution they
leave 1 - 2 / pi = 36 % of the energy to be sketched, for nothing but one more number a brick.

Less than one bit. With bits = 1 / m only one brick of m neighbours, drawn at random, is sketched
(in one bit, and m times its rest); of the others there are the means only. That is unbiased as
well. The energy of the error is m (1 + k) - 1 times that of the rest: 11.6 for an eighth of a
bit. It costs an eighth of the time, too.

Why 128 voxels: smaller bricks have less left after their means are taken out, and so less
noise, but more of them cost more bits; larger ones cost more time where the rotation is a product
with a matrix, which takes n multiplications a voxel.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from seg3d.probing.coder import Coder
from seg3d.probing.kernels import kernels_for
from seg3d.probing.keys import ProbeKey
from seg3d.probing.packing import exceeds, masked, masks, pack
from seg3d.probing.sketches import Sketch, working_dtype
from seg3d.probing.work_sizes import bricks_of


@dataclass(frozen=True)
class RotatedSketch(Sketch):
    """Keeps per brick: the mean (or two) in x's type, ``bits`` bits a voxel, and a scale S.

    Attributes:
        bits: 4, 2, 1, 1/2, 1/4 or 1/8.
        voxels: largest number of voxels of a brick.
    """

    bits: float
    voxels: int = 128

    def _compress(self, x: Tensor, key: ProbeKey) -> tuple[Tensor, ...]:
        encoder = Encoder(self, x, key, signed=False)
        encoder.put_all(x)
        return encoder.kept

    def _fill(self, out: Tensor, kept: tuple[Tensor, ...], key: ProbeKey) -> None:
        decoder = Decoder(self, out.shape, kept, key, working_dtype(out.dtype))
        for where, numbers in bricks_of(decoder.grid, out):
            decoder.grid.write(out, where, decoder.rows(numbers)[0])


class Encoder(Coder):
    """Sketches a tensor, at once or lot by lot.

    Attributes:
        kept: complete when all has been put, in any order, in the lots of :attr:`grid`.
    """

    def __init__(self, sketch: RotatedSketch, x: Tensor, key: ProbeKey, *, signed: bool) -> None:
        super().__init__(sketch.bits, sketch.voxels, x.shape, key, x.device, working_dtype(x.dtype))
        self.signed = signed
        self._precision = x.dtype
        voxels, bricks, coded = self.grid.voxels, self.grid.bricks, self.choice.count
        self.kept = (
            x.new_empty(bricks, -(-voxels // 8) if signed else 0, dtype=torch.uint8),
            x.new_empty(bricks, 2 if signed else 1),
            x.new_empty(coded, -(-voxels * self.choice.code_bits // 8), dtype=torch.uint8),
            x.new_empty(coded, 1, dtype=torch.float32),
        )

    def put_all(self, x: Tensor) -> None:
        """Sketch ``x``; if signed, with what is positive in it."""
        if kernels := kernels_for(self.grid, x):
            kernels.sketch(self, x)
            return
        for where, numbers in bricks_of(self.grid, x):
            rows = self.grid.read(x, where, self.dtype)
            self.put(rows, numbers, exceeds(rows, 0) if self.signed else None)

    def put(self, rows: Tensor, numbers: slice, positive: Tensor | None = None) -> None:
        """Sketch the ``rows``, ``(bricks, voxels)``; ``positive`` are those of a signed sketch.

        ``positive`` is 1.0 or 0.0, in the rows' shape: any property of the voxels that the
        decoder is to return, and over which means are worth taking apart.
        """
        signs, means, codes, scales = self.kept
        coded, chosen, weights = self.choice.of(numbers)
        if positive is None:
            means[numbers] = rows.mean(1, keepdim=True)
        else:
            signs[numbers] = pack(positive, 1)
            count = positive.sum(1, keepdim=True)
            above = (rows * positive).sum(1, keepdim=True)
            below = rows.sum(1, keepdim=True) - above
            # A brick without voxels of a kind has 0 / 1 for their mean.
            below /= (rows.shape[1] - count).clamp_min_(1)
            means[numbers] = torch.cat([below, above / count.clamp_min_(1)], 1)
        # Subtracting the means as they were rounded loses nothing to the rounding.
        centre = means[numbers]
        if chosen is not None:
            rows, centre = rows.index_select(0, chosen), centre.index_select(0, chosen)
            positive = None if positive is None else positive.index_select(0, chosen)
            bricks = chosen + numbers.start
        else:
            bricks = torch.arange(numbers.start, numbers.stop, device=rows.device)
        rest = without(centre, rows, positive)
        del positive  # which need not be there beside what follows
        rest = self.rotation.forwards(rest, bricks, self._precision)
        norm = torch.linalg.vector_norm(rest, dim=1, keepdim=True)
        codes[coded] = self.codebook.quantise(rest, norm / self.grid.voxels**0.5)
        # A constant brick has norm 0 and overlap 0; its scale is 0, and NaN stays NaN.
        overlap = self.codebook.overlap(rest, codes[coded])
        energy = norm.square() if weights is None else norm.square() * weights
        scales[coded] = (energy / overlap.clamp_min(torch.finfo(overlap.dtype).tiny)).float()


class Decoder(Coder):
    """Rebuilds a tensor lot by lot, from what an :class:`Encoder` kept."""

    def __init__(
        self,
        sketch: RotatedSketch,
        shape: torch.Size,
        kept: tuple[Tensor, ...],
        key: ProbeKey,
        dtype: torch.dtype,
    ) -> None:
        super().__init__(sketch.bits, sketch.voxels, shape, key, kept[0].device, dtype)
        self.kept = kept

    def masks(self, numbers: slice) -> Tensor:
        """Of what is positive in these bricks; see :func:`seg3d.probing.packing.masks`."""
        return masks(self.kept[0][numbers], self.grid.voxels, self.dtype)

    def rows(self, numbers: slice, affine: tuple[Tensor, ...] = ()) -> tuple[Tensor, Tensor | None]:
        """The surrogate x of these bricks, or gain * x + shift, and :meth:`masks` if signed.

        Args:
            numbers: of the bricks.
            affine: gain and shift, a column each; empty for 1 and 0.

        Returns:
            ``(bricks, voxels)`` each.
        """
        signs, means, codes, scales = self.kept
        coded, chosen, _ = self.choice.of(numbers)
        centre, scale = means[numbers].to(self.dtype), scales[coded]
        if chosen is not None:
            bricks = chosen + numbers.start
        else:
            bricks = torch.arange(numbers.start, numbers.stop, device=means.device)
        if affine:
            gain, shift = affine
            centre = gain * centre + shift
            scale = scale * (gain if chosen is None else gain.index_select(0, chosen))
        levels = self.codebook.levels(codes[coded], self.grid.voxels)
        rest = self.rotation.backwards(levels, bricks, self.dtype).mul_(scale)
        positive = self.masks(numbers) if signs.shape[1] else None
        rows = centred(centre, positive)
        if chosen is None:
            return rest.add_(rows), positive
        if positive is None:
            rows = rows.expand(-1, self.grid.voxels).contiguous()
        return rows.index_add_(0, chosen, rest), positive


def centred(means: Tensor, positive: Tensor | None) -> Tensor:
    """What the means say of every voxel: ``(bricks, voxels)``, or a column if there is but one."""
    if positive is None:
        return means
    below, above = means[:, :1], means[:, 1:]
    return masked(positive, above - below).add_(below)


def without(means: Tensor, rows: Tensor, positive: Tensor | None) -> Tensor:
    """The rows less their means; ``positive`` is 1.0 or 0.0."""
    rest = rows - means[:, :1]
    if positive is None:
        return rest
    return rest.addcmul_(positive, means[:, :1] - means[:, 1:])
