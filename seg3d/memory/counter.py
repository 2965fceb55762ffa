"""The storages that are alive during a step, counted."""

from __future__ import annotations

import sys
import weakref
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import _engine_run_backward
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from seg3d.memory.layer_at_work import Layers


@dataclass
class _Storage:
    size: int
    layer: str
    given: bool
    alive: weakref.ref[torch.UntypedStorage]


class Counter(TorchDispatchMode):
    """Adds up the storages that are alive, fake or real, and remembers the worst moment."""

    def __init__(self, layers: Layers, workspaces: bool = False) -> None:
        super().__init__()
        self.bytes = 0
        self.peak = 0
        self.peak_at = "what there is before the step"
        self._layers = layers
        self._workspaces = workspaces
        self._storages: dict[int, _Storage] = {}
        self._savers: dict[int, str] = {}

    def give(self, *tensors: Tensor) -> int:
        """Count tensors that the step does not make itself; returns their bytes."""
        before = self.bytes
        for tensor in tensors:
            self._count(tensor, given=True)
        self.peak = max(self.peak, self.bytes)
        return self.bytes - before

    def saving(self, tensor: Tensor) -> Tensor:
        """Pack hook of autograd: note which layer is the first to save the tensor."""
        key = tensor.untyped_storage()._cdata
        if key in self._storages:
            self._savers.setdefault(key, self._layers.now())
        return tensor

    def made_by_layer(self, but: Tensor) -> dict[str, int]:
        """Bytes made in the step and still alive, by the layer that saved or else made them."""
        sizes: dict[str, int] = {}
        for key, storage in self._storages.items():
            if not storage.given and key != but.untyped_storage()._cdata:
                layer = self._savers.get(key, storage.layer)
                sizes[layer] = sizes.get(layer, 0) + storage.size
        return dict(sorted(sizes.items(), key=lambda item: -item[1]))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **kwargs or {})
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._count(tensor)
        backward = torch._C._current_autograd_node() is not None
        now = self.bytes + (_workspace(func, args, result) if self._workspaces else 0)
        if now > self.peak and not (backward and _adds_gradients(func)):
            self.peak = now
            direction = "backward" if backward else "forward"
            self.peak_at = f"{func} of {self._layers.now()}, {direction}"
        return result

    def _count(self, tensor: Tensor, given: bool = False) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._storages:
            return

        def freed(_: weakref.ref[torch.UntypedStorage]) -> None:
            self.bytes -= self._storages.pop(key).size
            self._savers.pop(key, None)

        size = storage.nbytes()
        self.bytes += size
        alive = weakref.ref(storage, freed)
        self._storages[key] = _Storage(size, self._layers.now(), given, alive)


def _workspace(func: Any, args: Any, result: Any) -> int:
    """Bytes of the copies that a convolution makes, and frees again, of what goes in and out.

    cuDNN wants the channels last, and oneDNN in blocks. It goes for both gradients one after the
    other, so that they need no more than the forward pass does. A kernel of one voxel is a product
    of matrices, which takes tensors as they are; so does the forward pass of a single channel.
    """
    if func is torch.ops.aten.convolution.default:
        x, weight, y = args[0], args[1], result
        if x.shape[1] == 1:
            return 0
    elif func is torch.ops.aten.convolution_backward.default:
        y, x, weight = args[:3]
    else:
        return 0
    return int(x.nbytes + y.nbytes) if weight[0, 0].numel() > 1 else 0


def _adds_gradients(func: Any) -> bool:
    """Whether it is autograd itself that called ``func``, to add up the gradients of a tensor.

    It does so in place if nobody else holds the first of them, but not while operators are
    watched, as here: then the sum is for a moment one tensor too many.
    """
    if func is not torch.ops.aten.add.Tensor:
        return False
    frame: FrameType | None = sys._getframe(2)
    while frame and frame.f_globals["__name__"].startswith(("torch._compile", "torch._dynamo")):
        frame = frame.f_back
    return frame is None or frame.f_code is _engine_run_backward.__code__
