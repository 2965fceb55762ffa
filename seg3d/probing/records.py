"""What is remembered of a tensor instead of the tensor, and handed from layer to layer.

A norm layer remembers a sketch of its normalised input v and which voxels of its output are
positive. Whatever follows needs no more: the activation's gradient depends on the signs alone,
and a convolution's input x = act(gain v + shift) is linear in v where its sign is known, so
that the surrogate of v gives one for x whose mean is x. The record travels with the tensor, and
a convolution that finds one on its input keeps nothing of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from types import ModuleType

import torch
from torch import Tensor

from seg3d.probing.bricks import BrickGrid, Where
from seg3d.probing.kernels import kernels_for
from seg3d.probing.keys import ProbeKey
from seg3d.probing.packing import as_masks, exceeds, masked
from seg3d.probing.rotated import Decoder, RotatedSketch
from seg3d.probing.sketches import Sketch, working_dtype
from seg3d.probing.work_sizes import bricks_of

Lot = tuple[Where, slice]
Fill = Callable[[Tensor, slice, slice], None]
Slope = float | Tensor


@dataclass(frozen=True)
class KeptSketch:
    """Keeps the tensor itself: no noise, for layers where that costs little.

    Attributes:
        voxels: largest number of voxels of a brick; bricks are but the order of the work.
    """

    voxels: int = 128


@dataclass(frozen=True)
class Record:
    """How to rebuild ``x = act(gain * v + shift)``, bit by bit.

    Attributes:
        sketch: how v is kept.
        shape: of x, ``(B, C, D, H, W)``.
        slope: of the activation where ``gain * v + shift`` is negative: 0 for a ReLU, 1 for
            none at all, a tensor ``(C,)`` for a PReLU.
        key: of the sketch.
        affine: gain and shift, ``(B, C)`` each; empty if x is v.
        layer: number of the layer that made it, as in its key.
        kept: what the sketch keeps; a :class:`KeptSketch` keeps the tensor y that v is the
            normalised form of, v = y * scale + offset, and these, ``(B, C)``.
    """

    sketch: RotatedSketch | KeptSketch
    shape: torch.Size
    slope: float | Tensor
    key: Tensor
    affine: tuple[Tensor, ...]
    layer: int
    kept: tuple[Tensor, ...]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All that is kept, for ``save_for_backward``."""
        slope = (self.slope,) if isinstance(self.slope, Tensor) else ()
        return *slope, self.key, *self.affine, *self.kept

    def with_tensors(self, tensors: tuple[Tensor, ...]) -> Record:
        """This record with :attr:`tensors` as autograd gives them back."""
        rest = iter(tensors)
        slope = next(rest) if isinstance(self.slope, Tensor) else self.slope
        key = next(rest)
        affine = tuple(next(rest) for _ in self.affine)
        return replace(self, slope=slope, key=key, affine=affine, kept=tuple(rest))

    def without_tensors(self) -> Record:
        """What is left of this record for :meth:`with_tensors` to complete."""
        nothing = torch.empty(0)
        slope = nothing if isinstance(self.slope, Tensor) else self.slope
        affine = (nothing,) * len(self.affine)
        return replace(self, slope=slope, key=nothing, affine=affine, kept=())

    def filler(self, dtype: torch.dtype) -> tuple[Fill, int]:
        """What writes the surrogate of x, and the number of depth rows that go together."""
        if isinstance(self.sketch, KeptSketch) and not self.affine and is_one(self.slope):
            return partial(_copy_rows, self.kept[0]), 1
        rebuilder = self.open(dtype)
        return rebuilder.fill, rebuilder.grid.planes

    def open(self, dtype: torch.dtype) -> Rebuilder:
        """Begin to rebuild, in the precision that suits tensors of ``dtype``."""
        return Rebuilder(self, working_dtype(dtype))


@dataclass(frozen=True)
class NoRecord:
    """In place of a record, of an x that no weight is trained with: then nobody asks for it."""

    tensors: tuple[Tensor, ...] = ()

    def with_tensors(self, tensors: tuple[Tensor, ...]) -> NoRecord:
        """This one, as :meth:`Record.with_tensors`."""
        return self

    def without_tensors(self) -> NoRecord:
        """This one, as :meth:`Record.without_tensors`."""
        return self

    def filler(self, dtype: torch.dtype) -> tuple[Fill, int]:
        """What leaves rows as they are, whose values do not matter."""
        return _leave_rows, 1


