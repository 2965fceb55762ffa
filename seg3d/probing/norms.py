"""Norm layers, with the activation behind them, that keep bits instead of tensors.

With v = (y - mean) / sigma the output is z = act(gamma v + beta). Let dn = act' dz; then

    dy = (gamma dn - mean(gamma dn) - v mean(gamma v dn)) / sigma,

where the means are over what the norm is over (Ioffe and Szegedy, arXiv 1502.03167; Ulyanov,
Vedaldi and Lempitsky, arXiv 1607.08022; Wu and He, arXiv 1803.08494). act' needs the sign of
gamma v + beta, which is kept as one exact bit a voxel. v itself is needed in a term of rank one
only, which is small; there a sketch of v serves, whose expectation is v. Its mean over what is
normalised together, which for v is zero, is taken out, so that dy sums to zero as it should and
the bias of a convolution in front gets the gradient zero and not noise. The same sketch is in v
and in mean(gamma v dn), so that dy has a small bias, of order 1 / voxels of what is normalised
together, and with 1 / m bits of order m / 3 bricks of it: no matter for large volumes. Where
volumes are small, more bits cost little, and :func:`seg3d.probing.choose_bits` gives them one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seg3d.common.device import brought, telling
from seg3d.common.private import is_private
from seg3d.probing.bricks import BrickGrid
from seg3d.probing.kernels import kernels_for
from seg3d.probing.keys import ProbeKey
from seg3d.probing.names import make_norm_sketch
from seg3d.probing.packing import exceeds
from seg3d.probing.probed_layer import (
    ProbedFunction,
    ProbedLayer,
    plain,
    refuse_second_derivatives,
    single_under_autocast,
    uncompiled,
)
from seg3d.probing.records import KeptSketch, Record, attach, columns_of
from seg3d.probing.rotated import Encoder, RotatedSketch
from seg3d.probing.sketches import working_dtype
from seg3d.probing.work_sizes import bricks_of, rows_of_a_lot

Pool = Callable[[Tensor], Tensor]


class ProbedNorm(ProbedLayer):
    """What the probed norm layers have in common.

    Attributes:
        slope: of a (leaky) ReLU that follows at once and is applied here, or None.
        inplace: write the output over the input, of which nobody else may have need.
    """

    eps: float
    num_features: int
    slope: float | None
    inplace: bool

    def _become_probed(self, *choice: Any) -> None:
        super()._become_probed(*choice)
        self.slope, self.inplace = None, False

    def activate(self, slope: float | None, inplace: bool) -> None:
        """Choose what follows; see :attr:`slope` and :attr:`inplace`."""
        self.slope, self.inplace = slope, inplace

    @uncompiled
    def forward(self, input: Tensor) -> Tensor:
        """Normalise ``(B, C, D, H, W)``, and activate if there is a :attr:`slope`."""
        weight, bias = getattr(self, "weight", None), getattr(self, "bias", None)
        trained = any(one is not None and one.requires_grad for one in (input, weight, bias))
        probing = self.is_probing() and trained
        if not (self.is_sparing() and self._is_for(input.shape)):
            y = super().forward(input)
            return y if self.slope is None else F.leaky_relu_(y, self.slope)
        input = plain(input)
        scale, offset = self._scale_and_offset(input)
        normalisation = Normalisation(scale, offset, self._pool, self.slope)
        if not probing:
            z = input if self.inplace else torch.empty_like(input)
            normalise_only(input, z, weight, bias, normalisation)
            return z
        self.about_to_sketch(input)
        records: list[Record] = []
        z = _Normalise.apply(
            input,
            weight,
            bias,
            normalisation,
            make_norm_sketch(self.sketch, self.bits),
            self.next_key(),
            # Torch forbids it behind hooks for gradients, which make the input a view.
            self.inplace and input._base is None,
            records,
        )
        attach(records[0], z)
        return z

    def _is_for(self, shape: torch.Size) -> bool:
        """Whether these are volumes of several voxels; torch does or refuses everything else."""
        volumes = len(shape) == 5 and shape[0] > 0 and shape[1] == self.num_features
        return volumes and shape[2:].numel() > 1

    def _pool(self, values: Tensor) -> Tensor:
        """Take ``(B, C)`` to means over all that is normalised together."""
        raise NotImplementedError

    def _scale_and_offset(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, C)`` each, with v = x * scale + offset."""
        mean, variance = pooled_moments(x.detach(), self._pool)
        self._observe(mean, variance, x)
        scale = (variance + self.eps).rsqrt()
        return scale, -mean * scale

    def _observe(self, mean: Tensor, variance: Tensor, x: Tensor) -> None:
        """Told the moments, ``(B, C)`` each, of every batch."""


