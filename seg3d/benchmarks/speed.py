"""Time of a training step, of whole networks and of a single unit, always against plain PyTorch."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from seg3d.benchmarks.baselines import PlainUNet3d, TwoBit, checkpointed, stages
from seg3d.benchmarks.tables import print_table
from seg3d.losses import DiceCrossEntropy
from seg3d.networks import UNet3d, heads
from seg3d.networks.unet3d import ConvBlock
from seg3d.probing import kernels, set_bits, set_probe_step
from seg3d.probing.kernels import kernels_for

Step = Callable[[int], None]


def compare(
    size: int, batch: int, channels: list[int], rounds: int, device: torch.device, amp: bool
) -> dict[str, Any]:
    """Print and return the times of every method, taken in turn so that all meet the same load."""
    torch.manual_seed(0)
    image = torch.randn(batch, 1, *[size] * 3, device=device)
    target = torch.randint(0, 3, image.shape, device=device, dtype=torch.int16)
    networks = {
        name: network_step(network, image, target, amp)
        for name, network in _networks(channels, device).items()
    }
    whole = _ratios(_times(_also_without_kernels(networks, device), rounds, device))
    title = f"training step of UNet3d {channels}, {size}³, batch of {batch}"
    _print(title, whole)
    units = {}
    width, edge = channels[0], size
    while width <= channels[min(2, len(channels) - 1)]:
        name = f"{width} channels, {edge}³"
        steps = _also_without_kernels(_units(width, edge, batch, device, amp), device)
        units[name] = _ratios(_times(steps, rounds, device))
        _print(f"one unit (convolution, instance norm, leaky ReLU): {name}", units[name])
        width, edge = 2 * width, edge // 2
    return {
        "size": size,
        "batch": batch,
        "channels": channels,
        "amp": amp,
        "network": whole,
        "units": units,
    }


def network_step(network: nn.Module, image: Tensor, target: Tensor, amp: bool) -> Step:
    """A training step without the optimiser, which is the same for all."""
    loss = DiceCrossEntropy()

    def step(number: int) -> None:
        network.zero_grad(set_to_none=True)
        set_probe_step(network, seed=0, step=number)
        with torch.autocast(image.device.type, torch.bfloat16, enabled=amp):
            scores = heads(network(image))
        loss(scores, target)["loss"].backward()

    return step


def _networks(channels: list[int], device: torch.device) -> dict[str, nn.Module]:
    def make(probing: str) -> nn.Module:
        return UNet3d(1, 3, channels, probing).to(device)

    def rotated(bits: float) -> nn.Module:
        network = make("rotated")
        set_bits(network, bits)
        return network

    return {
        "plain": make("exact"),
        "checkpointing per stage": checkpointed(PlainUNet3d(1, 3, channels).to(device), stages),
        "two-bit activations": TwoBit(make("exact")),
        "independent probes, r = 64": make("independent"),
        "seg3d, 1/8 bit": rotated(0.125),
        "seg3d, 1 bit": rotated(1),
        "seg3d, 2 bits": rotated(2),
    }


def _units(width: int, edge: int, batch: int, device: torch.device, amp: bool) -> dict[str, Step]:
    x = torch.randn(batch, width, *[edge] * 3, device=device)

    def step_of(unit: nn.Module) -> Step:
        def step(number: int) -> None:
            set_probe_step(unit, 0, number)
            with torch.autocast(device.type, torch.bfloat16, enabled=amp):
                y = unit(x.detach().requires_grad_())
            y.backward(y.detach())

        return step

    steps = {}
    for name, sketch, bits in (
        ("plain", "exact", 1.0),
        ("seg3d, 1/8 bit", "rotated", 0.125),
        ("seg3d, 1 bit", "rotated", 1.0),
    ):
        block = ConvBlock(width, width, (3, 3, 3), (1, 1, 1), sketch, 64).to(device)
        set_bits(block, bits)
        steps[name] = step_of(block)
    return steps


def _also_without_kernels(steps: dict[str, Step], device: torch.device) -> dict[str, Step]:
    """Where there are kernels, the same methods by the torch path too."""
    if not kernels_for(None, torch.zeros(1, 1, 1, 1, 1, device=device)):
        return steps

    def without(step: Step) -> Step:
        def slower(number: int) -> None:
            with mock.patch.object(kernels, "enabled", False):
                step(number)

        return slower

    sketched = {name: step for name, step in steps.items() if name.startswith("seg3d")}
    return steps | {f"{name}, no kernels": without(step) for name, step in sketched.items()}


def _times(steps: dict[str, Step], rounds: int, device: torch.device) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 1):
        for name, step in steps.items():
            _wait(device)
            start = time.perf_counter()
            step(number)
            _wait(device)
            if number:  # the first round warms up
                times[name].append(time.perf_counter() - start)
    return times


def _ratios(times: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    return {
        name: {
            "seconds": statistics.median(own),
            "times_plain": statistics.median(
                one / plain for one, plain in zip(own, times["plain"], strict=True)
            ),
        }
        for name, own in times.items()
    }


def _print(title: str, rows: dict[str, dict[str, float]]) -> None:
    print_table(
        title,
        ("method", "seconds", "× plain"),
        [(n, f"{row['seconds']:.3f}", f"{row['times_plain']:.2f}") for n, row in rows.items()],
    )


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
