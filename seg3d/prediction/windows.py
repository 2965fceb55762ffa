"""Class scores of volumes of any size from overlapping windows, slab by slab.

The windows lie as MONAI's ``sliding_window_inference`` lays them and blend with its Gaussian
weights, or as nnU-Net lays them, with its. But they are taken plane by plane along the first axis,
and no more is held than the planes that overlap: what no window can touch any more is finished and
given away.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from torch import Tensor, nn

from seg3d.data.grid_map import flipped
from seg3d.geometry import Shape3
from seg3d.io.regions import Region, whole
from seg3d.losses import Scores
from seg3d.prediction.scores import WindowScores, by_rows

# Of the side of a window, and the least weight, both as in MONAI.
SIGMA = 0.125
LEAST_WEIGHT = 1e-3
# In nnU-Net: it keeps the least ones from being zero in half precision.
NNUNET_LARGEST_WEIGHT = 10.0


@dataclass(frozen=True)
class Windows:
    """Where the windows of a volume lie.

    Attributes:
        shape: voxels of the volume.
        size: voxels of a window.
        starts: ascending, along each axis; a window stands at every combination. They are
            negative where a volume is smaller than the window, whose rest is then zeros.
        nnunet: whether they lie and blend as nnU-Net's.
        flips: axes along which the weights run backwards.
    """

    shape: Shape3
    size: Shape3
    starts: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    nnunet: bool = False
    flips: tuple[int, ...] = ()

    @classmethod
    def covering(
        cls, shape: Shape3, size: Shape3, overlap: float, *, nnunet: bool = False
    ) -> Windows:
        """Windows that neighbours have a share of ``overlap`` of their side in common, or more."""
        starts = _even_starts if nnunet else _starts
        x, y, z = (starts(length, side, overlap) for length, side in zip(shape, size, strict=True))
        return cls(shape, size, (x, y, z), nnunet)

    @property
    def count(self) -> int:
        return math.prod(map(len, self.starts))

    @property
    def extent(self) -> Region:
        """The smallest region of the volume that holds all that the windows see of it."""
        x, y, z = (
            slice(max(starts[0], 0), min(starts[-1] + side, length))
            for starts, side, length in zip(self.starts, self.size, self.shape, strict=True)
        )
        return x, y, z

    def mirrored(self, axes: Sequence[int]) -> Windows:
        """The windows of the volume with some axes run through backwards."""
        x, y, z = (
            tuple(length - side - one for one in reversed(starts)) if axis in axes else starts
            for axis, (starts, side, length) in enumerate(
                zip(self.starts, self.size, self.shape, strict=True)
            )
        )
        return replace(self, starts=(x, y, z), flips=tuple(axes))

    def weights(self) -> Tensor:
        """The weight of every voxel of a window, `(D, H, W)`."""
        weight = nnunet_importance_map(self.size) if self.nnunet else importance_map(self.size)
        return flipped(weight, self.flips)

    def touching(self, region: Region) -> Windows:
        """Those windows that have a voxel in common with a region."""
        x, y, z = (
            tuple(one for one in starts if one < part.stop and one + side > part.start)
            for starts, side, part in zip(self.starts, self.size, region, strict=True)
        )
        return replace(self, starts=(x, y, z))


def _starts(length: int, side: int, overlap: float) -> tuple[int, ...]:
    if length <= side:
        return (-((side - length) // 2),)
    step = max(int(side * (1 - overlap)), 1)
    return (*range(0, length - side, step), length - side)


def _even_starts(length: int, side: int, overlap: float) -> tuple[int, ...]:
    """As nnU-Net has them: of windows as few as there must be, at about the same distance."""
    if length <= side:
        return _starts(length, side, overlap)
    steps = math.ceil((length - side) / (side * (1 - overlap)))
    step = (length - side) / steps
    return tuple(round(step * number) for number in range(steps + 1))


def stream_scores(
    score: Callable[[Tensor], Scores] | Sequence[Callable[[Tensor], Scores]],
    read: Callable[[Region], Tensor],
    windows: Windows,
    region: Region | None = None,
    *,
    window_batch: int = 1,
    device: torch.device,
    advance: Callable[[int], object] = lambda windows: None,
) -> Iterator[tuple[int, Tensor]]:
    """Class scores (before softmax), averaged over windows with Gaussian weights, slab by slab.

    Where the region begins and ends along the first axis does not change the scores, to the last
    bit: all windows that touch a voxel are added in the same order, in the same batches.

    Args:
        score: from windows `(B, C, D, H, W)` on ``device`` to scores `(B, K, D, H, W)`; or several
            such functions, whose scores are averaged.
        read: gives a region of the volume as `(C, d, h, w)`, where the sums shall be kept. It is
            called for slabs along the first axis, one behind the other.
        windows: all windows of the volume.
        region: where scores are wanted; by default everywhere.
        window_batch: windows per forward pass, at most.
        device: of the network.
        advance: told the number of windows that have just been done.

    Yields:
        For one slab of the region after the other, the index of its first slice along the
        volume's first axis, and its scores `(K, d, h, w)` float32.
    """
    region = region or whole(windows.shape)
    passes = [score] if callable(score) else score
    if windows.count == 1 and len(passes) == 1:
        yield from _of_one_window(passes[0], read, windows, region, device, advance)
        return
    windows = windows.touching(region)
    extent, (side, *_) = windows.extent, windows.size
    planes, *cross = windows.starts
    columns = list(itertools.product(*cross))
    weight: Tensor | None = None
    image, sums = (_Slabs(_edges(planes, side, part)) for part in (extent[0], region[0]))
    for plane, following in itertools.zip_longest(planes, planes[1:], fillvalue=region[0].stop):
        image.drop(plane)
        for part in image.missing(plane + side):
            image.add(part.start, read((part, *extent[1:])))
        for columns_at_once in _evenly(columns, window_batch):
            places = [(plane, *column) for column in columns_at_once]
            for one in passes:
                with torch.inference_mode():
                    result = one(_cut_out(image, places, windows.size, extent).to(device))
                for rows, found in by_rows(result):
                    scores = found.to(image.any.device)
                    if weight is None:
                        weight = windows.weights().to(scores.device)
                    for part in sums.missing(plane + side):
                        shape = scores.shape[1], *_lengths((part, *region[1:]))
                        sums.add(part.start, torch.zeros(shape, device=scores.device))
                    _blend_all(sums, scores, weight[rows], _below(places, rows.start), region)
                    # Here and below, no name may hold what is done with while the network works.
                    del found, scores
                del result
            advance(len(places))
        assert weight is not None
        for start in sums.before(following):
            slab = _finished(sums.take(start), start, weight, windows, region)
            yield start, slab if len(passes) == 1 else slab.div_(len(passes))
            del slab


def _of_one_window(
    score: Callable[[Tensor], Scores],
    read: Callable[[Region], Tensor],
    windows: Windows,
    region: Region,
    device: torch.device,
    advance: Callable[[int], object],
) -> Iterator[tuple[int, Tensor]]:
    """As :func:`stream_scores`, where nothing is to be blended, and no sums need be held."""
    ((x, y, z),) = itertools.product(*windows.starts)
    image = _Slabs((windows.extent[0].start, windows.extent[0].stop))
    for part in image.missing(windows.extent[0].stop):
        image.add(part.start, read((part, *windows.extent[1:])))
    with torch.inference_mode():
        result = score(_cut_out(image, [(x, y, z)], windows.size, windows.extent).to(device))
    advance(1)
    height, width = (
        slice(part.start - start, part.stop - start)
        for start, part in zip((y, z), region[1:], strict=True)
    )
    for rows, scores in by_rows(result):
        first, last = max(rows.start + x, region[0].start), min(rows.stop + x, region[0].stop)
        if first < last:
            depth = slice(first - x - rows.start, last - x - rows.start)
            yield first, scores[0, :, depth, height, width].to(image.any.device)


def score_slabs(
    network: nn.Module,
    image: Tensor,
    window: Shape3,
    *,
    overlap: float,
    window_batch: int = 1,
    mirror_axes: Sequence[int] = (),
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    advance: Callable[[int], object] = lambda windows: None,
) -> Iterator[Tensor]:
    """Class scores (before softmax) of a volume in memory, slab by slab.

    Args:
        network: in eval mode, on ``device``.
        image: `(C, D, H, W)`; smaller volumes than the window are padded with zeros.
        window: voxels, the patch size of training.
        overlap: share of a window that neighbouring windows have in common.
        window_batch: windows per forward pass.
        mirror_axes: average over all combinations of flips along these axes (0, 1, 2).
        device: where the network computes; sums are kept where the image is.
        dtype: of the forward pass (autocast).
        advance: told the number of windows that have just been done.

    Yields:
        `(K, d, H, W)` float32, one slab behind the other along the first axis.
    """
    # A plain tensor: MONAI's MetaTensor would carry its history through every operation.
    voxels = image.as_subclass(Tensor)
    depth, height, width = image.shape[1:]
    windows = Windows.covering((depth, height, width), window, overlap)
    slabs = stream_scores(
        WindowScores(network, mirror_axes, dtype).passes,
        lambda region: voxels[:, *region],
        windows,
        window_batch=window_batch,
        device=device,
        advance=advance,
    )
    for _, slab in slabs:
        yield slab


def importance_map(size: Shape3) -> Tensor:
    """The weight of every voxel of a window: a Gaussian around its middle, as MONAI's."""
    weight = torch.ones(())
    for side in size:
        distance = torch.arange(side, dtype=torch.float32) - (side - 1) / 2
        line = torch.exp(distance**2 / (-2 * (SIGMA * side) ** 2))
        weight = weight[..., None] * line
    return weight.clamp_(min=max(float(weight.min()), LEAST_WEIGHT))


