"""Convolutions and their gradients slab by slab: written over, or added to, what is there."""

from __future__ import annotations

import torch
from torch import Tensor

from seg3d.common.device import is_on_cpu, telling
from seg3d.probing.slabs import Geometry, OverlapAdd, RollingRows, added, copy_rows, rows_of
from seg3d.probing.work_sizes import slab_elements

LARGE = 4  # slabs
CUDNN_LIMIT = 2**31  # elements, above which cuDNN's 3D convolutions need huge workspaces


def convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, onto: Tensor | None
) -> Tensor:
    """``torch.convolution``, in slabs if it is to be added to ``onto`` in place or is large."""
    if onto is None and not _is_large(x, weight, geometry):
        return geometry.convolve(x, weight, bias)
    shape = geometry.output_shape(x.shape, weight.shape) if onto is None else onto.shape
    out = x.new_empty(shape) if onto is None else onto
    inner = geometry.without_depth_padding()
    overlap = OverlapAdd(out, empty=onto is None)
    for slab in telling(geometry.slabs(x.shape, shape, slab_elements(x)), x):
        samples, window = slab.samples, geometry.window(slab, weight.shape[2])
        if geometry.transposed:
            rows = rows_of(x, samples, slab.first, slab.last)
            overlap.add(samples, *window, inner.convolve(rows, weight, None))
        else:
            rows = inner.convolve(rows_of(x, samples, *window), weight, bias)
            target = out[samples, :, slab.first : slab.last]
            copy_rows(target, rows) if onto is None else target.add_(rows)
            del rows  # which need not be there beside the next
    if geometry.transposed:
        overlap.finish()
        if bias is not None:
            out += bias.view(1, -1, 1, 1, 1)
    return out


def _is_large(x: Tensor, weight: Tensor, geometry: Geometry) -> bool:
    """Whether what the library needs beside x and y is worth the trouble to avoid it.

    On a GPU that are copies of both with the channels last, but for kernels of one voxel and for
    single channels, of which there is only one order.
    """
    elements = geometry.elements(x.shape, weight.shape)
    copied = not is_on_cpu(x) and weight[0, 0].numel() > 1 and x.shape[1] > 1
    return elements >= CUDNN_LIMIT or (copied and elements >= LARGE * slab_elements(x))


def is_cut(x: Tensor, weight: Tensor, geometry: Geometry) -> bool:
    """Whether :func:`convolve_over` can be used, and takes less memory than the library."""
    return (
        geometry.keeps_shape(x.shape, weight.shape)
        and len(geometry.slabs(x.shape, x.shape, slab_elements(x))) > 1
    )


def convolve_over(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> None:
    """Write the convolution of x over x, slab by slab."""
    inner = geometry.without_depth_padding()
    before = x  # rows of x in front of the slab, which have been written over
    for slab in telling(geometry.slabs(x.shape, x.shape, slab_elements(x)), x):
        samples, (first, last) = slab.samples, geometry.window(slab, weight.shape[2])
        rows = rows_of(x, samples, first, last, apart=slab.first > 0)
        if slab.first > 0:
            copy_rows(rows[:, :, : slab.first - first], before)
        # A copy: the view would keep them all.
        before = rows[:, :, slab.last - slab.first :][:, :, : slab.first - first].clone()
        copy_rows(x[samples, :, slab.first : slab.last], inner.convolve(rows, weight, bias))
        del rows


def convolution_backward(
    dy: Tensor,
    x: RollingRows,
    weight: Tensor,
    geometry: Geometry,
    wanted: list[bool],
    onto: Tensor | None,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients with respect to x, weight and bias, the latter two in float32 or better.

    Args:
        dy: ``(B, C_out, D', H', W')``.
        x: gives the rows of x, or of its surrogate.
        weight: in dy's type.
        geometry: of the convolution.
        wanted: which of the three gradients.
        onto: to which the gradient with respect to x is to be added in place, or dy, which it
            is to be written over, or None.
    """
    first, *others = geometry.slabs(x.shape, dy.shape, slab_elements(dy))
    if not others:
        # The library's own gradients, to the last bit.
        dx, dw, db = geometry.backward(dy, x.rows(first.samples, 0, x.shape[2]), weight, wanted)
        return dx if onto is None or onto is dy else onto.add_(dx), dw, db
    total: OverlapAdd | None = None
    if wanted[0]:
        out = x.allocate(list(x.shape)) if onto is None else onto
        total = OverlapAdd(out, empty=onto is None or onto is dy)
    inner = geometry.without_depth_padding()
    # The windows of y in a transposed convolution may overlap, or leave rows out.
    apart = wanted[2] and geometry.transposed
    wanted = [*wanted[:2], wanted[2] and not apart]
    sums: list[Tensor | None] = [None, None]
    for slab in telling((first, *others), dy):
        samples, rows = slab.samples, (slab.first, slab.last)
        window = geometry.window(slab, weight.shape[2])
        if geometry.transposed:
            rows, window = window, rows
        # x in ``window`` and y in ``rows`` belong together.
        part = inner.backward(rows_of(dy, samples, *rows), x.rows(samples, *window), weight, wanted)
        if total is not None:
            total.add(samples, *window, part[0], slab.last if onto is dy else None)
        sums = [added(*pair) for pair in zip(sums, part[1:], strict=True)]
        del part  # which need not be there beside the next
    if total is not None:
        total.finish()
    if apart:
        sums[1] = dy.sum((0, 2, 3, 4), dtype=torch.promote_types(dy.dtype, torch.float32))
    return None if total is None else total.out, sums[0], sums[1]
