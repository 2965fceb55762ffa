"""Launches the kernels: a function here does at once what the torch path does lot by lot.

None needs more memory than 12 bytes a brick, which is less than what lots take.
"""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import replace
from functools import cache, lru_cache
from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from seg3d.common.device import brought
from seg3d.probing.coder import Coder, rotation_matrix
from seg3d.probing.kernels.encode import encode_kernel
from seg3d.probing.kernels.moments import moments_kernel, pooling_kernel
from seg3d.probing.kernels.rebuild import FILL, GRADIENT, SLOPES, SUMS, rebuild_kernel
from seg3d.probing.kernels.shapes import DTYPES as DTYPES
from seg3d.probing.kernels.shapes import sums_shape
from seg3d.probing.keys import ProbeKey
from seg3d.probing.packing import Codebook

# Units of a program: bricks, or groups of them. 64 are what Hopper's matrix units take from four
# warps at a time; and the more there are, the less of a unit's own work is done more than once.
ROWS = 64
ROWS_AT_EDGES = 32
PART = 32  # voxels of them that are rotated at a time
HOPPER = (9, 0)  # compute capability
MOMENTS_BLOCK = 2048
MOMENTS_PROGRAMS = 2048  # about so many keep any GPU busy
# Triton's interpreter, which runs kernels on a CPU, cannot multiply matrices in bfloat16.
HALF = tl.float32 if os.environ.get("TRITON_INTERPRET") == "1" else tl.bfloat16


