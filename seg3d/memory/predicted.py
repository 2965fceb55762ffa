"""Memory that a step would take, without allocating it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

from seg3d.common.sizes import readable
from seg3d.losses import DiceCrossEntropy
from seg3d.memory.counter import Counter
from seg3d.memory.layer_at_work import Layers
from seg3d.memory.step import Loss, batch, loss_of


@dataclass(frozen=True)
class StepMemory:
    """The memory of one training step, in bytes.

    Attributes:
        saved_by_layer: what autograd keeps from the forward to the backward pass, without
            parameters, buffers, image and target, by the layer that first saved it; largest first.
        peak: all that is allocated at the worst moment: also parameters, their gradients and
            the batch, but not the optimiser's state.
        peak_at: the operator at that moment, its layer, and the pass it belongs to.
        parameters: of parameters and buffers.
    """

    saved_by_layer: dict[str, int]
    peak: int
    peak_at: str
    parameters: int

    @property
    def saved(self) -> int:
        """All that autograd keeps from the forward to the backward pass."""
        return sum(self.saved_by_layer.values())


@dataclass(frozen=True)
class TrainingMemory(StepMemory):
    """The memory of one training step, in bytes. ``print`` shows it as a table.

    Attributes:
        inference_peak: the worst moment of a forward pass in eval mode under ``no_grad``.
    """

    inference_peak: int

    def __str__(self) -> str:
        width = max(len(name) for name in ("inference, peak", *self.saved_by_layer))
        lines = [
            f"{'training, peak':{width}} {readable(self.peak):>12} in {self.peak_at}",
            f"{'inference, peak':{width}} {readable(self.inference_peak):>12}",
            f"{'parameters':{width}} {readable(self.parameters):>12}",
            f"{'saved':{width}} {readable(self.saved):>12}",
        ]
        for name, size in self.saved_by_layer.items():
            lines.append(f"{name:{width}} {readable(size):>12} {size / self.saved:7.1%}")
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
    workspaces: bool = False,
) -> TrainingMemory:
    """Predict the memory of a training step (forward pass, loss, backward pass).

    Nothing is computed and nothing allocated: a copy of the network made of fake tensors, which
    have a shape but no values, goes through the step, and every storage that an operator makes is
    counted from then until it is freed. So it takes seconds, needs no GPU, and gives the same
    number every time. Not in it is what operators allocate and free within themselves, but for
    the ``workspaces``, nor what an allocator loses to fragmentation.

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
        workspaces: count as well the copies of its input and its output that a convolution makes
            for itself, on a CPU and on a GPU (where the peak then comes nearer to what a step
            takes).

    Raises:
        UserError: if the shape does not describe a batch of images.
    """
    how: dict[str, Any] = {"amp": amp, "device": device, "workspaces": workspaces}
    step = step_memory(network, input_shape, dtype, loss=loss, target_dtype=target_dtype, **how)
    inference_peak = inference_memory(network, input_shape, dtype, **how)
    return TrainingMemory(**vars(step), inference_peak=inference_peak)


def step_memory(
    network: nn.Module,
    input_shape: Sequence[int],
    dtype: torch.dtype = torch.float32,
    *,
    loss: Loss | None = None,
    amp: bool = False,
    target_dtype: torch.dtype = torch.int16,
    device: torch.device | str = "cpu",
    workspaces: bool = False,
) -> StepMemory:
    """As :func:`training_memory`, without the forward pass in eval mode."""
    stored = torch.float32 if amp else dtype
    device = torch.device(device)
    fakes = FakeTensorMode(allow_non_fake_inputs=True)
    fake = fake_copy(network, fakes, stored, device).train()
    with fakes:
        image, target = batch(input_shape, stored, target_dtype, device)
    counter = Counter(Layers(fake), workspaces)
    parameters = counter.give(*fake.parameters(), *fake.buffers())
    counter.give(image, target)
    with fakes, counter, torch.enable_grad():
        with saved_tensors_hooks(counter.saving, lambda tensor: tensor):
            error = loss_of(fake, image, target, loss or DiceCrossEntropy(), amp, dtype)
        saved = counter.made_by_layer(but=error)
        error.backward()
    return StepMemory(saved, counter.peak, counter.peak_at, parameters)


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

    Parameters and image are in it. Arguments and errors are as for :func:`training_memory`.
    """
    stored = torch.float32 if amp else dtype
    device = torch.device(device)
    fakes = FakeTensorMode(allow_non_fake_inputs=True)
    fake = fake_copy(network, fakes, stored, device).eval()
    with fakes:
        image, _ = batch(input_shape, stored, torch.int16, device)
    counter = Counter(Layers(fake), workspaces)
    counter.give(*fake.parameters(), *fake.buffers(), image)
    with fakes, counter, torch.no_grad(), torch.autocast(device.type, dtype, enabled=amp):
        fake(image)
    return counter.peak


def fake_copy(
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