class _Slabs:
    """A stretch of a volume along its first axis, held as slabs that come and go one by one.

    Args:
        edges: where one slab ends and the next begins, with both ends of the stretch.
    """

    def __init__(self, edges: Sequence[int]) -> None:
        self._missing = [slice(*pair) for pair in itertools.pairwise(edges)]
        self._held: dict[int, Tensor] = {}

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        """The slabs `(C, d, h, w)` that are held, each with the index of its first slice."""
        return iter(self._held.items())

    @property
    def any(self) -> Tensor:
        """One of the slabs, for what all have in common."""
        return next(iter(self._held.values()))

    def missing(self, stop: int) -> Iterator[slice]:
        """The slabs, not yet held, that are needed up to a slice; each is to be added."""
        while self._missing and self._missing[0].start < stop:
            yield self._missing.pop(0)

    def add(self, start: int, slab: Tensor) -> None:
        self._held[start] = slab

    def before(self, stop: int) -> list[int]:
        """Where the slabs in front of a slice begin."""
        return [start for start in self._held if start < stop]

    def take(self, start: int) -> Tensor:
        """Give away a slab."""
        return self._held.pop(start)

    def drop(self, stop: int) -> None:
        """Forget the slabs in front of a slice."""
        for start in self.before(stop):
            del self._held[start]