def moments(y: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and (biased) variance of every channel of ``(B, C, D, H, W)``: ``(B, C)`` each."""
    batch, channels = y.shape[:2]
    volume = y[0, 0].numel()
    blocks = triton.cdiv(volume, MOMENTS_BLOCK)
    span = triton.cdiv(blocks, triton.cdiv(MOMENTS_PROGRAMS, batch * channels)) * MOMENTS_BLOCK
    parts = triton.cdiv(volume, span)
    of_parts = y.new_empty(3, batch, channels, parts, dtype=torch.float32)
    _launch(
        moments_kernel,
        batch * channels * parts,
        y=y,
        out=of_parts,
        volume=volume,
        parts=parts,
        span=span,
        total=batch * channels * parts,
        BLOCK=MOMENTS_BLOCK,
    )
    out = y.new_empty(2, batch, channels, dtype=torch.float32)
    _launch(
        pooling_kernel,
        batch * channels,
        of_parts=of_parts,
        out=out,
        volume=volume,
        parts=parts,
        total=batch * channels,
        BLOCK=triton.next_power_of_2(parts),
    )
    mean, variance = out
    return mean, variance


def sketch(encoder: Coder, x: Tensor) -> None:
    """Sketch ``x``, with its signs if ``encoder`` is signed."""
    _encode(encoder, x, x, x, normalise=False)


def normalise(encoder: Coder, y: Tensor, z: Tensor, columns: Tensor) -> None:
    """Sketch v = scale y + offset, and write act(gain v + shift) into z, which may be y.

    Args:
        encoder: a signed one.
        y: ``(B, C, D, H, W)``.
        z: of the same shape.
        columns: ``(5, B, C)`` float32: scale, offset, gain, shift, and the slope of act.
    """
    _encode(encoder, y, z, columns, normalise=True)


def sums(decoder: Coder, dz: Tensor, columns: Tensor) -> Tensor:
    """Sums over every channel of dn, dn v and v: ``(3, B, C)``.

    Args:
        decoder: of v.
        dz: ``(B, C, D, H, W)``.
        columns: ``(2, B, C)`` float32: dn is dz times the first where the sign is not positive,
            and times the second where it is.
    """
    out = dz.new_empty(sums_shape(decoder), dtype=torch.float32)
    _rebuild(SUMS, decoder, dz, out, columns)
    return out.sum((2, 4))


def gradient(decoder: Coder, dz: Tensor, dy: Tensor, columns: Tensor) -> None:
    """Write gain dn + constant + along v into dy, which may be dz; or dn, if that is all.

    Args:
        decoder: of v.
        dz: ``(B, C, D, H, W)``.
        dy: of the same shape.
        columns: ``(2, B, C)`` as for :func:`sums`, or ``(5, B, C)`` with gain, constant and along.
    """
    _rebuild(GRADIENT if len(columns) == 5 else SLOPES, decoder, dz, dy, columns)


def fill(decoder: Coder, out: Tensor, columns: Tensor, samples: slice, layers: slice) -> None:
    """Write v, or (gain v + shift) times a factor if the sketch has signs, into a part of a volume.

    Args:
        decoder: of v.
        out: ``(samples, C, planes, H, W)``, where these samples and layers begin.
        columns: ``(4, B, C)``, the two factors as for :func:`sums`, gain and shift.
        samples: which.
        layers: which.
    """
    _rebuild(FILL, decoder, out, out, columns, samples, layers)


def _encode(encoder: Coder, y: Tensor, z: Tensor, columns: Tensor, *, normalise: bool) -> None:
    grid = encoder.grid
    rows = grid.batch * grid.layers
    _launch_on_units(
        encode_kernel, encoder, y, rows, y=y, z=z, columns=columns, NORMALISE=normalise
    )


def _rebuild(
    purpose: tl.constexpr,
    decoder: Coder,
    dz: Tensor,
    out: Tensor,
    columns: Tensor,
    samples: slice | None = None,
    layers: slice | None = None,
) -> None:
    samples = samples or slice(0, decoder.grid.batch)
    layers = layers or slice(0, decoder.grid.layers)
    layers_here = layers.stop - layers.start
    _launch_on_units(
        rebuild_kernel,
        decoder,
        dz,
        (samples.stop - samples.start) * layers_here,
        dz=dz,
        out=out,
        columns=columns,
        first_sample=samples.start,
        first_layer=layers.start,
        layers_here=layers_here,
        PURPOSE=purpose.value,
    )


def _launch_on_units(kernel: Any, coder: Coder, x: Tensor, rows: int, **arguments: Any) -> None:
    """Launch a kernel on the units of so many rows of bricks of a tensor that lies as x does."""
    if coder.told is None:
        coder.told = _told(coder, x.device)
    units = rows * coder.choice.groups
    _launch(
        kernel,
        triton.cdiv(units, coder.told["ROWS"]),
        units=units,
        sample_stride=x.stride(0),
        channel_stride=x.stride(1),
        **coder.told,
        **arguments,
    )


def _told(coder: Coder, device: torch.device) -> dict[str, Any]:
    """What both kernels have to be told of a coder, whatever they do with it."""
    grid, choice, key = coder.grid, coder.choice, coder.key
    signs, means, codes, scales = coder.kept
    block = max(16, triton.next_power_of_2(grid.voxels))
    span = grid.planes * grid.plane
    sticks_out = grid.layers * grid.planes != grid.depth or grid.runs * grid.voxels != span
    # Voxels that are read one by one and not in fours take so many registers that fewer programs
    # and more warps are needed for all threads to have enough.
    by_fours = grid.voxels % 4 == 0 and not sticks_out
    thresholds, levels = _codebook(choice.code_bits, device)
    return {
        "column_size": grid.batch * grid.channels,
        "bricks": grid.bricks,
        "matrix": _matrix(replace(key, layer=0), grid.voxels, block, device),
        "thresholds": thresholds,
        "levels": levels,
        "signs": signs,
        "means": means,
        "codes": codes,
        "scales": scales,
        "signs_number": coder.signs_number,
        "choice_number": choice.number,
        "groups": choice.groups,
        "channels": grid.channels,
        "runs": grid.runs,
        "layers": grid.layers,
        "planes": grid.planes,
        "plane": grid.plane,
        "depth": grid.depth,
        "layer_size": span,
        "SIGNED": signs.shape[1] > 0,
        "BITS": choice.code_bits,
        "PER_GROUP": choice.per_group,
        "EDGE": sticks_out,
        "VOXELS": grid.voxels,
        "BLOCK": block,
        "PART": min(PART, block),
        "ROWS": ROWS if by_fours else ROWS_AT_EDGES,
        "HALF": HALF,
        "num_warps": 4 if by_fours and _capability(device) >= HOPPER else 8,
        # The matrix, which all programs share, is to come through the first-level cache.
        "num_stages": 1,
    }


@cache
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)


def _launch(kernel: Any, programs: int, **arguments: Any) -> None:
    device = (arguments["out"] if "out" in arguments else arguments["y"]).device
    elsewhere = device.index is not None and device.index != torch.cuda.current_device()
    with torch.cuda.device(device) if elsewhere else nullcontext():
        kernel[(programs,)](**arguments)


@lru_cache(maxsize=16)
def _matrix(key: ProbeKey, voxels: int, block: int, device: torch.device) -> Tensor:
    """The rotation as the sum of two in bfloat16, padded: ``(2, block, block)``."""
    matrix = rotation_matrix(key, voxels).float()
    large = matrix.bfloat16()
    small = (matrix - large.float()).bfloat16()
    missing = block - voxels
    return brought(F.pad(torch.stack([large, small]), (0, missing, 0, missing)), device)


@lru_cache(maxsize=16)
def _codebook(bits: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Thresholds and levels."""
    codebook = Codebook(bits, device, torch.float32)
    return torch.tensor(codebook.thresholds, device=device), codebook.levels_of_codes
