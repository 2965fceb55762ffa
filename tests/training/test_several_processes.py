"""Training on two processes: what one process with twice the batch would do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from seg3d.common.ranks import ALONE, Ranks
from seg3d.common.stopping import StopRequest
from seg3d.config import Config
from seg3d.data.loaders import patch_batches
from seg3d.data.transforms import IMAGE, LABEL
from seg3d.plan import Plan
from seg3d.probing import set_probe_step
from seg3d.runs.run_folder import Run
from seg3d.training.trainer import Trainer
from tests.plans import small_config, small_plan

RANKS, STEPS, DRAWS = 2, 20, 64
CPU = torch.device("cpu")
# Two forward passes a step, heads of two levels, and a loss of every kind.
KINDS: dict[str, dict[str, Any]] = {
    "batch Dice": {"loss": {"batch_dice": True}},
    "Dice of patches, weighted": {
        "loss": {"batch_dice": False, "class_weights": {"class 1": 3.0}, "focal": 2.0}
    },
}
# As many layers see noise as possible: few voxels, one bit.
PROBED = {"probing": {"bits": 1}}


def config_of(**sections: Any) -> Config:
    return small_config(
        network={"channels": [3, 4]},
        train={"epochs": 1, "iterations_per_epoch": STEPS, "accumulate": 2, "clip": 1.0},
        **sections,
    )


def plan_of(batch_size: int) -> Plan:
    return small_plan(batch_size=batch_size, patch_size=(8, 8, 8), features=[3, 4])


def batch(number: int, first: int, size: int) -> dict[str, Any]:
    """Some patches of the batch of a pass, of classes of which not every patch has each."""
    found = []
    for place in range(first, first + size):
        generator = torch.Generator().manual_seed(100 * number + place)
        label = torch.zeros(1, 8, 8, 8, dtype=torch.int16)
        label[:, 1 : 2 + place, 3:6] = 1
        if place % 2:
            label[:, 6:, 1 + number % 7 :] = 2
            label[:, :, :, :2] = -1  # where there is no label
        image = label + 0.5 * torch.randn(label.shape, generator=generator)
        found.append((image, label))
    image, label = (torch.stack(part) for part in zip(*found, strict=True))
    return {IMAGE: image, LABEL: label, "name": ["case"] * size}


def trained(config: Config, plan: Plan, ranks: Ranks) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Weights after some steps on this process's part of every batch, and the losses."""
    trainer = Trainer(config, plan, Run(Path()), CPU, ranks)
    size = plan.batch_size
    batches = (batch(number, ranks.rank * size, size) for number in range(2 * STEPS))
    for _ in range(STEPS):
        trainer.step(batches)
    return dict(trainer.network.state_dict()), dict(trainer.position.sums)


def gradient(trainer: Trainer, step: int) -> Tensor:
    """Of one pass, in one row."""
    size = trainer.plan.batch_size
    trainer.optimizer.zero_grad()
    set_probe_step(trainer.network, seed=3, step=step)
    trainer.losses(batch(0, trainer.ranks.rank * size, size))["loss"].backward()
    return torch.cat([one.grad.flatten().clone() for one in trainer.network.parameters()])  # type: ignore[union-attr]


def draws() -> Tensor:
    """Gradients with different probes."""
    trainer = Trainer(config_of(**PROBED), plan_of(2), Run(Path()), CPU, Ranks(dist.get_rank(), 2))
    return torch.stack([gradient(trainer, step) for step in range(DRAWS)])


def agreements(ranks: Ranks) -> dict[str, Any]:
    """What the processes come to where they differ."""
    stop = StopRequest(0.0 if ranks.first else None, ranks.largest)
    agreed = [stop.agreed()]
    if ranks.first:
        # As a signal does.
        stop._signalled = True
    agreed += [stop.agreed()]
    return {
        "stop": agreed,
        "gathered": ranks.gathered(ranks.rank),
        "from the first": ranks.from_first(lambda: f"made by {ranks.rank}"),
        "patches": drawn(ranks),
    }


def drawn(ranks: Ranks) -> list[list[int]]:
    """Which patches the batches of this process are made of."""
    config = small_config(data={"workers": 0})
    with patch_batches(Numbers(), config, plan_of(2), 8, 24, ranks) as batches:  # type: ignore[arg-type]
        return [batch[IMAGE].tolist() for batch in batches]


class Numbers:
    def __getitem__(self, index: int) -> dict[str, Any]:
        return {IMAGE: index}


def run_on_all(rank: int, folder: Path, function: Callable[[], Any]) -> None:
    torch.set_num_threads(1)
    # Twenty steps make much of the rounding errors of single precision.
    torch.set_default_dtype(torch.float64)
    dist.init_process_group("gloo", f"file://{folder / 'meeting'}", rank=rank, world_size=RANKS)
    torch.save(function(), folder / f"{rank}.pt")
    dist.destroy_process_group()


def everything() -> Any:
    ranks = Ranks(dist.get_rank(), RANKS)
    exact = {"probing": {"sketch": "exact"}}
    kinds = {name: trained(config_of(**kind, **exact), plan_of(2), ranks)
             for name, kind in KINDS.items()}  # fmt: skip
    return kinds, draws(), agreements(ranks)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What :func:`everything` returns on either process."""
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(run_on_all, (folder, everything), RANKS)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(RANKS)]


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_do_what_one_does_with_twice_the_batch(kind: str, both: list[Any]) -> None:
    config = config_of(**KINDS[kind], probing={"sketch": "exact"})
    plan = plan_of(4)
    begun = Trainer(config, plan, Run(Path()), CPU).network.state_dict()
    weights, losses = trained(config, plan, ALONE)
    for found, found_losses in (kinds[kind] for kinds, *_ in both):
        for name, value in losses.items():
            assert found_losses[name] == pytest.approx(value, rel=1e-9), name
        # Of all weights: a bias before a norm has a gradient of rounding errors alone.
        moved, apart = (
            torch.cat([(weight - other[name]).flatten() for name, weight in weights.items()]).norm()
            for other in (begun, found)
        )
        assert moved > 0.1
        assert apart < 1e-9 * moved
    one, other = (kinds[kind][0] for kinds, *_ in both)
    for name, weight in one.items():
        assert torch.equal(weight, other[name]), name


def test_probed_gradients_are_right_in_the_mean(both: list[Any]) -> None:
    one, other = (gradients for _, gradients, _ in both)
    assert torch.equal(one, other)
    exact = Trainer(config_of(probing={"sketch": "exact"}), plan_of(4),
                    Run(Path()), CPU)  # fmt: skip
    wanted = gradient(exact, 0).double()
    error, noise = one.mean(0) - wanted, one.var(0).sum()
    assert noise > 1e-6 * wanted.square().sum()
    # The squared norm of the mean's error has this mean, and far less than its size of deviation.
    assert float(error.square().sum()) < 1.5 * float(noise) / DRAWS


def test_processes_agree(both: list[Any]) -> None:
    for found in (found for *_, found in both):
        assert found["stop"] == ["out of time", "interrupted"]
        assert found["gathered"] == [0, 1]
        assert found["from the first"] == "made by 0"


def test_processes_take_turns_at_the_patches(both: list[Any]) -> None:
    one, other = (found["patches"] for *_, found in both)
    with patch_batches(Numbers(), small_config(data={"workers": 0}), plan_of(4), 8, 24) as batches:  # type: ignore[arg-type]
        assert [a + b for a, b in zip(one, other, strict=True)] == [
            batch[IMAGE].tolist() for batch in batches
        ]
