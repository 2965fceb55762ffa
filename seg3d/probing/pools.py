"""Pooling layers that do not keep their input, of which the gradient needs but the shape."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.utils import _triple

from seg3d.common.device import is_on_cpu
from seg3d.common.private import is_private
from seg3d.probing.probed_layer import (
    ProbedFunction,
    ProbedLayer,
    plain,
    refuse_second_derivatives,
    single_under_autocast,
    uncompiled,
)
from seg3d.probing.records import attach, record_of


class ProbedPool(ProbedLayer):
    """What the pooling layers have in common; their gradients are exact, whatever the sketch."""

    return_indices = False

    @uncompiled
    def forward(self, input: Tensor) -> Any:
        """Pool ``(B, C, D, H, W)``."""
        usual = input.dim() == 5 and input.numel() > 0
        if not (self.is_probing() and usual) or self.return_indices:
            return super().forward(input)
        return _Pool.apply(plain(input), self)

    def pool(self, x: Tensor) -> tuple[Tensor, ...]:
        """The output, and what :meth:`gradient` has to know."""
        raise NotImplementedError

    def gradient(self, dy: Tensor, like: Tensor, *kept: Tensor) -> Tensor:
        """From dy to dx, which is of the shape of ``like``."""
        raise NotImplementedError


class ProbedMaxPool3d(ProbedPool, nn.MaxPool3d):
    """:class:`torch.nn.MaxPool3d` that keeps the places of the maxima, in 32 bits."""

    def pool(self, x: Tensor) -> tuple[Tensor, ...]:
        # With places, autocast on a CPU forgets that it does maxima in float32.
        x = single_under_autocast(x) if x.is_cpu else x
        y, places = F.max_pool3d(x, *self._geometry(), return_indices=True)
        fits = x[0, 0].numel() <= torch.iinfo(torch.int32).max
        return y, places.int() if fits else places

    def gradient(self, dy: Tensor, like: Tensor, *kept: Tensor) -> Tensor:
        backward = torch.ops.aten.max_pool3d_with_indices_backward
        return backward(dy, like, *self._geometry(), kept[0].long())

    def _geometry(self) -> tuple[Any, ...]:
        numbers = (self.kernel_size, self.stride, self.padding, self.dilation)
        return *map(_triple, numbers), self.ceil_mode


class ProbedAvgPool3d(ProbedPool, nn.AvgPool3d):
    """:class:`torch.nn.AvgPool3d` that keeps nothing."""

    @uncompiled
    def with_skip(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The means of ``x``, and x for another use, such as a skip connection.

        As in :meth:`ProbedConv3d.with_skip`, the gradient of the means is added to the other
        use's, in place if that is allowed.

        Args:
            x: ``(B, C, D, H, W)``, divided by the windows, which lie side by side.

        Returns:
            ``(B, C, D', H', W')``, and x or a tensor that shares its memory.
        """
        # The means are in the type of x under autocast too: nobody needs them in a finer one.
        with torch.autocast(x.device.type, enabled=False):
            if not (self.is_probing() and x.requires_grad):
                return _means(x, _triple(self.kernel_size)), x
            means, skip = _MeansWithSkip.apply(plain(x), _triple(self.kernel_size))
        if record := record_of(x):
            attach(record, skip)
        return means, skip

    def pool(self, x: Tensor) -> tuple[Tensor, ...]:
        return (F.avg_pool3d(x, *self._geometry()),)

    def gradient(self, dy: Tensor, like: Tensor, *kept: Tensor) -> Tensor:
        return torch.ops.aten.avg_pool3d_backward(dy, like, *self._geometry())

    def _geometry(self) -> tuple[Any, ...]:
        numbers = (self.kernel_size, self.stride, self.padding)
        rest = (self.ceil_mode, self.count_include_pad, self.divisor_override)
        return *map(_triple, numbers), *rest


class _Pool(ProbedFunction):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: ProbedPool) -> Tensor:
        y, *kept = layer.pool(x)
        ctx.save_for_backward(*kept)
        ctx.layer, ctx.shape, ctx.dtype = layer, x.shape, x.dtype
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        refuse_second_derivatives()
        like = dy.new_empty(1).expand(ctx.shape)
        if dy.dtype == ctx.dtype:
            return ctx.layer.gradient(dy, like, *ctx.saved_tensors), None
        # Autocast has chosen float32, of which the whole need not be there.
        dx = torch.empty(ctx.shape, dtype=ctx.dtype, device=dy.device)
        for sample, *parts in zip(dx, dy, like, *ctx.saved_tensors, strict=True):
            sample.copy_(ctx.layer.gradient(*parts))
        return dx, None


def _means(x: Tensor, window: tuple[int, int, int]) -> Tensor:
    """Over windows that lie side by side; on a CPU PyTorch has none of half precision."""
    if is_on_cpu(x) and x.dtype in (torch.bfloat16, torch.float16):
        return F.avg_pool3d(x.float(), window).to(x.dtype)
    return F.avg_pool3d(x, window)


class _MeansWithSkip(ProbedFunction):
    """Means over windows that lie side by side, and x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, window: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
        ctx.window = window
        return _means(x, window), x.detach()

    @staticmethod
    def backward(ctx: Any, dmeans: Tensor, dskip: Tensor) -> tuple[Tensor, None]:
        refuse_second_derivatives()
        dx = dskip if is_private(dskip) else dskip.clone()
        windows, each = dx, dmeans
        for axis, size in enumerate(ctx.window):
            windows = windows.unflatten(2 + 2 * axis, (-1, size))
            each = each.unsqueeze(3 + 2 * axis)
        windows.add_(each, alpha=1 / math.prod(ctx.window))
        return dx, None
