"""Compile the GPU kernels on a machine that need not have a GPU, and say what they take there.

The engine's own calls are made, on a CPU. Where a kernel would be launched Triton only compiles it
to machine code, with the specialisation that it chooses itself.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from seg3d.probing import ProbeKey, kernels
from seg3d.probing.activations import activate_backward, sketched_with_signs
from seg3d.probing.kernels import passes
from seg3d.probing.norms import Normalisation, normalise, normalise_backward, pooled_moments
from seg3d.probing.records import sketched
from seg3d.probing.rotated import RotatedSketch

# Bricks of 128 voxels; of 100, which divide the plane; of 72, which stick out; small ones.
SHAPES = ((1, 4, 2, 16, 16), (1, 4, 2, 40, 40), (1, 4, 2, 13, 11), (1, 4, 8, 4, 4), (1, 4, 2, 3, 4))


@dataclass(frozen=True)
class Needs:
    """What a kernel takes: registers a thread, bytes spilled, bytes of shared memory a program."""

    registers: int
    spilled: int
    shared: int


@dataclass(frozen=True)
class _Driver:
    """All that Triton asks about a GPU until it launches something."""

    capability: int

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)


def compile_all(
    capability: int, bits: float, dtype: torch.dtype, shape: tuple[int, ...]
) -> list[tuple[str, Needs]]:
    """Names and needs of all kernels for tensors of one kind.

    Args:
        capability: of the GPU, such as 80 or 90.
        bits: of the sketch.
        dtype: of the tensors.
        shape: ``(B, C, D, H, W)``.
    """
    done: dict[str, tuple[str, Needs]] = {}

    def compile_only(kernel: Any, programs: int, **arguments: Any) -> None:
        compiled = kernel.warmup(grid=(programs,), **arguments)
        flags = ("NORMALISE", "PURPOSE", "SIGNED", "EDGE", "BLOCK")
        words = [f"{flag}={arguments[flag]}" for flag in flags if flag in arguments]
        name = " ".join([kernel.fn.__name__, *words])
        done[compiled.hash] = name, _needs(compiled.asm["cubin"], compiled.metadata.shared)

    driver.set_active(_Driver(capability))
    with (
        mock.patch.object(passes, "_launch", compile_only),
        mock.patch.object(kernels, "_passes_on", lambda device: passes),
    ):
        _calls(torch.zeros(shape, dtype=dtype), RotatedSketch(bits))
    return list(done.values())


def _calls(x: Tensor, sketch: RotatedSketch) -> None:
    """What the engine does with a tensor, each thing once."""
    batch, channels = x.shape[:2]
    ones = torch.ones(batch, channels)
    pooled_moments(x, lambda values: values)
    key = ProbeKey()
    how = Normalisation(ones, ones, lambda values: values, 0.1)
    record = normalise(x, x, ones[0], ones[0], how, sketch, key)
    normalise_backward(x, x, record, ones, how.pool)
    activate_backward(x, x, record, False)
    for filled in (record, sketched_with_signs(x, sketch, key), sketched(x, sketch, key)):
        fill, step = filled.filler(x.dtype)
        fill(x, slice(0, batch), slice(0, -(-x.shape[2] // step)))


def _needs(cubin: bytes, shared: int) -> Needs:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        done = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True)
    found = re.search(r"REG:(\d+) STACK:(\d+)", done.stdout + done.stderr)
    assert found, done.stdout + done.stderr
    return Needs(int(found[1]), int(found[2]), shared)
