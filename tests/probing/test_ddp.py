"""DistributedDataParallel on two processes: exactly the mean of what each would do alone."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from seg3d.losses import heads
from seg3d.networks import UNet3d
from seg3d.probing import probe_model, set_probe_step
from seg3d.probing.names import Bits
from seg3d.probing.probed_layer import ProbedLayer

RANKS, PARTS, STEPS = 2, 2, 2  # processes, forward passes per step, steps
Gradients = list[Tensor | None]
Choice = tuple[str, Bits]
CHOICES: tuple[Choice, ...] = (
    ("exact", 1),
    ("rotated", "exact"),
    ("rotated", 0.5),
    ("independent", 1),
)


class Residual(nn.Module):
    """A sum both of whose branches are probed, a frozen layer, one recomputed and one unused."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.BatchNorm3d(4), nn.ReLU())
        self.branch = nn.Sequential(
            nn.Conv3d(4, 4, (1, 3, 3), padding=(0, 1, 1), groups=2), nn.GroupNorm(2, 4), nn.PReLU()
        )
        self.frozen = nn.Conv3d(4, 4, 1).requires_grad_(False)
        self.unused = nn.Conv3d(4, 4, 1)
        self.head = nn.Conv3d(4, 3, 3, dilation=2, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + checkpoint(self.branch, x, use_reentrant=False)
        return self.head(self.frozen(x) + x)


def residual(choice: Choice) -> nn.Module:
    network = Residual()
    sketch, bits = choice
    probe_model(network, sketch, rank=8, bits=bits)
    return network


def unet(choice: Choice) -> nn.Module:
    network = UNet3d(1, 3, (4, 8), deep_supervision=True)
    sketch, bits = choice
    probe_model(network, sketch, rank=8, bits=bits)
    return network


def built(network: Callable[[Choice], nn.Module], choice: Choice) -> nn.Module:
    torch.manual_seed(4)
    return network(choice).double()


def image(rank: int, part: int) -> Tensor:
    generator = torch.Generator().manual_seed(10 * rank + part)
    return torch.randn(2, 1, 6, 8, 10, dtype=torch.float64, generator=generator)


def loss(output: Any) -> Tensor:
    return sum(((y - 0.3).square().mean() for y in heads(output)), torch.zeros(()))


def trained(
    network: nn.Module, backward: Callable[[int], None], gradients: Callable[[], Gradients]
) -> list[Gradients]:
    """Some steps of plain gradient descent; all gradients."""
    found = []
    for step in range(STEPS):
        network.zero_grad()
        set_probe_step(network, seed=5, step=step)
        backward(step)
        found.append(gradients())
        with torch.no_grad():
            for parameter, gradient in zip(network.parameters(), found[-1], strict=True):
                if gradient is not None:
                    parameter -= 0.1 * gradient
    return found


def gradients_of(network: nn.Module) -> Gradients:
    return [None if p.grad is None else p.grad.clone() for p in network.parameters()]


def under_ddp(
    network: nn.Module, rank: int, ddp: DistributedDataParallel, parts: int
) -> list[Gradients]:
    """What rank ``rank`` sees; all forward passes but the last without synchronisation."""

    def backward(step: int) -> None:
        for part in range(parts):
            last = part == parts - 1
            with nullcontext() if last else ddp.no_sync():
                loss(ddp(image(rank, part))).backward()

    return trained(network, backward, lambda: gradients_of(network))


def in_one_process(networks: list[nn.Module], parts: int) -> list[Gradients]:
    """The same with a network for every rank, and that rank's draws."""
    first, *_ = networks

    def backward(step: int) -> None:
        for rank, network in enumerate(networks):
            network.load_state_dict(dict(first.named_parameters()), strict=False)
            network.zero_grad()
            set_probe_step(network, seed=5, step=step)
            for layer in network.modules():
                if isinstance(layer, ProbedLayer):
                    layer.probe_key = layer.probe_key.of_rank(rank)
            for part in range(parts):
                loss(network(image(rank, part))).backward()

    def mean() -> Gradients:
        return [
            None if one is None else (one + other) / RANKS
            for one, other in zip(*map(gradients_of, networks), strict=True)
        ]

    return trained(first, backward, mean)


OPTIONS: tuple[tuple[Callable[[Choice], nn.Module], dict[str, Any], int], ...] = (
    (unet, {}, 1),
    (unet, {"gradient_as_bucket_view": True, "bucket_cap_mb": 0.001}, PARTS),
    (unet, {"static_graph": True}, 1),
    (residual, {"find_unused_parameters": True}, PARTS),
    (residual, {"find_unused_parameters": True, "gradient_as_bucket_view": True}, 1),
    (residual, {"static_graph": True, "gradient_as_bucket_view": True}, 1),
)


def every_option(rank: int) -> list[list[Gradients]]:
    return [
        under_ddp(network, rank, DistributedDataParallel(network, **options), parts)
        for make, options, parts in OPTIONS
        for network in (built(make, choice) for choice in CHOICES)
    ]


def same_volume() -> Tensor:
    """Gradients of one volume, the same on every rank, before anything is averaged."""
    network = built(unet, ("rotated", 1))
    ddp = DistributedDataParallel(network)
    draws = []
    for step in (None, 0):
        if step is not None:
            set_probe_step(ddp, seed=5, step=step)
        network.zero_grad()
        with ddp.no_sync():
            loss(ddp(image(0, 0))).backward()
        gradient = network.decoder[0][1].conv.weight.grad  # type: ignore[index]
        draws.append(gradient.clone())
    return torch.stack(draws)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What :func:`every_option` and :func:`same_volume` return on either process."""
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(work, (folder,), RANKS)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(RANKS)]


def work(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder / 'meeting'}", rank=rank, world_size=RANKS)
    torch.save((every_option(rank), same_volume()), folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_gradients_are_the_mean_over_the_ranks(ranks: list[Any]) -> None:
    cases = [(*option, choice) for option in OPTIONS for choice in CHOICES]
    seen = [options for options, _ in ranks]
    for (make, options, parts, choice), *both in zip(cases, *seen, strict=True):
        expected = in_one_process([built(make, choice) for _ in range(RANKS)], parts)
        for steps in both:
            for found, wanted in zip(steps, expected, strict=True):
                assert_close(found, wanted, f"{make.__name__}, {options}, {choice}")


def assert_close(found: Gradients, wanted: Gradients, case: str) -> None:
    scale = max(float(gradient.abs().max()) for gradient in wanted if gradient is not None)
    for one, other in zip(found, wanted, strict=True):
        if other is None:
            # DDP makes zeros of what no rank has used.
            assert one is None or not one.any(), case
        else:
            assert one is not None, case
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12 * scale, msg=case)


def test_every_rank_draws_its_own(ranks: list[Any]) -> None:
    """Equal draws would make equal errors, of which the mean is no better."""
    first, second = (draws for _, draws in ranks)
    assert (first - second).flatten(1).norm(dim=1).min() > 1e-3 * first.norm()
