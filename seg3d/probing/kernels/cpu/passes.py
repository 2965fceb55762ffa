"""Calls the compiled functions: what the torch path does lot by lot, at once and in threads.

Functions and arguments are those of :mod:`seg3d.probing.kernels.passes`.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seg3d.probing.coder import STRUCTURED, Coder, rotation_flips, rotation_matrix
from seg3d.probing.kernels.cpu.bricks import Layout
from seg3d.probing.kernels.cpu.encode import encode
from seg3d.probing.kernels.cpu.moments import moments as moments_of_channels
from seg3d.probing.kernels.cpu.rebuild import FILL, GRADIENT, SLOPES, SUMS, rebuild
from seg3d.probing.kernels.shapes import sums_shape
from seg3d.probing.keys import ProbeKey
from seg3d.probing.packing import Codebook

DTYPES = (torch.float32, torch.bfloat16)
# A thread is begun for each call, which takes as long as some ten thousand voxels.
VOXELS_OF_A_THREAD = 1 << 17


def moments(y: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and (biased) variance of every channel of ``(B, C, D, H, W)``: ``(B, C)`` each."""
    batch, channels = y.shape[:2]
    voxels = y[0, 0].numel()
    out = y.new_empty(2, batch, channels, dtype=torch.float32)
    _in_threads(
        moments_of_channels,
        batch * channels,
        voxels,
        _numbers(y),
        out.view(2, -1).numpy(),
        channels,
        y.stride(0),
        y.stride(1),
        voxels,
    )
    mean, variance = out
    return mean, variance


def sketch(encoder: Coder, x: Tensor) -> None:
    """Sketch ``x``, with its signs if ``encoder`` is signed."""
    _encode(encoder, x, x, x.new_empty(5, 0, dtype=torch.float32), normalise=0)


def normalise(encoder: Coder, y: Tensor, z: Tensor, columns: Tensor) -> None:
    """Sketch v = scale y + offset, and write act(gain v + shift) into z, which may be y."""
    _encode(encoder, y, z, columns.flatten(1), normalise=1)


def sums(decoder: Coder, dz: Tensor, columns: Tensor) -> Tensor:
    """Sums over every channel of dn, dn v and v: ``(3, B, C)``."""
    out = dz.new_empty(sums_shape(decoder), dtype=torch.float32)
    _rebuild(SUMS, decoder, dz, dz, columns, out.flatten(1))
    return out.sum((2, 4))


def gradient(decoder: Coder, dz: Tensor, dy: Tensor, columns: Tensor) -> None:
    """Write gain dn + constant + along v into dy, which may be dz; or dn, if that is all."""
    _rebuild(GRADIENT if len(columns) == 5 else SLOPES, decoder, dz, dy, columns)


def fill(decoder: Coder, out: Tensor, columns: Tensor, samples: slice, layers: slice) -> None:
    """Write v, or (gain v + shift) times a factor if the sketch has signs, into a part."""
    _rebuild(FILL, decoder, out, out, columns, None, samples, layers)


def _encode(encoder: Coder, y: Tensor, z: Tensor, columns: Tensor, normalise: int) -> None:
    grid = encoder.grid
    told = _told(encoder)
    _in_threads(
        encode,
        grid.batch * grid.layers,
        grid.row * grid.voxels,
        _numbers(y),
        _numbers(z),
        columns.numpy(),
        normalise,
        told["kept"],
        told["rotation"],
        told["codebook"],
        _layout(encoder, y, slice(0, grid.batch), slice(0, grid.layers)),
    )


def _rebuild(
    purpose: int,
    decoder: Coder,
    dz: Tensor,
    out: Tensor,
    columns: Tensor,
    sums: Tensor | None = None,
    samples: slice | None = None,
    layers: slice | None = None,
) -> None:
    grid, told = decoder.grid, _told(decoder)
    samples = samples or slice(0, grid.batch)
    layers = layers or slice(0, grid.layers)
    if sums is None:
        sums = columns.new_empty(3, 0)
    _in_threads(
        rebuild,
        (samples.stop - samples.start) * (layers.stop - layers.start),
        grid.row * grid.voxels,
        purpose,
        _numbers(dz),
        _numbers(out),
        sums.numpy(),
        columns.flatten(1).numpy(),
        told["kept"],
        told["rotation"],
        told["codebook"][1],
        _layout(decoder, out, samples, layers),
    )


def _in_threads(function: Callable[..., None], units: int, voxels: int, *arguments: Any) -> None:
    """Call a compiled function, ``(first, last, *arguments)``, for units of so many voxels."""
    threads = min(torch.get_num_threads(), units, max(1, units * voxels // VOXELS_OF_A_THREAD))
    if threads <= 1:
        function(0, units, *arguments)
        return
    bounds = [units * thread // threads for thread in range(threads + 1)]
    # Not kept from call to call, since threads do not come along when a process forks.
    with ThreadPoolExecutor(threads - 1) as pool:
        others = [
            pool.submit(function, first, last, *arguments)
            for first, last in zip(bounds[1:-1], bounds[2:], strict=True)
        ]
        function(0, bounds[1], *arguments)
        for other in others:
            other.result()


def _numbers(x: Tensor) -> np.ndarray:
    """Where x's numbers are, from its first to its last: ``(span,)``, bf16 as uint16."""
    span = 1 + sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
    flat = x.detach().as_strided((span,), (1,))
    return _bare(flat)


def _bare(x: Tensor) -> np.ndarray:
    return x.view(torch.int16).numpy().view(np.uint16) if x.dtype == torch.bfloat16 else x.numpy()


def _told(coder: Coder) -> dict[str, Any]:
    """What does not change from pass to pass."""
    if coder.told is None:
        coder.told = {
            "kept": tuple(_bare(part.flatten()) for part in coder.kept),
            "rotation": _rotation(replace(coder.key, layer=0), coder.grid.voxels),
            "codebook": _codebook(coder.choice.code_bits),
        }
    return coder.told


@lru_cache(maxsize=16)
def _rotation(key: ProbeKey, voxels: int) -> tuple[np.ndarray, np.ndarray]:
    if voxels == STRUCTURED:  # which needs no matrix
        return np.empty((0, 0), np.float32), rotation_flips(key)
    return rotation_matrix(key, voxels).float().contiguous().numpy(), rotation_flips(key)


@lru_cache(maxsize=3)
def _codebook(bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Thresholds and levels."""
    codebook = Codebook(bits, torch.device("cpu"), torch.float32)
    return np.array(codebook.thresholds, np.float32), codebook.levels_of_codes.numpy()


def _layout(coder: Coder, x: Tensor, samples: slice, layers: slice) -> Layout:
    grid, choice = coder.grid, coder.choice
    span = grid.planes * grid.plane
    sticks_out = grid.layers * grid.planes != grid.depth or grid.runs * grid.voxels != span
    return Layout(
        voxels=grid.voxels,
        channels=grid.channels,
        runs=grid.runs,
        layers=grid.layers,
        planes=grid.planes,
        plane=grid.plane,
        depth=grid.depth,
        sticks_out=int(sticks_out),
        groups=choice.groups,
        per_group=choice.per_group,
        bits=choice.code_bits,
        signed=int(coder.kept[0].shape[1] > 0),
        signs_number=coder.signs_number,
        choice_number=choice.number,
        sample_stride=x.stride(0),
        channel_stride=x.stride(1),
        first_sample=samples.start,
        first_layer=layers.start,
        layers_here=layers.stop - layers.start,
    )
