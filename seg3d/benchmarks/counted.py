"""What a training step asks of a GPU: launches, bytes moved and operations, counted without one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from seg3d.common.device import telling_all
from seg3d.losses import DiceCrossEntropy
from seg3d.memory.predicted import fake_copy
from seg3d.memory.step import batch, loss_of
from seg3d.probing import kernels, set_probe_step
from seg3d.probing.coder import Coder
from seg3d.probing.kernels import shapes

# Operators that make a tensor of what there is, or none at all.
WITHOUT_LAUNCH = {
    "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach", "alias",
    "_unsafe_view", "lift_fresh", "device", "promote_types",
}  # fmt: skip
# Numbers that are on the device since the first step, but not those of fake tensors.
KEPT = {"new_full"}
# Of a GPU such as an H100: bytes and operations a second.
BANDWIDTH, OPERATIONS = 3e12, 4e14


@dataclass
class Work:
    """What a step asks for.

    Attributes:
        launches: by operator or pass.
        bytes: read and written, every argument and result once.
        operations: multiplications and additions of the convolutions.
    """

    launches: Counter[str] = field(default_factory=Counter)
    bytes: int = 0
    operations: int = 0

    @property
    def floor(self) -> float:
        """Seconds that a GPU of :data:`BANDWIDTH` and :data:`OPERATIONS` needs at least."""
        return max(self.bytes / BANDWIDTH, self.operations / OPERATIONS)


class _Watch(TorchDispatchMode):
    def __init__(self, work: Work) -> None:
        super().__init__()
        self.work = work

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        packet = func.overloadpacket
        if func.is_view or packet.__name__ in WITHOUT_LAUNCH | KEPT:
            return result
        self.work.launches[packet.__name__] += 1
        self.work.bytes += _bytes((args, kwargs, result))
        if packet in flop_registry:
            self.work.operations += flop_registry[packet](*args, **kwargs, out_val=result)
        return result


class _Passes:
    """The passes for fake tensors, counted: each goes once through its tensors and the codes."""

    DTYPES = shapes.DTYPES
    # The mean and variance of parts, and of all of them.
    LAUNCHES = {"moments": 2}

    def __init__(self, work: Work) -> None:
        self._work = work

    def __getattr__(self, name: str) -> Callable[..., Any]:
        run: Callable[..., Any] = getattr(shapes, name)

        def counted(*arguments: Any) -> Any:
            coders = [one for one in arguments if isinstance(one, Coder)]
            kept = sum(_bytes(coder.kept) for coder in coders)
            if name == "fill":
                # Of the record of the whole volume, what belongs to the rows that are written.
                decoder, out, *_ = arguments
                kept = kept * out.numel() // max(1, decoder.grid.bricks * decoder.grid.voxels)
            self._work.launches[f"pass: {name}"] += self.LAUNCHES.get(name, 1)
            self._work.bytes += kept + _bytes([one for one in arguments if isinstance(one, Tensor)])
            return run(*arguments)

        return counted


def count_step(
    network: nn.Module, shape: tuple[int, ...], dtype: torch.dtype, *, fused: bool = True
) -> Work:
    """Count the work of a training step under autocast, without the optimiser.

    Args:
        network: on any device.
        shape: of the image, ``(B, C, D, H, W)``.
        dtype: of the autocast.
        fused: by the kernels, and not by the torch path.
    """
    work = Work()
    fakes = FakeTensorMode(allow_non_fake_inputs=True)
    device = torch.device("cpu")
    fake = fake_copy(network, fakes, torch.float32, device).train()
    set_probe_step(fake, 0, 1)
    with fakes:
        image, target = batch(shape, torch.float32, torch.int16, device)
    with (
        mock.patch.object(kernels, "enabled", fused),
        mock.patch.object(kernels, "_shapes", lambda: _Passes(work)),
        telling_all(),
        fakes,
        _Watch(work),
        torch.enable_grad(),
    ):
        loss_of(fake, image, target, DiceCrossEntropy(), True, dtype).backward()
    return work


def _bytes(things: Any) -> int:
    return sum(one.nbytes for one in tree_leaves(things) if isinstance(one, Tensor))
