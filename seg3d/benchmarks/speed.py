"""Time of a training step, of whole networks and of a single unit, always against plain PyTorch."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest import mock

import torch
from monai.networks.nets.unet import CheckpointUNet
from torch import Tensor, nn

from seg3d.benchmarks.allocators import settings_here
from seg3d.benchmarks.baselines import BASELINES, PlainUNet3d, dynunet, monai_unet
from seg3d.benchmarks.brain import BRAIN
from seg3d.benchmarks.tables import print_table
from seg3d.benchmarks.training import backward_passes, cube, draw_batch
from seg3d.losses import DiceCrossEntropy, unscored_heads
from seg3d.networks import UNet3d
from seg3d.networks.blocks import ConvBlock
from seg3d.probing import choose_bits, kernels, set_bits, set_probe_step
from seg3d.probing.kernels import kernels_for

Step = Callable[[int], None]
Patch = tuple[Tensor, Tensor]
# Of every method ``seconds``, and ``times_plain`` if its reference was timed too.
Times = dict[str, dict[str, float | None]]
BITS = (0.125, 1, 2)
PUBLISHED = ("independent", "multichannel", "orthogonal")
RANK = 64
PATCHES_FOR_BITS = 6
NO_KERNELS = ", no kernels"
USUAL_ON_CPU = (
    "plain", "checkpoint-stages", "seg3d, 1 bit", "seg3d, auto",
    "plain, bf16 autocast", "seg3d, 1 bit, bf16 autocast",
)  # fmt: skip
# What a table shows of a method, with so many digits.
CELLS = (("seconds", 3), ("times_plain", 2))


@dataclass(frozen=True)
class Way:
    """A way to train.

    Attributes:
        make: the network, on the CPU.
        reference: the way whose time is 1.00.
        amp: bf16 autocast.
        memory_format: of the network's weights and of the image.
    """

    make: Callable[[], nn.Module]
    reference: str = "plain"
    amp: bool = False
    memory_format: torch.memory_format = torch.contiguous_format


def ways(channels: list[int], patches: list[Patch], amp: bool) -> dict[str, Way]:
    """All ways by name, without those of MONAI all of the same network.

    Args:
        channels: per level.
        patches: from which ``auto`` chooses its bits.
        amp: bf16 autocast in all of them.
    """

    def unet(sketch: str, bits: float = 1, streamed: bool = False) -> nn.Module:
        network = UNet3d(1, BRAIN.classes, channels, sketch, rank=RANK, streamed=streamed)
        set_bits(network, bits)
        return network

    def auto() -> nn.Module:
        network = unet("rotated")
        choose_bits(network, backward_passes(network, patches))
        return network

    def baseline(name: str) -> nn.Module:
        return BASELINES[name](PlainUNet3d(1, BRAIN.classes, channels))

    half = "plain, bf16 autocast"
    found = {name: Way(partial(baseline, name)) for name in BASELINES}
    found |= {
        "plain, channels last": Way(
            partial(baseline, "plain"), memory_format=torch.channels_last_3d
        ),
        "MONAI's DynUNet, plain": Way(partial(dynunet, channels=channels)),
        "MONAI's UNet, plain": Way(partial(monai_unet, channels=channels), "MONAI's UNet, plain"),
        "MONAI's CheckpointUNet": Way(
            partial(monai_unet, CheckpointUNet, channels), "MONAI's UNet, plain"
        ),
        **{f"{name}, r = {RANK}": Way(partial(unet, name)) for name in PUBLISHED},
        **{f"seg3d, {bits:g} bit": Way(partial(unet, "rotated", bits)) for bits in BITS},
        "seg3d, auto": Way(auto),
        "seg3d, 1 bit, streamed": Way(partial(unet, "rotated", 1, True)),
    }
    if amp:
        return {name: Way(way.make, way.reference, amp=True) for name, way in found.items()}
    return found | {
        half: Way(partial(baseline, "plain"), half, amp=True),
        "seg3d, 1 bit, bf16 autocast": Way(partial(unet, "rotated"), half, amp=True),
    }


def legal_methods(device: torch.device, amp: bool) -> list[str]:
    """Names of all ways that the device can go."""
    needs_gpu = ("offload", "plain, channels last")
    return [name for name in ways([1, 1], [], amp) if device.type != "cpu" or name not in needs_gpu]


def usual_methods(device: torch.device, amp: bool) -> list[str]:
    """Names of the ways that are compared unless others are asked for: on a CPU a few."""
    legal = legal_methods(device, amp)
    return [name for name in legal if name in USUAL_ON_CPU] if device.type == "cpu" else legal


def compare(
    size: int,
    batch: int,
    channels: list[int],
    rounds: int,
    device: torch.device,
    amp: bool,
    methods: list[str],
) -> dict[str, Any]:
    """The times of every method, taken in turn so that all meet the same load.

    Args:
        size: of the cubes, in voxels along the edge; cut out of subjects bent from a brain.
        batch: number of cubes.
        channels: of the networks, per level.
        rounds: in each of which every method makes a step; one more warms up.
        device: where.
        amp: bf16 autocast in all methods.
        methods: names out of `legal_methods`.

    Returns:
        Seconds, and multiples of plain, of whole networks and of single units; and how this
        process was told to keep its memory.
    """
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    generator = torch.Generator().manual_seed(0)
    cohort = BRAIN.subjects(range(2))
    patches = [
        patch
        for _ in range(max(batch, PATCHES_FOR_BITS))
        for patch in draw_batch(cohort, cube(size), generator)
    ]
    image, target = (torch.cat(parts).to(device) for parts in zip(*patches[:batch], strict=True))
    chosen = {
        name: way
        for name, way in ways(channels, patches[:PATCHES_FOR_BITS], amp).items()
        if name in methods
    }
    steps = {name: network_step(way, image, target) for name, way in chosen.items()}
    steps = _also_without_kernels(steps, device)
    references = {name: chosen[name.removesuffix(NO_KERNELS)].reference for name in steps}
    whole = _ratios(_times(steps, rounds, device), references)
    units = {}
    width, edge = channels[0], size
    while width <= channels[min(2, len(channels) - 1)]:
        name = f"{width} channels, {edge}³"
        steps = _also_without_kernels(_units(width, edge, batch, device, amp), device)
        times = _times(steps, rounds, device)
        units[name] = _ratios(times, dict.fromkeys(times, "plain"))
        width, edge = 2 * width, edge // 2
    return {"environment": settings_here(), "network": whole, "units": units}


def show(results: dict[str, Any]) -> None:
    """Print tables of what `compare` found with each allocator.

    Args:
        results: ``size``, ``batch``, ``channels``, and ``allocators``: what was found by the
            allocator's name.
    """
    found = results["allocators"]
    title = f"UNet3d {results['channels']}, {results['size']}³, batch of {results['batch']}"
    _print(f"training step of {title}", {name: one["network"] for name, one in found.items()})
    for unit in next(iter(found.values()))["units"]:
        _print(
            f"one unit (convolution, instance norm, leaky ReLU): {unit}",
            {name: one["units"][unit] for name, one in found.items()},
        )


def network_step(way: Way, image: Tensor, target: Tensor) -> Step:
    """A training step without the optimiser, which is the same for all."""
    loss = DiceCrossEntropy()
    network = way.make().to(image.device).to(memory_format=way.memory_format)  # type: ignore[call-overload]
    image = image.contiguous(memory_format=way.memory_format)

    def step(number: int) -> None:
        network.zero_grad(set_to_none=True)
        set_probe_step(network, seed=0, step=number)
        with torch.autocast(image.device.type, torch.bfloat16, enabled=way.amp):
            scores = unscored_heads(network, image)
        loss(scores, target)["loss"].backward()

    return step


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
        block = ConvBlock(width, width, (3, 3, 3), (1, 1, 1), sketch, RANK).to(device)
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
    return steps | {name + NO_KERNELS: without(step) for name, step in sketched.items()}


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


def _ratios(times: dict[str, list[float]], references: dict[str, str]) -> Times:
    return {
        name: {
            "seconds": statistics.median(own),
            "times_plain": _ratio(own, times.get(references[name])),
        }
        for name, own in times.items()
    }


def _ratio(own: list[float], plain: list[float] | None) -> float | None:
    """Median over the rounds; None if the reference was not asked for."""
    if plain is None:
        return None
    return statistics.median(one / other for one, other in zip(own, plain, strict=True))


def _print(title: str, tables: dict[str, Times]) -> None:
    """Print the times of all methods, beside each other those with each allocator."""

    def cell(value: float | None, digits: int) -> str:
        return "" if value is None else f"{value:.{digits}f}"

    header = ["method", *(f"{name}: {what}" for name in tables for what in ("seconds", "× plain"))]
    rows = []
    for method in next(iter(tables.values())):
        times = [table[method] for table in tables.values()]
        row = [cell(one[key], digits) for one in times for key, digits in CELLS]
        ratios = [one["times_plain"] for one in times if one["times_plain"] is not None]
        rows.append([method, *row, cell(max(ratios, default=None), 2)])
    print_table(title, [*header, "× plain, worse"], rows)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
