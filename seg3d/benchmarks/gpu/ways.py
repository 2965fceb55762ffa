"""The ways to train that are compared on a GPU, all under bf16 autocast."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from seg3d.benchmarks.baselines import BASELINES, PlainUNet3d
from seg3d.benchmarks.speed import Patch, Way
from seg3d.benchmarks.training import backward_passes
from seg3d.networks import UNet3d
from seg3d.probing import choose_bits, set_bits

CLASSES = 4
DTYPE = torch.bfloat16
PLAIN, LAST = "plain", "plain, channels last"
STAGES, COMPILED = "checkpoint-stages", "compile"
OURS, SMALL, AUTO = "seg3d, 1 bit", "seg3d, 0.125 bit", "seg3d, auto"


@dataclass(frozen=True)
class Net:
    """A U-Net of nnU-Net's.

    Attributes:
        channels: per level.
        blocks: residual blocks of the encoder per level, or None for a plain one.
    """

    name: str
    channels: tuple[int, ...]
    blocks: tuple[int, ...] | None = None


def way(name: str, net: Net, patches: list[Patch]) -> Way:
    """How a method trains.

    Args:
        name: of the method.
        net: what is trained.
        patches: from which ``auto`` chooses its bits.
    """
    method, _, last = name.partition(", ")
    if method != "seg3d":
        return Way(
            lambda: BASELINES[method](PlainUNet3d(1, CLASSES, net.channels, blocks=net.blocks)),
            amp=True,
            memory_format=torch.channels_last_3d if last else torch.contiguous_format,
        )

    def make() -> nn.Module:
        network = UNet3d(1, CLASSES, net.channels, blocks=net.blocks)
        if name != AUTO:
            set_bits(network, float(last.split()[0]))
            return network
        network.to(patches[0][0].device)
        choose_bits(network, backward_passes(network, patches, DTYPE))
        network.zero_grad()
        return network

    return Way(make, amp=True)


def random_patches(device: torch.device, size: int, count: int) -> list[Patch]:
    """Cubes of noise with random labels, as made as a step needs them."""
    generator = torch.Generator(device).manual_seed(0)
    shape = (1, 1, size, size, size)
    return [
        (
            torch.randn(shape, device=device, generator=generator),
            torch.randint(CLASSES, shape, device=device, generator=generator, dtype=torch.int16),
        )
        for _ in range(count)
    ]


def random_batch(device: torch.device, size: int, batch: int) -> Patch:
    """The same as a batch: ``(batch, 1, size, size, size)`` each."""
    images, targets = zip(*random_patches(device, size, batch), strict=True)
    return torch.cat(images), torch.cat(targets)
