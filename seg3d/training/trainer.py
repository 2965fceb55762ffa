"""Everything that changes during training, and how it is stored."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.utils.data import default_collate

from seg3d.common.device import compute_dtype, read_later
from seg3d.common.errors import RunFailed
from seg3d.common.ranks import ALONE, Ranks
from seg3d.common.sizes import GIB
from seg3d.config import Config
from seg3d.data.transforms import IMAGE, LABEL
from seg3d.losses import unscored_heads
from seg3d.memory import peak_gib
from seg3d.plan import Plan, build_loss, build_network, little_of, passes_per_step, predicted_peak
from seg3d.probing import choose_bits, first_bits, set_bits, set_probe_step
from seg3d.probing.bits import rotated_layers, summary
from seg3d.probing.names import Bits
from seg3d.probing.noise import Noise
from seg3d.runs.checkpoint import save_checkpoint, seed_random_states
from seg3d.runs.run_folder import Run
from seg3d.training.data_parallel import data_parallel, each_for_itself, seed_of
from seg3d.training.optimiser import (
    learning_rate,
    make_optimizer,
    make_schedule,
    require_fitting_state,
)
from seg3d.training.out_of_memory import out_of_memory_explained
from seg3d.training.validation import Validation


@dataclass
class Position:
    """How far a run has come; together with the seed it determines all that follows.

    Attributes:
        step: optimiser steps done.
        patches: drawn so far, by all processes; there the sampler stands.
        epochs_done: epochs whose closing (validation, log) is done too.
        best_dice: of the validations so far.
        sums: of the losses over the steps of the epoch under way.
    """

    step: int = 0
    patches: int = 0
    epochs_done: int = 0
    best_dice: float = -1.0
    sums: dict[str, float] = field(default_factory=dict)

    def check(self, iterations: int) -> None:
        """Require what it was read from to be a position.

        Args:
            iterations: of an epoch.

        Raises:
            ValueError: if it is none.
        """
        counts = self.step, self.patches, self.epochs_done
        numbers = (self.best_dice, *self.sums.values())
        if not all(isinstance(one, int) and one >= 0 for one in counts):
            raise ValueError(f"step {self.step}, epoch {self.epochs_done}")
        if not all(isinstance(one, float) for one in numbers):
            raise ValueError("Dice and losses are not numbers")
        under_way = self.step - self.epochs_done * iterations
        if not 0 <= under_way <= iterations or ("loss" in self.sums) != (under_way > 0):
            raise ValueError(f"step {self.step} is not in epoch {self.epochs_done + 1}")


class Trainer:
    """Everything that changes during training, and how it is stored."""

    def __init__(
        self, config: Config, plan: Plan, run: Run, device: torch.device, ranks: Ranks = ALONE
    ) -> None:
        seed_random_states(config.train.seed)
        self.config = config
        self.plan = plan
        self.run = run
        self.device = device
        self.ranks = ranks
        self.dtype = compute_dtype(config.train.amp, device)
        self.network: nn.Module = build_network(config, plan).to(device)
        self.group = ranks.group(device)
        self.shared = data_parallel(self.network, self.group)
        self.optimizer = make_optimizer(self.network, config.train)
        self.schedule = make_schedule(self.optimizer, config.train)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype == torch.float16)
        self.passes = passes_per_step(config, plan)
        self.loss = build_loss(config.loss, plan)
        self.position = Position()
        self.processes = ranks.count
        self.bits_are_chosen = False
        self.noise: dict[str, Noise] = {}
        self.room_explained: Callable[[], AbstractContextManager[None]] = partial(
            out_of_memory_explained, config, plan, device, ranks
        )

    @property
    def patches_per_step(self) -> int:
        """Of all processes."""
        return self.ranks.count * self.passes * self.plan.batch_size

    def save(self, path: Path) -> None:
        """Write a checkpoint; of several processes, the first one does."""
        if not self.ranks.first:
            return
        state = {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "position": vars(self.position),
            "processes": self.ranks.count,
            "bits": {name: layer.bits for name, layer in rotated_layers(self.network).items()},
            "bits_are_chosen": self.bits_are_chosen,
        }
        save_checkpoint(path, self.config, self.plan, state)

    def load(self, content: dict[str, Any]) -> None:
        self.network.load_state_dict(content["network"])
        # The settings are the config's, which may have changed since; the rest goes on.
        settings = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({**content["optimizer"], "param_groups": settings})
        require_fitting_state(self.optimizer)
        if content["scaler"]:
            self.scaler.load_state_dict(content["scaler"])
        self.processes = int(content.get("processes", 1))
        position = dict(content["position"])
        # Before there could be several processes it was not written down.
        position.setdefault("patches", position["step"] * self.passes * self.plan.batch_size)
        self.position = Position(**position)
        self.position.check(self.config.train.iterations_per_epoch)
        self.schedule = make_schedule(self.optimizer, self.config.train, self.position.step)
        self.bits_are_chosen = chooses_bits(self.config) and content.get("bits_are_chosen", False)
        if self.bits_are_chosen:
            set_bits(self.network, content["bits"])

    def choose_bits(self, trial: Callable[[], Sequence[dict[str, Any]]]) -> str:
        """Choose the bits of every layer by what single patches show; returns a line about it.

        Weights that no step has trained yet would ask for too many: they get bits by rule. Of
        several processes, the first one chooses.
        """
        bits, self.noise, scaler = self.ranks.from_first(lambda: self._chosen_bits(trial()))
        set_bits(self.network, bits)
        if scaler:
            self.scaler.load_state_dict(scaler)
        self.bits_are_chosen = True
        return f"bits per voxel: {summary(bits)}"

    def _chosen_bits(
        self, patches: Sequence[dict[str, Any]]
    ) -> tuple[dict[str, Bits], dict[str, Noise], dict[str, Any]]:
        """What comes of choosing: bits, noise, and the state of the scaler."""
        noise = self.noise

        def backward(patch: dict[str, Any]) -> None:
            scale = math.inf
            # Again with a smaller scale, down to 1, as long as half-precision gradients overflow.
            while 1 <= self.scaler.get_scale() < scale:
                scale = self.scaler.get_scale()
                self.optimizer.zero_grad(set_to_none=True)
                losses = self.losses(default_collate([patch]), alone=True)
                self.scaler.scale(losses["loss"]).backward()
                self.scaler.unscale_(self.optimizer)
                self.scaler.update()

        runs = [partial(backward, patch) for patch in patches]
        with self.room_explained():
            if self.position.step == 0:
                chosen = first_bits(self.network, runs[0], little_of(self.config, self.plan))
                self.optimizer.zero_grad(set_to_none=True)
            else:
                found = choose_bits(
                    self.network,
                    runs,
                    seed=self.config.train.seed,
                    little=little_of(self.config, self.plan),
                )
                chosen, noise = found.bits, found.noise
        return chosen, noise, self.scaler.state_dict()

    def losses(self, batch: dict[str, Any], *, alone: bool = False) -> dict[str, torch.Tensor]:
        """Forward pass of a batch; the losses are those of all processes, unless it is alone."""
        network, group = (self.network, None) if alone else (self.shared, self.group)
        image = batch[IMAGE].to(self.device, non_blocking=True)
        target = batch[LABEL].to(self.device, non_blocking=True)
        with torch.autocast(self.device.type, self.dtype, self.dtype != torch.float32):
            scores = unscored_heads(network, image)
        losses: dict[str, torch.Tensor] = self.loss(scores, target, group)
        return losses

    def step(self, batches: Iterator[dict[str, Any]]) -> None:
        """One optimiser step, from a batch for each of its forward passes.

        Raises:
            RunFailed: if the loss is not finite, naming the cases of the batch, or if there is
                too little memory, naming the settings that would help.
        """
        seed, step = self.config.train.seed, self.position.step
        set_probe_step(self.network, seed, step)
        if not self.ranks.first:
            # The first one's state is in the checkpoint; with equal ones all would drop the same.
            torch.manual_seed(seed_of(seed, step, self.ranks.rank))
        for number in range(self.passes):
            batch = next(batches)
            # Gradients add up, and go from process to process once, with the last pass.
            last = number == self.passes - 1
            with self.room_explained(), each_for_itself(self.shared, not last):
                self._backward(batch)
        with self.room_explained():
            self._update()

    def _backward(self, batch: dict[str, Any]) -> None:
        losses = self.losses(batch)
        read = read_later(torch.stack([value.detach() for value in losses.values()]))
        # Asked for before the losses are read, so that a GPU has something to do meanwhile.
        self.scaler.scale(losses["loss"] / self.passes).backward()
        values = dict(zip(losses, read(), strict=True))
        if not math.isfinite(values["loss"]):
            raise RunFailed(
                f"the loss became {values['loss']} in step {self.position.step + 1}\n"
                f"  cases: {', '.join(sum(self.ranks.gathered(batch['name']), []))}\n"
                "  to do: look at these volumes; lower train.learning_rate; or train.amp=off"
            )
        for name, value in values.items():
            share = value / self.passes
            self.position.sums[name] = self.position.sums.get(name, 0.0) + share

    def _update(self) -> None:
        train = self.config.train
        self.scaler.unscale_(self.optimizer)
        if train.clip is not None:
            clip_grad_norm_(self.network.parameters(), train.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.schedule.step()
        self.position.step += 1
        self.position.patches += self.patches_per_step

    @property
    def bits_are_due(self) -> bool:
        """Whether bits are to be chosen anew: after the first epoch, 4, 16, 64, ..."""
        epochs = self.position.epochs_done
        fours = epochs & (epochs - 1) == 0 and epochs.bit_length() % 2 == 1
        return chooses_bits(self.config) and fours and epochs < self.config.train.epochs

    @property
    def validation_is_due(self) -> bool:
        """Whether the epoch under way ends with a validation; the last one always does."""
        epoch = self.position.epochs_done + 1
        return epoch % self.config.validation.every == 0 or epoch == self.config.train.epochs

    def close_epoch(
        self, speed: dict[str, float], validation: Validation | None
    ) -> dict[str, float]:
        """Count the epoch as done and return what is to be logged."""
        position, train = self.position, self.config.train
        scalars = {
            f"loss/{name}": value / train.iterations_per_epoch
            for name, value in position.sums.items()
        } | {
            "learning_rate": learning_rate(self.optimizer),
            "memory/peak_gib": peak_gib(self.device),
            **speed,
        }
        if self.device.type == "cuda":
            # On a CPU the peak is that of the process, with the data and PyTorch itself.
            scalars["memory/planned_gib"] = self.planned_gib
        position.epochs_done += 1
        position.sums = {}
        if validation is not None:
            scalars |= {f"dice/{name}": value for name, value in validation.dice.items()}
            scalars["dice/mean"] = validation.mean_dice
        return scalars

    @cached_property
    def planned_gib(self) -> float:
        """The predicted peak of training, in GiB."""
        return (
            predicted_peak(self.config, self.plan, self.dtype, shared=self.ranks.count > 1).total
            / GIB
        )

    def keep(self, validation: Validation | None) -> None:
        """Write the last checkpoint, and the best one if this validation was the best so far."""
        if validation is not None and validation.mean_dice > self.position.best_dice:
            self.position.best_dice = validation.mean_dice
            self.save(self.run.best)
        self.save(self.run.last)


def chooses_bits(config: Config) -> bool:
    """Whether the bits of the layers are to be measured and not given."""
    return config.probing.sketch == "rotated" and config.probing.bits == "auto"
