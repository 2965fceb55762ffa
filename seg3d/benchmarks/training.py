"""What benchmarks that train have in common: subjects, equal training, Dice on whole volumes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from seg3d.losses import DiceCrossEntropy, unscored_heads
from seg3d.prediction.windows import best_classes, score_slabs
from seg3d.probing import set_probe_step
from seg3d.training.validation import dice_per_class

RATE = 5e-3  # of Adam in the beginning


@dataclass(frozen=True)
class Subject:
    """A subject: standardised ``image``, and ``labels``, both ``(1, 1, D, H, W)``."""

    image: Tensor
    labels: Tensor

    @classmethod
    def of_arrays(cls, image: np.ndarray, labels: np.ndarray) -> Subject:
        """From an image `(D, H, W)` in any unit, and class numbers of that shape."""
        values = torch.from_numpy(image.astype(np.float32))[None, None]
        values = (values - values.mean()) / values.std()
        return cls(values, torch.from_numpy(labels.astype(np.int16))[None, None])

    def patch(self, edge: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """A cube of image and labels, anywhere."""
        return self._cut([_below(n - edge + 1, generator) for n in self.image.shape[2:]], edge)

    def patch_around(
        self, label: int, edge: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """A cube of image and labels about a random voxel of a class, as far as the edges let."""
        voxels = (self.labels[0, 0] == label).nonzero()
        centre = voxels[_below(len(voxels), generator)].tolist()
        ends = [n - edge for n in self.image.shape[2:]]
        starts = [min(max(c - edge // 2, 0), end) for c, end in zip(centre, ends, strict=True)]
        return self._cut(starts, edge)

    def _cut(self, starts: list[int], edge: int) -> tuple[Tensor, Tensor]:
        z, y, x = (slice(start, start + edge) for start in starts)
        return self.image[..., z, y, x], self.labels[..., z, y, x]


@dataclass(frozen=True)
class Task:
    """What is to be learnt.

    Attributes:
        foreground: names of the classes 1, 2, ...; 0 is the background.
        subject: makes a subject from its number; the same number gives the same subject.
    """

    foreground: tuple[str, ...]
    subject: Callable[[int], Subject]

    @property
    def classes(self) -> int:
        """Their number, background included."""
        return len(self.foreground) + 1

    def subjects(self, numbers: Iterable[int]) -> list[Subject]:
        """Subjects by number."""
        return [self.subject(number) for number in numbers]


def train(
    network: nn.Module,
    task: Task,
    cohort: list[Subject],
    steps: int,
    seed: int,
    edge: int,
    loss: DiceCrossEntropy | None = None,
    before_step: Callable[[int], None] | None = None,
) -> list[float]:
    """Train in place by Adam with a linearly falling rate; returns the losses."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, total_iters=steps)
    loss = loss or DiceCrossEntropy()
    losses = []
    network.train()
    for step in range(steps):
        if before_step is not None:
            before_step(step)
        patches = draw_batch(task, cohort, edge, generator)
        image, target = (torch.cat(parts) for parts in zip(*patches, strict=True))
        set_probe_step(network, seed, step)
        value = loss(unscored_heads(network, image), target)["loss"]
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()
        schedule.step()
        losses.append(float(value.detach()))
    return losses


def draw_batch(
    task: Task, cohort: list[Subject], edge: int, generator: torch.Generator
) -> list[tuple[Tensor, Tensor]]:
    """Two patches, one from anywhere and one about a voxel of a random foreground class.

    After nnU-Net (Isensee et al., Nature Methods 18, 2021).
    """
    first, second = (cohort[_below(len(cohort), generator)] for _ in range(2))
    label = 1 + _below(len(task.foreground), generator)
    return [first.patch(edge, generator), second.patch_around(label, edge, generator)]


def _below(bound: int, generator: torch.Generator) -> int:
    return int(torch.randint(bound, (1,), generator=generator))


def backward_passes(
    network: nn.Module, patches: Iterable[tuple[Tensor, Tensor]]
) -> list[Callable[[], None]]:
    """For each patch a function that runs the network forward and backward on it."""

    def run(image: Tensor, target: Tensor) -> None:
        DiceCrossEntropy()(unscored_heads(network, image), target)["loss"].backward()

    return [partial(run, *patch) for patch in patches]


def held_out_dice(
    network: nn.Module, subjects: list[Subject], task: Task, edge: int
) -> dict[str, float]:
    """Dice of whole volumes, mean over the subjects, for every foreground class."""
    rows = []
    for subject in subjects:
        predicted = best_classes(class_scores(network, subject, edge)).numpy()
        rows.append(dice_per_class(subject.labels[0, 0].numpy(), predicted, task.classes))
    return dict(zip(task.foreground, np.mean(rows, axis=0).tolist(), strict=True))


def class_scores(network: nn.Module, subject: Subject, edge: int) -> Tensor:
    """Class scores of a whole volume, `(K, D, H, W)`.

    Predicted by cubic windows of ``edge`` voxels that overlap by half.
    """
    slabs = score_slabs(
        network.eval(),
        subject.image[0],
        (edge, edge, edge),
        overlap=0.5,
        window_batch=4,
        device=torch.device("cpu"),
    )
    return torch.cat(list(slabs), dim=1)