class ProbedInstanceNorm3d(ProbedNorm, nn.InstanceNorm3d):
    """:class:`torch.nn.InstanceNorm3d` without running statistics, in few bits."""

    def _pool(self, values: Tensor) -> Tensor:
        return values


class ProbedGroupNorm(ProbedNorm, nn.GroupNorm):
    """:class:`torch.nn.GroupNorm` of volumes in few bits."""

    @property
    def num_features(self) -> int:  # type: ignore[override]
        """The number of channels, by the name that it has in the other norms."""
        return self.num_channels

    @uncompiled
    def forward(self, input: Tensor) -> Tensor:
        """Normalise ``(B, C, D, H, W)``; under autocast in float32 on a GPU, as torch does."""
        return super().forward(input if input.is_cpu else single_under_autocast(input))

    def _pool(self, values: Tensor) -> Tensor:
        grouped = values.view(len(values), self.num_groups, -1)
        return grouped.mean(2, keepdim=True).expand_as(grouped).reshape(values.shape)


class ProbedBatchNorm3d(ProbedNorm, nn.BatchNorm3d):
    """:class:`torch.nn.BatchNorm3d` in few bits."""

    def _pool(self, values: Tensor) -> Tensor:
        return values.mean(0, keepdim=True).expand_as(values)

    def _scale_and_offset(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.training or self.running_mean is None or self.running_var is None:
            return super()._scale_and_offset(x)
        dtype = working_dtype(x.dtype)
        scale = (self.running_var.to(dtype) + self.eps).rsqrt()
        offset = -self.running_mean.to(dtype) * scale
        return scale.expand(len(x), -1), offset.expand(len(x), -1)

    def _observe(self, mean: Tensor, variance: Tensor, x: Tensor) -> None:
        """Move the running statistics as torch does, the variance being the unbiased one."""
        if not (self.training and self.track_running_stats):
            return
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        if self.momentum is None:
            dtype = torch.promote_types(self.running_mean.dtype, torch.float32)
            tracked = self.num_batches_tracked.to(dtype)
            share: Tensor | float = (1.0 / tracked).to(self.running_mean.dtype)
        else:
            share = self.momentum
        count = x.numel() // x.shape[1]
        unbiased = variance * (count / max(1, count - 1))
        for running, value in ((self.running_mean, mean), (self.running_var, unbiased)):
            running.lerp_(value[0].to(running.dtype), share)


@dataclass(frozen=True)
class Normalisation:
    """What a norm layer does to this batch.

    Attributes:
        scale: ``(B, C)``, v = y * scale + offset.
        offset: ``(B, C)``.
        pool: takes ``(B, C)`` to means over all that is normalised together.
        slope: of the activation behind, or None.
    """

    scale: Tensor
    offset: Tensor
    pool: Pool
    slope: float | None


class _Normalise(ProbedFunction):
    """Normalise, activate, and keep a :class:`Record` (appended to ``records``)."""

    @staticmethod
    def forward(
        ctx: Any,
        y: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        normalisation: Normalisation,
        sketch: RotatedSketch | KeptSketch,
        key: ProbeKey,
        inplace: bool,
        records: list[Record],
    ) -> Tensor:
        inplace = inplace and isinstance(sketch, RotatedSketch)
        z = y if inplace else torch.empty_like(y)
        with torch.autocast(y.device.type, enabled=False):
            record = normalise(y, z, weight, bias, normalisation, sketch, key)
        if inplace:
            ctx.mark_dirty(y)
        records.append(record)
        ctx.record = record.without_tensors()
        ctx.save_for_backward(*record.tensors)
        ctx.scale, ctx.pool = normalisation.scale, normalisation.pool
        ctx.weight_dtype = None if weight is None else weight.dtype
        ctx.bias_dtype = None if bias is None else bias.dtype
        return z

    @staticmethod
    def backward(ctx: Any, dz: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivatives()
        dy = dz if is_private(dz) else torch.empty_like(dz)
        record = ctx.record.with_tensors(ctx.saved_tensors)
        with torch.autocast(dz.device.type, enabled=False):
            dweight, dbias = normalise_backward(dz, dy, record, ctx.scale, ctx.pool)
        wanted = ctx.needs_input_grad
        return (
            dy,
            dweight.to(ctx.weight_dtype) if wanted[1] else None,
            dbias.to(ctx.bias_dtype) if wanted[2] else None,
            None,
            None,
            None,
            None,
            None,
        )


def normalise(
    y: Tensor,
    z: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    normalisation: Normalisation,
    sketch: RotatedSketch | KeptSketch,
    key: ProbeKey,
) -> Record:
    """Write act(gamma v + beta) into z, which may be y, and return what is to be kept.

    Args:
        y: ``(B, C, D, H, W)``.
        z: of the same shape.
        weight: gamma, ``(C,)``; None for ones.
        bias: beta, ``(C,)``; None for zeros.
        normalisation: v, and the activation.
        sketch: of v.
        key: of the sketch.
    """
    scale, offset = normalisation.scale, normalisation.offset
    slope = 1.0 if normalisation.slope is None else normalisation.slope
    encoder = Encoder(sketch, y, key, signed=True) if isinstance(sketch, RotatedSketch) else None
    affine = normalise_and_put(y, z, weight, bias, normalisation, encoder)
    kept = (y, scale, offset) if encoder is None else encoder.kept
    return Record(sketch, y.shape, slope, key.to_tensor(), affine, key.layer, kept)


def normalise_and_put(
    y: Tensor,
    z: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    normalisation: Normalisation,
    encoder: Encoder | None,
) -> tuple[Tensor, Tensor]:
    """Write act(gamma v + beta) into z, which may be y, and give v to the encoder, if there is one.

    Other arguments are as for :func:`normalise`.

    Returns:
        Gain and shift, ``(B, C)`` each.
    """
    scale, offset = normalisation.scale, normalisation.offset
    slope = 1.0 if normalisation.slope is None else normalisation.slope
    grid = BrickGrid.of(y.shape, KeptSketch.voxels) if encoder is None else encoder.grid
    if encoder is not None and (kernels := kernels_for(grid, y, z)):
        factors = 1.0 if weight is None else weight, 0.0 if bias is None else bias
        columns = columns_of(y, len(y), scale, offset, *factors, slope)
        kernels.normalise(encoder, y, z, columns)
        gain, shift = columns[2:4].clone()  # which are kept, and the others are not
        return gain, shift
    affine = affine_of(weight, bias, scale)
    for where, numbers in bricks_of(grid, y):
        by, plus, gain, shift = (grid.spread(part, where) for part in (scale, offset, *affine))
        v = (grid.read(y, where, scale.dtype) * by).add_(plus)
        n = (v * gain).add_(shift)
        if encoder is not None:
            encoder.put(v, numbers, exceeds(n, 0))
        grid.write(z, where, n if slope == 1 else F.leaky_relu_(n, slope))
    return affine


def normalise_only(
    y: Tensor, z: Tensor, weight: Tensor | None, bias: Tensor | None, normalisation: Normalisation
) -> None:
    """Write act(gamma v + beta) into z, which may be y, and keep nothing.

    Arguments are as for :func:`normalise`, which writes the same but for rounding.
    """
    gain, shift = affine_of(weight, bias, normalisation.scale)
    factor = (normalisation.scale * gain)[:, :, None, None, None]
    constant = (normalisation.offset * gain + shift)[:, :, None, None, None]
    rows = rows_of_a_lot(y)
    for part, target in telling(zip(y.split(rows, 2), z.split(rows, 2), strict=True), y):
        n = target if target.dtype == factor.dtype else torch.empty_like(target, dtype=factor.dtype)
        torch.addcmul(constant, part.to(factor.dtype), factor, out=n)
        if normalisation.slope is not None:
            F.leaky_relu_(n, normalisation.slope)
        if n is not target:
            target.copy_(n)


def affine_of(weight: Tensor | None, bias: Tensor | None, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Gain and shift, of the shape and type of the scale."""
    gain = torch.ones_like(scale) if weight is None else weight.to(scale).expand_as(scale)
    shift = torch.zeros_like(scale) if bias is None else bias.to(scale).expand_as(scale)
    return gain.contiguous(), shift.contiguous()


def normalise_backward(
    dz: Tensor, dy: Tensor, record: Record, scale: Tensor, pool: Pool
) -> tuple[Tensor, Tensor]:
    """Write the gradient with respect to y into dy, which may be dz.

    Args:
        dz: gradient with respect to the output, ``(B, C, D, H, W)``.
        dy: of the same shape.
        record: of v, and of the activation.
        scale: dv / dy at fixed statistics, ``(B, C)``.
        pool: takes ``(B, C)`` to means over all that is normalised together.

    Returns:
        The gradients with respect to gamma and beta, ``(C,)``.
    """
    rebuilder = record.open(dz.dtype)
    sums = rebuilder.sums(dz, record.slope, 1.0)
    columns = columns_of_gradient(sums, dz[0, 0].numel(), record.affine[0], scale, pool)
    rebuilder.gradient(dz, dy, columns)
    dbias, dweight = sums[:2].sum(1)
    return dweight, dbias


def columns_of_gradient(
    sums: Tensor, voxels: int, gain: Tensor, scale: Tensor, pool: Pool
) -> tuple[Tensor, Tensor, Tensor]:
    """What :meth:`Rebuilder.gradient` has to be told of sums over so many voxels."""
    # Few operators, since on a GPU each of these costs as much time as a small layer's convolution.
    means = sums / -voxels
    by_dn, by_product = gain * means[:2]
    along = scale * pool(by_product)
    constant = torch.addcmul(scale * pool(by_dn), along, pool(means[2]))
    return scale * gain, constant, along


def pooled_moments(y: Tensor, pool: Pool) -> tuple[Tensor, Tensor]:
    """Mean and (biased) variance over all that is normalised together: ``(B, C)`` each.

    What is told of parts is put together by Chan, Golub and LeVeque's formula (Stanford
    STAN-CS-79-773, 1979).
    """
    mean, variance = moments(y)
    pooled = pool(mean)
    if pooled is mean:  # every channel of every sample is on its own
        return mean, variance
    return pooled, pool(variance + (mean - pooled).square())


def moments(y: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and (biased) variance of every channel of every sample: ``(B, C)`` each."""
    kernels = kernels_for(None, y)
    return kernels.moments(y) if kernels else _moments(y)


def moments_of_parts(parts: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """The same of volumes of which only parts are there, one after the other."""
    count, mean, squares = 0, torch.zeros(()), torch.zeros(())
    for part_mean, variance, voxels in map(_told_of, parts):
        count += voxels
        distance = part_mean - mean.to(part_mean)
        mean = mean.to(part_mean) + distance * (voxels / count)
        squares = squares.to(variance) + voxels * variance
        squares += distance.square() * (voxels * (count - voxels) / count)
    return mean, squares / count


def _told_of(part: Tensor) -> tuple[Tensor, Tensor, int]:
    return *moments(part), part[0, 0].numel()


def _moments(y: Tensor) -> tuple[Tensor, Tensor]:
    """Of every channel: of each part in two passes, while it is in the cache."""
    dtype = working_dtype(y.dtype)
    parts = y.split(rows_of_a_lot(y), dim=2)
    means = y.new_zeros(len(parts), *y.shape[:2], dtype=dtype)
    squares = y.new_zeros(*y.shape[:2], dtype=dtype)
    for part, sample in telling(product(range(len(parts)), range(len(y))), y):
        flat = parts[part][sample].to(dtype).flatten(1)
        means[part, sample] = flat.mean(1)
        deviation = torch.linalg.vector_norm(flat - means[part, sample, :, None], dim=1)
        squares[sample] += deviation.square()
    shares = torch.tensor([part.shape[2] / y.shape[2] for part in parts], dtype=dtype)
    weights = brought(shares, y.device)[:, None, None]
    mean = (weights * means).sum(0)
    return mean, squares / y[0, 0].numel() + (weights * (means - mean).square()).sum(0)