def _edges(planes: Sequence[int], side: int, within: slice) -> list[int]:
    """Where slabs must end for each to be finished by one plane: windows' faces, the ends."""
    faces = {face for plane in planes for face in (plane, plane + side)}
    inner = {face for face in faces if within.start < face < within.stop}
    return sorted(inner | {within.start, within.stop})


def _evenly(columns: list[tuple[int, ...]], most: int) -> Iterator[list[tuple[int, ...]]]:
    """In as few groups of up to ``most`` as there can be, of about the same size."""
    groups = math.ceil(len(columns) / most)
    size, larger = divmod(len(columns), groups)
    rest = iter(columns)
    for number in range(groups):
        yield list(itertools.islice(rest, size + (number < larger)))


def _common(start: int, side: int, low: int, high: int) -> tuple[slice, slice]:
    """What a window and a stretch have in common, counted from the one's start and the other's."""
    first, last = max(start, low), min(start + side, high)
    return slice(first - start, last - start), slice(first - low, last - low)


def _cut_out(
    image: _Slabs, places: Sequence[tuple[int, ...]], size: Shape3, extent: Region
) -> Tensor:
    """The windows `(B, C, D, H, W)` at ``places``."""
    windows = image.any.new_zeros(len(places), len(image.any), *size)
    for window, place in zip(windows, places, strict=True):
        _fill(window, image, place, extent)
    return windows


