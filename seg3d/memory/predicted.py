"""How much memory a training step takes: predicted without allocating it, or measured."""

from __future__ import annotations

import copy
import resource
import sys
import weakref
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import _engine_run_backward, saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from seg3d.errors import UserError
from seg3d.losses import DiceCrossEntropy
from seg3d.networks import heads

GIB = 2**30

# Of the output of a network and the target, a scalar.
Loss = Callable[[Any, Tensor], Tensor]


def peak_gib(device: torch.device) -> float:
    """Peak memory in GiB: tensors allocated on a GPU, or the resident size of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB


@dataclass(frozen=True)
class TrainingMemory:
    """The memory of one training step, in bytes. ``print`` shows it as a table.

    Attributes:
        saved_by_layer: what autograd keeps from the forward to the backward pass, without
            parameters, buffers, image and target, by the layer that first saved it; largest first.
        peak: all that is allocated at the worst moment: also parameters, their gradients and
            the batch, but not the optimiser's state.
        peak_at: the operator at that moment, its layer, and the pass it belongs to.
        inference_peak: the worst moment of a forward pass in eval mode under ``no_grad``.
        parameters: of parameters and buffers.
    """

    saved_by_layer: dict[str, int]
    peak: int
    peak_at: str
    inference_peak: int
    parameters: int

    @property
    def saved(self) -> int:
        """All that autograd keeps from the forward to the backward pass."""
        return sum(self.saved_by_layer.values())

    def __str__(self) -> str:
        width = max(len(name) for name in ("inference, peak", *self.saved_by_layer))
        lines = [
            f"{'training, peak':{width}} {readable(self.peak)} in {self.peak_at}",
            f"{'inference, peak':{width}} {readable(self.inference_peak)}",
            f"{'parameters':{width}} {readable(self.parameters)}",
            f"{'saved':{width}} {readable(self.saved)}",
        ]
        for name, size in self.saved_by_layer.items():
            lines.append(f"{name:{width}} {readable(size)} {size / self.saved:7.1%}")
        return "\n".join(lines)


def training_memory(
    network: nn.Module,
    input_shape: Sequence[int],
    dtype: torch.dtype = torch.float32,
    *,
    loss: Loss | None = None,
    amp: bool = False,
    target_dtype: torch.dtype = torch.int16,
    device: torch.device | str = "cpu",
) -> TrainingMemory:
    """Predict the memory of a training step (forward pass, loss, backward pass).

    Nothing is computed and nothing allocated: a copy of the network made of fake tensors, which
    have a shape but no values, goes through the step, and every storage that an operator makes is
    counted from then until it is freed. So it takes seconds, needs no GPU, and gives the same
    number every time. Not in it is what operators allocate and free within themselves, such as
    the workspace of a convolution, nor what an allocator loses to fragmentation.

    Example:
        >>> network = UNet3d(1, 4, (32, 64, 128, 256, 320, 320))
        >>> print(training_memory(network, (2, 1, 128, 128, 128), torch.bfloat16, amp=True))

    Args:
        network: on any device, ``meta`` too; it is left as it is.
        input_shape: of the image, `(B, C, D, H, W)`.
        dtype: of the computation.
        loss: from the network's output and the target to a scalar; by default
            :class:`seg3d.losses.DiceCrossEntropy` over all heads of the output.
        amp: keep network and image in float32 and use ``dtype`` by autocast, as training does;
            otherwise network and image are of ``dtype`` themselves.
        target_dtype: of the target, `(B, 1, D, H, W)`; the loaders give int16.
        device: whose operators are to be counted. ``cuda`` needs a CUDA build of PyTorch.

    Raises:
        UserError: if the shape does not describe a batch of images.
    """
    stored = torch.float32 if amp else dtype
    device = torch.device(device)
    fakes = FakeTensorMode(allow_non_fake_inputs=True)
    fake = _fake_copy(network, fakes, stored, device).train()
    with fakes:
        image, target = _batch(input_shape, stored, target_dtype, device)
    counter = _Counter(_Layers(fake))
    parameters = counter.give(*fake.parameters(), *fake.buffers())
    counter.give(image, target)
    with fakes, counter, torch.enable_grad():
        with saved_tensors_hooks(counter.saving, lambda tensor: tensor):
            error = _loss(fake, image, target, loss or _dice_cross_entropy, amp, dtype)
        saved = counter.made_by_layer(but=error)
        error.backward()
    inference_peak = inference_memory(network, input_shape, dtype, amp=amp, device=device)
    return TrainingMemory(saved, counter.peak, counter.peak_at, inference_peak, parameters)


def inference_memory(
    network: nn.Module,
    input_shape: Sequence[int],
    dtype: torch.dtype = torch.float32,
    *,
    amp: bool = False,
    device: torch.device | str = "cpu",
    workspaces: bool = False,
) -> int:
    """Predict the peak in bytes of a forward pass in eval mode under ``no_grad``.

    Parameters and image are in it. Other arguments and errors are as for :func:`training_memory`.

    Args:
        workspaces: count as well the copies that a convolution makes of its input and its output
            on a CPU, where oneDNN wants the channels in blocks.
    """
    stored = torch.float32 if amp else dtype
    device = torch.device(device)
    fakes = FakeTensorMode(allow_non_fake_inputs=True)
    fake = _fake_copy(network, fakes, stored, device).eval()
    with fakes:
        image, _ = _batch(input_shape, stored, torch.int16, device)
    counter = _Counter(_Layers(fake), workspaces)
    counter.give(*fake.parameters(), *fake.buffers(), image)
    with fakes, counter, torch.no_grad(), torch.autocast(device.type, dtype, enabled=amp):
        fake(image)
    return counter.peak


@dataclass(frozen=True)
class MeasuredMemory:
    """Peaks of a training step on a GPU, in bytes.

    Attributes:
        allocated: tensors, workspaces of operators included.
        reserved: what PyTorch took from the GPU to hold them.
    """

    allocated: int
    reserved: int


def measured_training_memory(
    network: nn.Module,
    input_shape: Sequence[int],
    dtype: torch.dtype = torch.float32,
    *,
    loss: Loss | None = None,
    amp: bool = False,
    target_dtype: torch.dtype = torch.int16,
    device: torch.device | str = "cuda",
) -> MeasuredMemory:
    """Measure the third of three training steps on a GPU.

    Call it in a fresh process, with the network on the CPU or on ``meta``: whatever else the
    process holds on the GPU is in the peaks. Arguments and errors are as for
    :func:`training_memory`, whose prediction ``allocated`` should be near to.
    """
    stored = torch.float32 if amp else dtype
    device = torch.device(device)
    # Memory does not depend on values, so those of a network on meta may be anything.
    move = nn.Module.to_empty if _is_meta(network) else nn.Module.to
    real = move(copy.deepcopy(network), device=device).to(stored).train()
    image, target = _batch(input_shape, stored, target_dtype, device)
    image.normal_()
    target.zero_()
    for step in range(3):
        if step == 2:
            torch.cuda.reset_peak_memory_stats(device)
        _loss(real, image, target, loss or _dice_cross_entropy, amp, dtype).backward()
        real.zero_grad(set_to_none=True)
    return MeasuredMemory(
        torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)
    )


def readable(size: float) -> str:
    """Bytes for people: ``"    1.50 GiB"``, always of the same width."""
    for unit in ("B", "KiB", "MiB"):
        if abs(size) < 1024:
            return f"{size:8.2f} {unit:3}"
        size /= 1024
    return f"{size:8.2f} GiB"


def _loss(
    network: nn.Module, image: Tensor, target: Tensor, loss: Loss, amp: bool, dtype: torch.dtype
) -> Tensor:
    with torch.autocast(image.device.type, dtype, enabled=amp):
        output = network(image)
    return loss(output, target)


def _dice_cross_entropy(output: Any, target: Tensor) -> Tensor:
    return DiceCrossEntropy()(heads(output), target)["loss"]


def _batch(
    shape: Sequence[int], dtype: torch.dtype, target_dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """An image and its target, without values."""
    if len(shape) < 3 or min(shape) < 1:
        raise UserError(
            "this is not the shape of a batch of images",
            given=list(shape),
            legal="(B, C, D, H, W), all positive",
        )
    image = torch.empty(*shape, dtype=dtype, device=device)
    return image, torch.empty(shape[0], 1, *shape[2:], dtype=target_dtype, device=device)


def _is_meta(network: nn.Module) -> bool:
    return any(parameter.is_meta for parameter in network.parameters())


def _fake_copy(
    network: nn.Module, fakes: FakeTensorMode, dtype: torch.dtype, device: torch.device
) -> nn.Module:
    """Copy the network, with fake parameters and buffers of ``dtype`` on ``device``."""
    copies: dict[int, Any] = {}
    with fakes:
        for tensor in (*network.parameters(), *network.buffers()):
            fake = torch.empty_strided(
                tensor.size(),
                tensor.stride(),
                dtype=dtype if tensor.is_floating_point() else tensor.dtype,
                device=device,
            )
            if isinstance(tensor, nn.Parameter):
                fake = nn.Parameter(fake, tensor.requires_grad)
            copies[id(tensor)] = fake
    # What deepcopy finds in its memo it takes for copied already.
    return copy.deepcopy(network, copies)


class _Layers:
    """Which layer is at work: the running module, or the one that made the graph's node."""

    def __init__(self, network: nn.Module) -> None:
        self._running = ["loss"]
        # From each of these sequence numbers on, the nodes of the graph are made by that layer.
        self._numbers: list[int] = []
        self._makers: list[str] = []
        for name, module in network.named_modules():
            self._follow(name or "network", module)

    def _follow(self, name: str, module: nn.Module) -> None:
        def enter(module: nn.Module, inputs: Any) -> None:
            self._running.append(name)
            self._note()

        def leave(module: nn.Module, inputs: Any, output: Any) -> None:
            self._running.pop()
            self._note()

        module.register_forward_pre_hook(enter, prepend=True)
        # Always, since activation checkpointing leaves modules by an exception.
        module.register_forward_hook(leave, always_call=True)

    def _note(self) -> None:
        self._numbers.append(torch.autograd._get_sequence_nr())
        self._makers.append(self._running[-1])

    def now(self) -> str:
        node = torch._C._current_autograd_node()
        if node is None or len(self._running) > 1:
            return self._running[-1]
        number = node._sequence_nr()
        # Nodes that gather the gradient of a parameter have a number beyond all others.
        if number >= torch.autograd._get_sequence_nr():
            return "gradients"
        return self._makers[bisect_right(self._numbers, number) - 1]


@dataclass
class _Storage:
    size: int
    layer: str
    given: bool
    alive: weakref.ref[torch.UntypedStorage]


class _Counter(TorchDispatchMode):
    """Adds up the storages that are alive, fake or real, and remembers the worst moment."""

    def __init__(self, layers: _Layers, workspaces: bool = False) -> None:
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
        if self._workspaces and func is torch.ops.aten.convolution.default:
            self.peak = max(self.peak, self.bytes + args[0].nbytes + result.nbytes)
        backward = torch._C._current_autograd_node() is not None
        if self.bytes > self.peak and not (backward and _adds_gradients(func)):
            self.peak = self.bytes
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