@dataclass(frozen=True)
class ProbeRecord:
    """The same for the published probes, which see the whole volume at once.

    Attributes:
        sketch: the probes.
        shape: of x.
        kept: the key, and what the sketch keeps.
    """

    sketch: Sketch
    shape: torch.Size
    kept: tuple[Tensor, ...]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All that is kept."""
        return self.kept

    def with_tensors(self, tensors: tuple[Tensor, ...]) -> ProbeRecord:
        """This record with :attr:`tensors` as autograd gives them back."""
        return replace(self, kept=tensors)

    def without_tensors(self) -> ProbeRecord:
        """What is left of this record for :meth:`with_tensors` to complete."""
        return replace(self, kept=())

    def filler(self, dtype: torch.dtype) -> tuple[Fill, int]:
        """What writes the surrogate of x, and the number of depth rows that go together."""
        key, *kept = self.kept
        whole = self.sketch.surrogate(tuple(kept), self.shape, dtype, ProbeKey.from_tensor(key))
        return partial(_copy_rows, whole), 1


def sketched(x: Tensor, sketch: Sketch | KeptSketch, key: ProbeKey) -> Record | ProbeRecord:
    """The record of an x that has none."""
    number = key.to_tensor()
    if isinstance(sketch, KeptSketch):
        return Record(sketch, x.shape, 1.0, number, (), key.layer, (x,))
    kept = sketch.compress(x, key)
    if isinstance(sketch, RotatedSketch):
        return Record(sketch, x.shape, 1.0, number, (), key.layer, kept)
    return ProbeRecord(sketch, x.shape, (number, *kept))


def _leave_rows(out: Tensor, samples: slice, rows: slice) -> None:
    """Write nothing."""


def _copy_rows(x: Tensor, out: Tensor, samples: slice, rows: slice) -> None:
    out.copy_(x[samples, :, rows])


class Rebuilder:
    """Rebuilds what a :class:`Record` stands for, lot by lot."""

    def __init__(self, record: Record, dtype: torch.dtype) -> None:
        self.record = record
        self.grid = BrickGrid.of(record.shape, record.sketch.voxels)
        self.dtype = dtype
        self._decoder: Decoder | None = None
        self._columns_to_fill: Tensor | None = None
        if isinstance(record.sketch, RotatedSketch):
            key = ProbeKey.from_tensor(record.key)
            self._decoder = Decoder(record.sketch, record.shape, record.kept, key, dtype)

    def part(self, samples: slice, layers: slice) -> Rebuilder:
        """The same for some of the volume, in tensors that hold no more than that.

        Args:
            samples: which.
            layers: which, all of them or those of a single sample.
        """
        part, record = copy(self), self.record
        _, channels, _, *plane = record.shape
        part.grid, part._columns_to_fill = self.grid.part(samples, layers), None
        if self._decoder is not None:
            part._decoder = self._decoder.part(samples, layers)
            kept = part._decoder.kept
        else:
            first = layers.start * self.grid.planes
            rows = slice(first, first + part.grid.depth)
            y, *normalised = record.kept
            kept = (y[samples, :, rows], *(column[samples] for column in normalised))
        part.record = replace(
            record,
            shape=torch.Size((part.grid.batch, channels, part.grid.depth, *plane)),
            affine=tuple(column[samples] for column in record.affine),
            kept=kept,
        )
        return part

    def lots(self, samples: slice | None = None, layers: slice | None = None) -> Iterator[Lot]:
        """The lots in which it is best done."""
        return bricks_of(self.grid, self.record.kept[0], samples, layers)

    def values(
        self, where: Where, numbers: slice, affine: tuple[Tensor, ...] = ()
    ) -> tuple[Tensor, Tensor | None]:
        """Surrogate of v, or of gain * v + shift, and the masks of where x is positive.

        Args:
            where: of the lot.
            numbers: of its bricks.
            affine: gain and shift, ``(B, C)`` each; empty for 1 and 0.

        Returns:
            ``(bricks, voxels)`` each; the first may be a view of what is kept if nothing is done
            to it, and the second is None if that is not known, as by records of convolutions.
        """
        if self._decoder is not None:
            return self._decoder.rows(numbers, self._spread(affine, where))
        y, *normalised = self.record.kept
        v = self._applied(tuple(normalised), self.grid.read(y, where, self.dtype), where)
        argument = self._applied(self.record.affine, v, where)
        rows = argument if affine is self.record.affine else self._applied(affine, v, where)
        return rows, as_masks(exceeds(argument, 0))

    def signed(
        self, where: Where, numbers: slice, affine: tuple[Tensor, ...] = ()
    ) -> tuple[Tensor, Tensor]:
        """The same of a record that knows what is positive."""
        rows, positive = self.values(where, numbers, affine)
        assert positive is not None
        return rows, positive

    def masks(self, where: Where, numbers: slice) -> Tensor:
        """Those of where x is positive, ``(bricks, voxels)``."""
        if self._decoder is not None:
            return self._decoder.masks(numbers)
        return self.signed(where, numbers)[1]

    def sums(self, dz: Tensor, below: Slope, above: float) -> Tensor:
        """Sums over every channel of dn, dn v and v: ``(3, B, C)``.

        Args:
            dz: ``(B, C, D, H, W)``; dn is dz times ``above`` where x is positive, else ``below``.
            below: a number, or one for every channel.
            above: a number.
        """
        if kernels := self._kernels(dz):
            return kernels.sums(self._decoder, dz, columns_of(dz, len(dz), below, above))
        shape = (3, self.grid.batch, self.grid.channels)
        sums = torch.zeros(shape, dtype=self.dtype, device=dz.device)
        for where, numbers in self.lots():
            v, positive = self.signed(where, numbers)
            dn = self._factors(positive, where, below, above)
            dn.mul_(self.grid.read(dz, where, self.dtype))
            sums[0, where[0]] += self.grid.total(dn, where)
            sums[1, where[0]] += self.grid.total(dn.mul_(v), where)
            sums[2, where[0]] += self.grid.total(v, where)
        return sums

    def gradient(self, dz: Tensor, dy: Tensor, columns: tuple[Tensor, ...] = ()) -> None:
        """Write the gradient before the activation, dn, or a linear function of dn and v into dy.

        Args:
            dz: behind the activation, ``(B, C, D, H, W)``.
            dy: of the same shape; may be dz.
            columns: ``(B, C)`` each: the factor of dn, a constant, and the factor of v.
        """
        slope = self.record.slope
        if kernels := self._kernels(dz, dy):
            told = columns_of(dz, len(dz), slope, 1.0, *columns)
            kernels.gradient(self._decoder, dz, dy, told)
            return
        for where, numbers in self.lots():
            if columns:
                gain, constant, along = columns
                rest, positive = self.signed(where, numbers, (along, constant))
            else:
                positive = self.masks(where, numbers)
            dn = self._factors(positive, where, slope, 1.0)
            dn.mul_(self.grid.read(dz, where, self.dtype))
            if columns:
                dn.mul_(self.grid.spread(gain, where)).add_(rest)
            self.grid.write(dy, where, dn)

    def fill(self, out: Tensor, samples: slice, layers: slice) -> None:
        """Write the surrogate of x for these samples and layers into ``out``."""
        slope = self.record.slope
        if kernels := self._kernels(out):
            if self._columns_to_fill is None:
                affine = self.record.affine or (1.0, 0.0)
                self._columns_to_fill = columns_of(out, self.grid.batch, slope, 1.0, *affine)
            kernels.fill(self._decoder, out, self._columns_to_fill, samples, layers)
            return
        for where, numbers in self.lots(samples, layers):
            rows, positive = self.values(where, numbers, self.record.affine)
            if positive is not None and not is_one(slope):
                # Not in where: rows may be a view of what is kept.
                rows = rows * self._factors(positive, where, slope, 1.0)
            self.grid.write(out, where, rows, (samples.start, layers.start))

    def _kernels(self, *tensors: Tensor) -> ModuleType | None:
        return kernels_for(self.grid, *tensors) if self._decoder is not None else None

    def _factors(self, positive: Tensor, where: Where, below: Slope, above: float) -> Tensor:
        """``above`` where the mask says positive, and ``below`` elsewhere: ``(bricks, voxels)``."""
        if not isinstance(below, Tensor):
            below = positive.new_full((), below, dtype=self.dtype)
        slopes = below.to(self.dtype).expand(self.grid.batch, self.grid.channels)
        column = self.grid.spread(slopes, where)
        return masked(positive, above - column).add_(column)

    def _spread(self, values: tuple[Tensor, ...], where: Where) -> tuple[Tensor, ...]:
        """``(B, C)`` each as columns."""
        return tuple(self.grid.spread(part.to(self.dtype), where) for part in values)

    def _applied(self, affine: tuple[Tensor, ...], rows: Tensor, where: Where) -> Tensor:
        """Gain * rows + shift, or the rows if there is neither."""
        if not affine:
            return rows
        gain, shift = self._spread(affine, where)
        return (rows * gain).add_(shift)


def columns_of(x: Tensor, batch: int, *values: Slope) -> Tensor:
    """Numbers for the kernels, of every sample and channel: ``(values, B, C)`` float32.

    Args:
        x: some or all of the samples, ``(..., C, D, H, W)``.
        batch: B.
        values: numbers, or one for every channel, or one for every sample and channel.
    """
    tensors = (value if isinstance(value, Tensor) else _number(value, x) for value in values)
    shape = batch, x.shape[1]
    return torch.stack([tensor.to(torch.float32).expand(shape) for tensor in tensors])


def _number(value: float, x: Tensor) -> Tensor:
    """A scalar where x is, to which it is brought but once."""
    # Fake tensors must not be remembered.
    if type(x) is Tensor:
        return _kept_number(value, x.device)
    return x.new_full((), value, dtype=torch.float32)


@lru_cache(maxsize=64)
def _kept_number(value: float, device: torch.device) -> Tensor:
    return torch.tensor(value, dtype=torch.float32, device=device)


def is_one(slope: float | Tensor) -> bool:
    """Whether the activation is none at all."""
    return not isinstance(slope, Tensor) and slope == 1


def keeps(kept: tuple[Tensor, ...], x: Tensor) -> bool:
    """Whether x itself, or what shares its memory, is among what is kept."""
    storage = x.untyped_storage()._cdata
    return any(tensor.untyped_storage()._cdata == storage for tensor in kept)


def attach(record: Record, x: Tensor) -> None:
    """Let ``record`` travel with ``x``."""
    x._probing = record, x._version  # type: ignore[attr-defined]


def record_of(x: Tensor) -> Record | None:
    """The record that travels with ``x``, unless x has been changed since."""
    record, version = getattr(x, "_probing", (None, 0))
    # Tensors of inference mode have no version, and no record.
    return record if record and version == x._version else None
