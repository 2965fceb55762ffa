"""What benchmarks that train have in common: subjects, equal training, Dice on whole volumes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor, nn

from seg3d.geometry import Shape3
from seg3d.losses import DiceCrossEntropy, Scores, unscored_heads
from seg3d.prediction.decisions import best_classes
from seg3d.prediction.windows import score_slabs
from seg3d.probing import set_probe_step
from seg3d.training.validation import confusion_matrix, dice_of, dice_per_class

RATE = 5e-3  # of Adam in the beginning
LAST_RATE = 0.01  # at the end, as a share of it


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

    @cached_property
    def foreground(self) -> list[int]:
        """Numbers of the classes that it has, without the background."""
        return [number for number in self.labels.unique().tolist() if number > 0]

    def patch(self, size: Shape3, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """A part of image and labels, anywhere."""
        ends = self._ends(size)
        return self._cut([_below(end + 1, generator) for end in ends], size)

    def patch_around(
        self, label: int, size: Shape3, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """A part of image and labels about a random voxel of a class, as far as the edges let."""
        voxels = (self.labels[0, 0] == label).nonzero()
        centre = voxels[_below(len(voxels), generator)].tolist()
        starts = [
            min(max(middle - side // 2, 0), end)
            for middle, side, end in zip(centre, size, self._ends(size), strict=True)
        ]
        return self._cut(starts, size)

    def _ends(self, size: Shape3) -> list[int]:
        return [n - side for n, side in zip(self.image.shape[2:], size, strict=True)]

    def _cut(self, starts: list[int], size: Shape3) -> tuple[Tensor, Tensor]:
        z, y, x = (slice(a, a + side) for a, side in zip(starts, size, strict=True))
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


def cube(edge: int) -> Shape3:
    """The size of a patch of equal sides, in voxels."""
    return edge, edge, edge


def after(steps: int) -> Callable[[int], float]:
    """For `train`: so many steps are all of the training."""
    return lambda step: step / steps


def train(
    network: nn.Module,
    task: Task,
    cohort: list[Subject],
    done: Callable[[int], float],
    seed: int,
    size: Shape3,
    loss: DiceCrossEntropy | None = None,
    before_step: Callable[[int], None] | None = None,
    dtype: torch.dtype = torch.float32,
) -> list[float]:
    """Train in place by Adam with a linearly falling rate; returns the losses.

    Args:
        network: in float32.
        task: what is learnt.
        cohort: from which patches are drawn.
        done: the share of the training that is done before a step; it ends at 1.
        seed: of the patches and the probes.
        size: of the patches, in voxels.
        loss: by default `DiceCrossEntropy`.
        before_step: called with the number of every step.
        dtype: of the forward pass (autocast).
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=RATE)
    loss = loss or DiceCrossEntropy()
    losses: list[float] = []
    network.train()
    while (share := done(step := len(losses))) < 1:
        if before_step is not None:
            before_step(step)
        patches = draw_batch(cohort, size, generator)
        image, target = (torch.cat(parts) for parts in zip(*patches, strict=True))
        set_probe_step(network, seed, step)
        value = loss(_scores(network, image, dtype), target)["loss"]
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.param_groups[0]["lr"] = RATE * (1 - (1 - LAST_RATE) * share)
        optimizer.step()
        losses.append(float(value.detach()))
    return losses


def draw_batch(
    cohort: list[Subject], size: Shape3, generator: torch.Generator
) -> list[tuple[Tensor, Tensor]]:
    """Two patches, one from anywhere and one about a voxel of a random foreground class.

    After nnU-Net (Isensee et al., Nature Methods 18, 2021).
    """
    first, second = (cohort[_below(len(cohort), generator)] for _ in range(2))
    label = second.foreground[_below(len(second.foreground), generator)]
    return [first.patch(size, generator), second.patch_around(label, size, generator)]


def _below(bound: int, generator: torch.Generator) -> int:
    return int(torch.randint(bound, (1,), generator=generator))


def backward_passes(
    network: nn.Module,
    patches: Iterable[tuple[Tensor, Tensor]],
    dtype: torch.dtype = torch.float32,
) -> list[Callable[[], None]]:
    """For each patch a function that runs the network forward and backward on it."""

    def run(image: Tensor, target: Tensor) -> None:
        DiceCrossEntropy()(_scores(network, image, dtype), target)["loss"].backward()

    return [partial(run, *patch) for patch in patches]


def _scores(network: nn.Module, image: Tensor, dtype: torch.dtype) -> list[Scores]:
    with torch.autocast(image.device.type, dtype, enabled=dtype != torch.float32):
        return unscored_heads(network, image)


def held_out_dice(
    network: nn.Module, subjects: list[Subject], task: Task, size: Shape3
) -> dict[str, float]:
    """Dice of whole volumes, mean over the subjects, for every foreground class."""
    rows = []
    for subject in subjects:
        predicted = best_classes(class_scores(network, subject, size)).numpy()
        rows.append(dice_per_class(subject.labels[0, 0].numpy(), predicted, task.classes))
    return dict(zip(task.foreground, np.mean(rows, axis=0).tolist(), strict=True))


def pooled_dice(
    network: nn.Module, subjects: list[Subject], task: Task, size: Shape3, dtype: torch.dtype
) -> dict[str, float]:
    """Dice over the voxels of all subjects together, where not every one has every class."""
    counts = np.zeros((task.classes, task.classes), dtype=np.int64)
    for subject in subjects:
        predicted = best_classes(class_scores(network, subject, size, dtype)).numpy()
        counts += confusion_matrix(subject.labels[0, 0].numpy(), predicted, task.classes)
    return dict(zip(task.foreground, dice_of(counts).tolist(), strict=True))


def class_scores(
    network: nn.Module, subject: Subject, size: Shape3, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Class scores of a whole volume, `(K, D, H, W)`.

    Predicted by windows of ``size`` voxels that overlap by half.
    """
    slabs = score_slabs(
        network.eval(),
        subject.image[0],
        size,
        overlap=0.5,
        window_batch=4,
        device=torch.device("cpu"),
        dtype=dtype,
    )
    return torch.cat(list(slabs), dim=1)
