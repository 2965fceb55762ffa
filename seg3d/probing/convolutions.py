"""Convolutions that keep a sketch of their input, instead of it, for the weight gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seg3d.common.choices import BITS, PROBES
from seg3d.common.private import is_alone, is_private
from seg3d.losses import Scores, Unscored
from seg3d.probing.keys import ProbeKey
from seg3d.probing.names import make_sketch
from seg3d.probing.probed_layer import (
    ProbedFunction,
    ProbedLayer,
    is_watched,
    lowered_under_autocast,
    plain,
    refuse_second_derivatives,
    uncompiled,
)
from seg3d.probing.records import (
    KeptSketch,
    NoRecord,
    ProbeRecord,
    Record,
    attach,
    keeps,
    record_of,
    sketched,
)
from seg3d.probing.rotated import RotatedSketch
from seg3d.probing.sketches import Sketch
from seg3d.probing.slab_convolutions import convolution_backward, convolve, convolve_over, is_cut
from seg3d.probing.slabs import Geometry, RollingRows
from seg3d.probing.upsampled import ConvolveUpsampled, Passage, Upsampled


class ProbedConvolution(ProbedLayer):
    """What :class:`ProbedConv3d` and :class:`ProbedConvTranspose3d` have in common.

    The output and the gradients with respect to input and bias are exactly those of the
    ordinary layer, while the weight gradient comes from a sketch of the input. Of a weight that is
    frozen there is no gradient, and then nothing is sketched or kept (the ordinary layer keeps its
    input all the same).

    Attributes:
        inplace: write the output over the input, of which nobody else may have need, if it is
            of the same shape.
        sources: numbers, as in their keys, of the layers whose sketches were used last.
    """

    weight: Tensor
    bias: Tensor | None
    in_channels: int
    groups: int
    inplace: bool = False
    sources: tuple[int, ...] = ()

    def _probed(self, x: Tensor, record: Record | None, geometry: Geometry) -> Tensor:
        self.sources = ()
        batched = x.dim() == 5
        y = self._apply_function(x if batched else x.unsqueeze(0), record, geometry)
        return y if batched else y.squeeze(0)

    def note_source(self, x: Tensor, source: Any, key: ProbeKey) -> None:
        """Add to :attr:`sources`: a record, or the sketch of x that is to be made with this key."""
        if isinstance(source, Record):
            self.sources += (source.layer,)
        else:
            self.sources += (key.layer,)
            self.about_to_sketch(x)

    def _apply_function(
        self,
        x: Tensor,
        record: Record | None,
        geometry: Geometry,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        onto: Tensor | None = None,
        with_skip: bool = False,
        inplace: bool = False,
    ) -> Any:
        x = lowered_under_autocast(plain(x))
        if weight is None:
            weight, bias = self.weight, self.bias
        inplace = inplace or self.inplace
        if self.is_lean():
            return _convolved(x, weight, bias, geometry, onto, inplace)
        source, key = self._source_for(x, record, (self,))
        return _Convolve.apply(x, weight, bias, onto, geometry, source, key, with_skip, inplace)

    def _source_for(
        self, x: Tensor, record: Record | None, users: tuple[ProbedConvolution, ...]
    ) -> tuple[Record | Sketch | KeptSketch | NoRecord, ProbeKey]:
        """What those who read x get its surrogate from, and the key of a sketch of it."""
        trained = [layer for layer in users if layer.weight.requires_grad]
        if not trained:
            return NoRecord(), self.probe_key
        key = self.next_key()
        source = max(trained, key=lambda layer: BITS.index(layer.bits)).source_of(record)
        self.note_source(x, source, key)
        return source, key

    def takes_parts(self) -> bool:
        """Whether :meth:`of_parts` can do, and now does, without the concatenation."""
        return self.is_sparing() and self.groups == 1

    @uncompiled
    def of_parts(self, parts: list[Callable[[], Tensor]]) -> Tensor:
        """The convolution of the parts' concatenation along the channels, without making it.

        The weights apply to the channels of the last part first (conv(cat(a, b)) = conv_a(a) +
        conv_b(b)), so that it may be gone before the others are made. One that nobody else holds
        may be written over.

        Args:
            parts: functions that return ``(B, C_i, D, H, W)``; called last to first, and the
                result is let go at once. :class:`~seg3d.probing.upsampled.Upsampled` ones but
                the last are not made as a whole where that can be avoided.

        Returns:
            ``(B, C_out, D', H', W')``.
        """
        if not self.is_sparing():
            return self(torch.cat([part() for part in parts], dim=1))
        self.sources = ()
        y: Tensor | None = None
        stop = self.in_channels
        for part in reversed(parts):
            y, stop = self._of_part(part, stop, y)
        assert y is not None
        return y

    def _of_part(
        self, part: Callable[[], Tensor], stop: int, onto: Tensor | None
    ) -> tuple[Tensor, int]:
        """Add the convolution of the part, whose channels end at ``stop``; returns their start."""
        x = part()
        alone = is_alone(x)
        start = stop - x.shape[1]
        bias = self.bias if onto is None else None
        weight = self._weight_of(start, stop)
        record = record_of(x)
        y = self._apply_function(x, record, self.geometry(), weight, bias, onto, inplace=alone)
        return y, start

    def geometry(self) -> Geometry:
        """The arguments of the convolution."""
        raise NotImplementedError

    def _weight_of(self, start: int, stop: int) -> Tensor:
        """The weight of these channels of the input."""
        raise NotImplementedError

    def source_of(self, record: Record | None) -> Record | Sketch | KeptSketch:
        """The record, if it will do, or else the sketch to be made."""
        sketch = make_sketch(self.sketch, self.rank, self.bits)
        assert sketch is not None
        return record if record is not None and _serves(record, sketch) else sketch


class ProbedConv3d(ProbedConvolution, nn.Conv3d):
    """:class:`torch.nn.Conv3d` with a sketched weight gradient; see :class:`ProbedLayer`.

    Args:
        *args, **kwargs: those of :class:`torch.nn.Conv3d`.
        sketch: name of the sketch, one of ``seg3d.probing.SKETCHES``.
        rank: number of probes of ``independent``, ``multichannel`` and ``orthogonal``; the other
            sketches have no use for it.
        bits: kept per voxel by ``rotated``.

    Raises:
        UserError: the sketch is unknown, or the rank or the bits are not legal.
    """

    @uncompiled
    def forward(self, input: Tensor) -> Tensor:
        """Convolve ``(B, C, D, H, W)`` or ``(C, D, H, W)``."""
        if not self.is_sparing() or input.dim() not in (4, 5):
            return super().forward(input)
        x, padding = self._padded(input)
        return self._probed(x, record_of(x), self._geometry(padding))

    @uncompiled
    def with_skip(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The convolution of ``x``, and x for another use, such as a skip connection.

        Autograd adds the gradients of two uses of x in a third tensor; here that of the
        convolution is added, slab by slab, to the other use's, in place if that is allowed.

        Args:
            x: ``(B, C, D, H, W)``.

        Returns:
            ``(B, C_out, D', H', W')``, and x or a tensor that shares its memory.
        """
        if not (self.is_probing() and x.requires_grad and lowered_under_autocast(x) is x):
            return self(x), x
        padded, padding = self._padded(x)
        if padded is not x:
            return self(x), x
        record, self.sources = record_of(x), ()
        y, skip = self._apply_function(x, record, self._geometry(padding), with_skip=True)
        if record is not None:
            attach(record, skip)
        return y, skip

    def takes_parts(self) -> bool:
        plain = self.padding_mode == "zeros" and not isinstance(self.padding, str)
        return plain and super().takes_parts()

    def unscored(self, x: Tensor) -> Scores:
        """The same, left undone if it can be done slab by slab by whoever needs it.

        Args:
            x: ``(B, C, D, H, W)``.
        """
        plainly = {*self.kernel_size, *self.stride, self.groups} == {1}
        if not (plainly and self.is_sparing()) or is_watched(self, x):
            return self(x)
        self.sources = ()
        return Unscored(lowered_under_autocast(plain(x)), self.weight, self.bias)

    def _of_part(
        self, part: Callable[[], Tensor], stop: int, onto: Tensor | None
    ) -> tuple[Tensor, int]:
        if onto is not None and isinstance(part, Upsampled) and self._can_upsample(part.up, onto):
            return self._of_upsampled(part, stop, onto)
        return super()._of_part(part, stop, onto)

    def _weight_of(self, start: int, stop: int) -> Tensor:
        return self.weight[:, start:stop]

    def _can_upsample(self, up: nn.Module, onto: Tensor) -> bool:
        """Whether ``up`` can be done slab by slab, and what serves it serves us too."""
        return (
            isinstance(up, ProbedConvTranspose3d)
            and up.is_sparing()
            and not is_watched(up, onto)
            and (self.is_lean() or not {self.sketch, up.sketch} & {*PROBES})
            and up.geometry().windows_lie_side_by_side(up.kernel_size[0])
        )

    def _of_upsampled(self, part: Upsampled, stop: int, onto: Tensor) -> tuple[Tensor, int]:
        up, x = part.up, lowered_under_autocast(plain(part.below()))
        assert isinstance(up, ProbedConvTranspose3d)
        start = stop - up.out_channels
        weight = self.weight[:, start:stop]
        geometries = up.geometry(), self.geometry()
        if self.is_lean():
            weights = (up.weight, up.bias, weight)
            Passage.of(x.shape, x.dtype, geometries, weights).add_to(onto, x)
            return onto, start
        source, key = self._source_for(x, record_of(x), (self, up))
        up.sources = self.sources[-1:]
        y = ConvolveUpsampled.apply(x, up.weight, up.bias, weight, onto, geometries, source, key)
        return y, start

    def geometry(self) -> Geometry:
        assert self.padding_mode == "zeros" and not isinstance(self.padding, str)
        return self._geometry(self.padding)

    def _geometry(self, padding: tuple[int, ...]) -> Geometry:
        return Geometry(self.stride, padding, self.dilation, False, (0, 0, 0), self.groups)

    def _padded(self, x: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """Pad x where the convolution itself cannot; returns it and the padding left to do."""
        both_sides = self._reversed_padding_repeated_twice  # (W, W, H, H, D, D)
        if self.padding_mode != "zeros":
            return F.pad(x, both_sides, mode=self.padding_mode), (0, 0, 0)
        if not isinstance(self.padding, str):
            return x, self.padding
        # "same" with an even kernel wants one voxel more behind than before.
        before, behind = both_sides[0::2], both_sides[1::2]
        excess = [n for b, e in zip(before, behind, strict=True) for n in (0, e - b)]
        return (F.pad(x, excess) if any(excess) else x), tuple(reversed(before))


class ProbedConvTranspose3d(ProbedConvolution, nn.ConvTranspose3d):
    """:class:`torch.nn.ConvTranspose3d` with a sketched weight gradient.

    Arguments and errors are as for :class:`ProbedConv3d`.
    """

    padding: tuple[int, ...]  # never a word, as it can be in a Conv3d
    output_padding: tuple[int, ...]

    @uncompiled
    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Convolve ``(B, C, D, H, W)`` or ``(C, D, H, W)``."""
        if not self.is_probing() or input.dim() not in (4, 5):
            return super().forward(input, output_size)
        spatial_axes = 3
        output_padding = self._output_padding(
            input,
            output_size,
            list(self.stride),
            list(self.padding),
            list(self.kernel_size),
            spatial_axes,
            list(self.dilation),
        )
        return self._probed(input, record_of(input), self.geometry(tuple(output_padding)))

    def _weight_of(self, start: int, stop: int) -> Tensor:
        return self.weight[start:stop]

    def geometry(self, output_padding: tuple[int, ...] | None = None) -> Geometry:
        """With the padding of the output that is wanted; without, that of the layer."""
        last = self.output_padding if output_padding is None else output_padding
        return Geometry(self.stride, self.padding, self.dilation, True, last, self.groups)


def _serves(record: Record, sketch: Sketch | KeptSketch) -> bool:
    """Whether a record of x will do for a layer that asks for this sketch."""
    if isinstance(sketch, KeptSketch):
        return isinstance(record.sketch, KeptSketch)
    return isinstance(sketch, RotatedSketch)


class _Convolve(ProbedFunction):
    """``torch.convolution`` that remembers a record or sketch of x.

    Added to ``onto`` if given; written over x if ``inplace``, where that is worthwhile.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        onto: Tensor | None,
        geometry: Geometry,
        source: Record | ProbeRecord | Sketch | KeptSketch | NoRecord,
        key: ProbeKey,
        with_skip: bool,
        inplace: bool,
    ) -> Tensor | tuple[Tensor, Tensor]:
        if not isinstance(source, Record | ProbeRecord | NoRecord):
            source = sketched(x, source, key)
        possible = not with_skip and not keeps(source.tensors, x)
        y = _convolved(x, weight, bias, geometry, onto, inplace and possible)
        if y is x or y is onto:
            ctx.mark_dirty(y)
        ctx.save_for_backward(weight, *source.tensors)
        ctx.source = source.without_tensors()
        ctx.geometry, ctx.bias_dtype = geometry, None if bias is None else bias.dtype
        ctx.shape, ctx.dtype = x.shape, x.dtype
        ctx.channels_last = not x.is_contiguous() and x.is_contiguous(
            memory_format=torch.channels_last_3d
        )
        # Not a view, which nothing could be written over.
        return (y, x.detach()) if with_skip else y

    @staticmethod
    def backward(ctx: Any, dy: Tensor, dskip: Tensor | None = None) -> tuple[Tensor | None, ...]:
        refuse_second_derivatives()
        if dskip is not None and not is_private(dskip):
            dskip = dskip.clone()
        over = (
            dskip is None
            and not ctx.needs_input_grad[3]
            and dy.dtype == ctx.dtype
            and is_private(dy)
        )
        weight, *tensors = ctx.saved_tensors
        layout = torch.channels_last_3d if ctx.channels_last else torch.contiguous_format

        def allocate(shape: list[int]) -> Tensor:
            return torch.empty(shape, dtype=ctx.dtype, device=dy.device, memory_format=layout)

        wanted = list(ctx.needs_input_grad[:3])
        source = ctx.source.with_tensors(tuple(tensors)) if wanted[1] else NoRecord()
        fill, step = source.filler(ctx.dtype)
        x = RollingRows(ctx.shape, allocate, step, fill)
        cast = weight.to(ctx.dtype)
        with torch.autocast(dy.device.type, enabled=False):
            onto = dy if over and ctx.geometry.keeps_shape(ctx.shape, weight.shape) else dskip
            dx, dw, db = convolution_backward(dy, x, cast, ctx.geometry, wanted, onto)
        donto = dy if ctx.needs_input_grad[3] else None
        dweights = _to(dw, weight.dtype), _to(db, ctx.bias_dtype)
        return dx, *dweights, donto, None, None, None, None, None


def _convolved(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: Geometry,
    onto: Tensor | None,
    inplace: bool,
) -> Tensor:
    """The convolution of x: added to ``onto`` if given, or written over x if that is worthwhile."""
    cast = (weight.to(x.dtype), _to(bias, x.dtype), geometry)
    if inplace and onto is None and is_cut(x, weight, geometry):
        convolve_over(x, *cast)
        return x
    return convolve(x, *cast, onto)


def _to(tensor: Tensor | None, dtype: torch.dtype | None) -> Tensor | None:
    return tensor if tensor is None else tensor.to(dtype)
