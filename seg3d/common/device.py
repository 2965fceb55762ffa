"""Which device to compute on, and in which precision."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, TypeVar

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from seg3d.common.errors import UserError

DEVICES = "auto, cpu, cuda, cuda:N or mps"

Part = TypeVar("Part")
_tells_all = ContextVar("_tells_all", default=False)

Amp = Literal["auto", "bf16", "fp16", "off"]


def choose_device(name: str) -> torch.device:
    """``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps`` as a device that is there.

    ``auto`` is a GPU that CUDA or ROCm, which goes by the same name, knows of, else the CPU; an
    Apple GPU (``mps``) has to be asked for.

    Raises:
        UserError: if the name is unknown or there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch("cpu|cuda(:[0-9]{1,9})?|mps", name):
        raise UserError("--device is not understood", given=name, legal=DEVICES)
    kind, _, number = name.partition(":")
    if kind == "cuda":
        if not torch.cuda.is_available():
            raise UserError(
                "--device cuda: this machine, or this build of PyTorch, has no CUDA device",
                given=name,
                fix="use --device cpu, or install a CUDA build of PyTorch",
            )
        if number and int(number) >= torch.cuda.device_count():
            raise UserError(
                f"--device {name}: there is no such GPU",
                legal=", ".join(f"cuda:{index}" for index in range(torch.cuda.device_count())),
            )
    if kind == "mps" and not torch.backends.mps.is_available():
        raise UserError(
            "--device mps: this machine, or this build of PyTorch, has no Apple GPU",
            given=name,
            fix="use --device cpu",
        )
    return torch.device(name)


def is_on_cpu(x: Tensor) -> bool:
    """Whether x is really there, and on a CPU: fake tensors stand for those on a GPU."""
    return x.is_cpu and not isinstance(x, FakeTensor)


def telling(parts: Iterable[Part], x: Tensor) -> Iterator[Part]:
    """All parts of the work on ``x``; of a fake tensor the first three and the last.

    Fake tensors, with which memory is measured, have no values, and a part takes the memory
    of the one before; but see :func:`telling_all`.
    """
    if not isinstance(x, FakeTensor) or _tells_all.get():
        yield from parts
        return
    last = None
    for index, part in enumerate(parts):
        last = None if index < 3 else part
        if index < 3:
            yield part
    if last is not None:
        yield last


@contextmanager
def telling_all() -> Iterator[None]:
    """Within, :func:`telling` leaves nothing out: for those who count the parts."""
    before = _tells_all.set(True)
    try:
        yield
    finally:
        _tells_all.reset(before)


def brought(x: Tensor, device: torch.device) -> Tensor:
    """A copy of numbers that lie in RAM on a device, which need not be waited for."""
    # What is not pinned is copied when the GPU has done all that it was asked for before.
    return (x.pin_memory() if device.type == "cuda" else x).to(device, non_blocking=True)


def read_later(values: Tensor) -> Callable[[], list[float]]:
    """A function that returns the numbers, ``(n,)``, which are under way to RAM until then.

    It waits for what makes them, but not for what the device is asked to do after this call.
    """
    if values.device.type != "cuda":
        return values.tolist
    in_ram = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    in_ram.copy_(values, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record(torch.cuda.current_stream(values.device))

    def read() -> list[float]:
        arrived.synchronize()
        numbers: list[float] = in_ram.tolist()
        return numbers

    return read


def home_of_float64(device: torch.device) -> torch.device:
    """Where to compute in float64 what belongs to a device: there, or if it cannot, on the CPU."""
    return torch.device("cpu") if device.type == "mps" else device


def compute_dtype(amp: Amp, device: torch.device) -> torch.dtype:
    """The number type of the forward pass; float32 means no mixed precision.

    ``auto`` is bf16 where the device computes in it, else fp16, and float32 on a CPU, where
    mixed precision saves no time in 3D convolutions, and on an Apple GPU.

    Raises:
        UserError: for fp16 on a CPU, bf16 on a GPU that lacks it, or either on an Apple GPU.
    """
    if device.type == "mps":
        if amp in ("bf16", "fp16"):
            raise UserError("train.amp: not on an Apple GPU (mps)", given=amp, legal="auto or off")
        return torch.float32
    if device.type == "cpu":
        if amp == "fp16":
            raise UserError("train.amp: fp16 needs a GPU", legal="auto, bf16 or off on a CPU")
        return torch.bfloat16 if amp == "bf16" else torch.float32
    with torch.cuda.device(device):
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    if amp == "bf16" and not has_bf16:
        raise UserError("train.amp: this GPU has no bf16", legal="auto, fp16 or off")
    if amp == "off":
        return torch.float32
    return torch.bfloat16 if has_bf16 and amp != "fp16" else torch.float16