def _fill(window: Tensor, image: _Slabs, place: tuple[int, ...], extent: Region) -> None:
    """Copy the voxels of the window `(C, D, H, W)` at ``place``; outside of the volume are none."""
    (b, y), (c, z) = (
        _common(start, side, part.start, part.stop)
        for start, side, part in zip(place[1:], window.shape[2:], extent[1:], strict=True)
    )
    for first, slab in image:
        a, x = _common(place[0], window.shape[1], first, first + slab.shape[1])
        if a.start < a.stop:
            window[:, a, b, c] = slab[:, x, y, z]


def _below(places: Sequence[tuple[int, ...]], rows: int) -> list[tuple[int, ...]]:
    """The places so many rows further along the first axis."""
    return [(place[0] + rows, *place[1:]) for place in places]


def _blend_all(
    sums: _Slabs,
    result: Tensor,
    weight: Tensor,
    places: Sequence[tuple[int, ...]],
    region: Region,
) -> None:
    for scores, place in zip(result, places, strict=True):
        _blend(sums, scores, weight, place, region)


def _blend(
    sums: _Slabs, scores: Tensor, weight: Tensor, place: tuple[int, ...], region: Region
) -> None:
    """Add the weighted scores `(K, D, H, W)` of the window at ``place``."""
    (b, y), (c, z) = (
        _common(start, side, part.start, part.stop)
        for start, side, part in zip(place[1:], weight.shape[1:], region[1:], strict=True)
    )
    for first, slab in sums:
        a, x = _common(place[0], len(weight), first, first + slab.shape[1])
        if a.start < a.stop:
            slab[:, x, y, z].addcmul_(scores[:, a, b, c], weight[a, b, c])


def _finished(slab: Tensor, start: int, weight: Tensor, windows: Windows, region: Region) -> Tensor:
    """Scores `(K, d, h, w)` from their weighted sum over a region's slices from ``start`` on."""
    here = slice(start, start + slab.shape[1]), *region[1:]
    return slab.div_(_total_weight(windows, weight, here))


def _total_weight(windows: Windows, weight: Tensor, region: Region) -> Tensor:
    """The sum of the weights of all windows, `(d, h, w)`, over a region."""
    total = _Slabs(())
    total.add(region[0].start, torch.zeros(1, *_lengths(region), device=weight.device))
    for place in itertools.product(*windows.touching(region).starts):
        _blend(total, weight.new_ones(()).expand(1, *weight.shape), weight, place, region)
    return total.any[0]


def _lengths(parts: Sequence[slice]) -> list[int]:
    return [part.stop - part.start for part in parts]


def nnunet_importance_map(size: Shape3) -> Tensor:
    """The weight of every voxel of a window: nnU-Net's Gaussian, in its half precision."""
    weight = np.full((), NNUNET_LARGEST_WEIGHT)
    for side in size:
        line = np.zeros(side)
        line[side // 2] = 1
        line = gaussian_filter1d(line, SIGMA * side, mode="constant")
        weight = weight[..., None] * (line / line.max())
    halves = weight.astype(np.float16)
    return torch.from_numpy(np.where(halves == 0, halves[halves > 0].min(), halves)).float()
