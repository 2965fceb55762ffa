"""A small real problem for benchmarks: subjects made from the T1 template that ships along.

One template bent into subjects is not a cohort: results say how methods compare, not how well
they would do in the clinic.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from seg3d.data.cohort import make_subject
from seg3d.io import read_labels, read_volume
from seg3d.losses import DiceCrossEntropy
from seg3d.networks import heads
from seg3d.probing import set_probe_step
from seg3d.resources import resource
from seg3d.sliding_window import best_classes, score_slabs
from seg3d.validate import dice_per_class

CLASSES = 4  # background, CSF, grey matter, white matter


@dataclass(frozen=True)
class Subject:
    """A subject: standardised ``image``, and ``labels``, both ``(1, 1, D, H, W)``."""

    image: Tensor
    labels: Tensor

    def patch(self, edge: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """A random cube of image and labels."""
        image, labels = self.image, self.labels
        for axis in (2, 3, 4):
            places = self.image.shape[axis] - edge + 1
            start = int(torch.randint(places, (1,), generator=generator))
            image, labels = image.narrow(axis, start, edge), labels.narrow(axis, start, edge)
        return image, labels


def subjects(numbers: range) -> list[Subject]:
    """Subjects by number; the same number gives the same subject."""
    folder = resource("data/brain")
    image = np.asarray(read_volume(folder / "template_t1.nii.gz").array)[0]
    labels = np.asarray(read_labels(folder / "template_labels.nii.gz").array)[0]
    found = []
    for number in numbers:
        bent, classes = make_subject(image, labels, seed=number)
        values = torch.from_numpy(bent.astype(np.float32))[None, None]
        values = (values - values.mean()) / values.std()
        found.append(Subject(values, torch.from_numpy(classes.astype(np.int16))[None, None]))
    return found


def train(
    network: nn.Module,
    cohort: list[Subject],
    steps: int,
    seed: int,
    edge: int = 48,
    batch: int = 2,
) -> list[float]:
    """Train in place by Adam with a linearly falling rate; returns the losses."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, total_iters=steps)
    loss = DiceCrossEntropy()
    losses = []
    network.train()
    for step in range(steps):
        chosen = torch.randint(len(cohort), (batch,), generator=generator).tolist()
        patches = [cohort[index].patch(edge, generator) for index in chosen]
        image, target = (torch.cat(parts) for parts in zip(*patches, strict=True))
        set_probe_step(network, seed, step)
        value = loss(heads(network(image)), target)["loss"]
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()
        schedule.step()
        losses.append(float(value.detach()))
    return losses


def mean_dice(network: nn.Module, cohort: list[Subject], edge: int = 48) -> float:
    """Mean over subjects and foreground classes of the Dice score."""
    network.eval()
    rows = []
    for subject in cohort:
        slabs = score_slabs(
            network,
            subject.image[0],
            (edge, edge, edge),
            overlap=0.5,
            device=torch.device("cpu"),
        )
        predicted = np.concatenate([best_classes(scores).numpy() for scores in slabs])
        rows.append(dice_per_class(subject.labels[0, 0].numpy(), predicted, CLASSES))
    return float(np.nanmean(np.array(rows)[:, -(CLASSES - 1) :]))
