"""The published sketches: random probes across the whole volume.

Louboutin, Siahkoohi, Wang and Herrmann, "Low-memory stochastic backpropagation with
multi-channel randomized trace estimation" (arXiv 2106.06998), estimate the traces that make up
the weight gradient with r random vectors. With these as the columns of Z that is the exact
gradient for the surrogate Z Z^T x / r, of which only Z^T x and the seed are kept. Computed
from the surrogate by the library's own convolution it is right at the edges of volumes of any
shape, and for any stride, padding and dilation.

``independent``
    Normal probes over the D H W voxels, the same for every channel and sample (the authors'
    mode of that name). Keeps r numbers per sample and channel.
``multichannel``
    Normal probes over channels and voxels together (the authors' "gaussian"). Keeps r numbers
    per sample, at the price of leakage from every channel into every other.
``orthogonal``
    Orthogonalised, so that neither channels nor probes leak into each other. The authors make
    multi-channel probes nearly block-orthogonal, each channel being seen by its own few of the
    r; here every channel is projected on the same uniformly random r-dimensional subspace of
    the voxels, times D H W / r, so that r = D H W gives the exact gradient. Keeps r numbers
    per sample and channel.

For one functional g of N values, with s = <x, g>, the variances are (|x|^2 |g|^2 + s^2) / r for
normal probes and N (N - r) / (r (N - 1) (N + 2)) (|x|^2 |g|^2 + (1 - 2 / N) s^2) for orthogonal
ones. Both are large for volumes: prefer the rotated sketches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from seg3d.common.device import home_of_float64
from seg3d.probing.keys import ProbeKey
from seg3d.probing.sketches import Sketch, working_dtype

PROBES_STREAM = 2
NUMBERS_AT_ONCE = 1 << 22  # of the probes drawn at a time: 16 MiB in float32


@dataclass(frozen=True)
class ProbeSketch(Sketch):
    """Keeps ``rank`` numbers per sample and channel, or per sample if ``across_channels``.

    Attributes:
        rank: the number of probes; orthogonal ones are at most as many as the voxels.
        across_channels: probe channels and voxels together.
        orthogonal: make the probes orthogonal.
    """

    rank: int
    across_channels: bool = False
    orthogonal: bool = False

    def _compress(self, x: Tensor, key: ProbeKey) -> tuple[Tensor, ...]:
        voxels = x.shape[2:].numel()
        rank = self._rank(voxels)
        coefficients: Tensor | None = None
        gram: Tensor | None = None
        for part, probes in self._parts(x, key):
            product = part.to(probes.dtype).flatten(*self._rows) @ probes
            coefficients = product if coefficients is None else coefficients.add_(product)
            if self.orthogonal:
                wide = probes.to(home_of_float64(x.device), torch.float64)
                square = wide.T @ wide
                gram = square if gram is None else gram.add_(square)
        assert coefficients is not None
        if gram is not None:
            # x's normal probes G^T x become those of the projection, G (G^T G)^-1 G^T x.
            factor = torch.linalg.cholesky_ex(gram).L
            solved = torch.cholesky_solve(coefficients.to(gram).T, factor).T
            coefficients = (solved * voxels).to(coefficients)
        return (coefficients / rank,)

    def _fill(self, out: Tensor, kept: tuple[Tensor, ...], key: ProbeKey) -> None:
        (coefficients,) = kept
        for part, probes in self._parts(out, key):
            part.copy_((coefficients @ probes.T).view(part.shape))

    @property
    def _rows(self) -> tuple[int, int]:
        """The axes of ``(B, C, voxels)`` that make one when it is seen as a matrix."""
        return (1, 2) if self.across_channels else (0, 1)

    def _rank(self, voxels: int) -> int:
        return min(self.rank, voxels) if self.orthogonal else self.rank

    def _parts(self, x: Tensor, key: ProbeKey) -> Iterator[tuple[Tensor, Tensor]]:
        """Go through ``x`` in parts ``(B, C, voxels)``, each with the probes for it."""
        flat = x.flatten(2)
        voxels = flat.shape[2]
        channels = flat.shape[1] if self.across_channels else 1
        rank = self._rank(voxels)
        generator = key.generator(x.device, PROBES_STREAM)
        for part in flat.split(max(1, NUMBERS_AT_ONCE // (channels * rank)), dim=2):
            probes = torch.randn(
                channels * part.shape[2],
                rank,
                generator=generator,
                device=x.device,
                dtype=working_dtype(x.dtype),
            )
            yield part, probes
