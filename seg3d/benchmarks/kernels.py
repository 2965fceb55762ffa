"""Compile the GPU kernels on a machine that need not have a GPU, and say what they take there.

Every specialisation that the engine asks for is compiled to machine code by Triton, the values
being those of real calls: what would be launched is compiled instead.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from seg3d.probing import ProbeKey, kernels
from seg3d.probing.activations import activate_backward, sketched_with_signs
from seg3d.probing.kernels import passes
from seg3d.probing.norms import Normalisation, normalise, normalise_backward, pooled_moments
from seg3d.probing.records import sketched
from seg3d.probing.rotated import RotatedSketch

TYPES = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.uint8: "*u8",
}
# Bricks of 128 voxels; of 100, which divide the plane; of 72, which stick out; small ones.
SHAPES = ((1, 4, 2, 16, 16), (1, 4, 2, 40, 40), (1, 4, 2, 13, 11), (1, 4, 8, 4, 4), (1, 4, 2, 3, 4))


@dataclass
class Compiler:
    """Takes the place of the function that launches kernels.

    Attributes:
        capability: of the GPU, such as 80 or 90.
        rows: for every specialisation its name, and registers, bytes spilled, and bytes of shared
            memory of a program.
    """

    capability: int
    rows: dict[str, tuple[int, int, int]] = field(default_factory=dict)

    def __call__(self, kernel: Any, programs: int, **arguments: Any) -> None:
        source = _source(kernel, arguments)
        name = f"sm_{self.capability} {kernel.fn.__name__} {_words(source)}"
        if name in self.rows:
            return
        options = {name: arguments[name] for name in passes.OPTIONS if name in arguments}
        target = GPUTarget("cuda", self.capability, 32)
        compiled = triton.compile(source, target=target, options=options)
        registers, stack = _resources(compiled.asm["cubin"])
        self.rows[name] = registers, stack, compiled.metadata.shared


def compile_all(
    capability: int, bits: tuple[float, ...], dtypes: tuple[torch.dtype, ...], shapes: Any = SHAPES
) -> Iterator[tuple[str, tuple[int, int, int]]]:
    """Every specialisation with registers, bytes spilled, and bytes of shared memory."""
    compiler = Compiler(capability)
    seen = 0
    with (
        mock.patch.object(passes, "_launch", compiler),
        mock.patch.object(kernels, "_device_suits", lambda device: True),
    ):
        for dtype in dtypes:
            for shape in shapes:
                for number in bits:
                    _calls(torch.zeros(shape, dtype=dtype), RotatedSketch(number))
                    rows = list(compiler.rows.items())
                    yield from rows[seen:]
                    seen = len(rows)


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


def _source(kernel: Any, arguments: dict[str, Any]) -> ASTSource:
    """The kernel with its arguments, specialised as Triton does it at a launch."""
    signature, constants, attributes = {}, {}, {}
    for index, parameter in enumerate(kernel.params):
        value = arguments[parameter.name]
        specialised = not parameter.do_not_specialize
        if parameter.is_constexpr or (specialised and type(value) is int and value == 1):
            signature[parameter.name] = "constexpr"
            constants[(index,)] = getattr(value, "value", value)
            continue
        if isinstance(value, Tensor):
            signature[parameter.name] = TYPES[value.dtype]
        else:
            large = parameter.name.endswith("_number") or abs(value) >= 2**31
            signature[parameter.name] = "i64" if large else "i32"
        if isinstance(value, Tensor) or (specialised and value % 16 == 0):
            attributes[(index,)] = [["tt.divisibility", 16]]
    return ASTSource(kernel, signature, constants, attributes)


def _words(source: ASTSource) -> str:
    """What tells this specialisation from others."""
    names = source.fn.arg_names
    numbers = [f"{names[i]}={value}" for (i,), value in sorted(source.constants.items())]
    aligned = [names[i] for (i,) in sorted(source.attrs) if source.signature[names[i]] == "i32"]
    tensor = next(iter(source.signature.values()))
    return " ".join([tensor, *numbers, "aligned:" + ",".join(aligned)])


def _resources(cubin: bytes) -> tuple[int, int]:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        done = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True)
    found = re.search(r"REG:(\d+) STACK:(\d+)", done.stdout + done.stderr)
    assert found, done.stdout + done.stderr
    return int(found[1]), int(found[2])
