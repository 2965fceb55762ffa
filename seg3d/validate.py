"""Validation during training: whole volumes, per-class Dice, a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from seg3d.data.transforms import IMAGE, LABEL
from seg3d.pictures import three_planes
from seg3d.sliding_window import best_classes, score_slabs
from seg3d.stopping import StopRequest

if TYPE_CHECKING:
    from seg3d.train import Trainer


@dataclass(frozen=True)
class Validation:
    """Result of a validation, on the grid that the network works on.

    Attributes:
        dice: mean over cases for each foreground class, NaN where no case has the class.
        picture: `(H, W, 3)` uint8, overlays of the first case.
    """

    dice: dict[str, float]
    picture: np.ndarray

    @property
    def mean_dice(self) -> float:
        """Mean over the foreground classes that occur; 0 if none does."""
        known = [value for value in self.dice.values() if np.isfinite(value)]
        return float(np.mean(known)) if known else 0.0


def validate(
    trainer: Trainer, volumes: Sequence[dict[str, Any]], stop: StopRequest
) -> Validation | None:
    """Segment every validation volume and compare.

    A class that neither reference nor prediction of a case contains leaves that case out of its
    mean.

    Args:
        trainer: whose network is looked at; it is left in training mode.
        volumes: preprocessed cases with labels.
        stop: asked between volumes; a request ends the validation.

    Returns:
        The result, or None if it was stopped.
    """
    network, config, plan = trainer.network, trainer.config, trainer.plan
    network.eval()
    rows = []
    picture: np.ndarray | None = None
    for index in range(len(volumes)):
        if stop.reason:
            network.train()
            return None
        case = volumes[index]
        slabs = score_slabs(
            network,
            case[IMAGE],
            plan.patch_size,
            overlap=config.validation.overlap,
            device=trainer.device,
            dtype=trainer.dtype,
        )
        predicted = np.concatenate([best_classes(scores).numpy() for scores in slabs])
        reference = case[LABEL][0].numpy().astype(np.int64) - 1
        rows.append(dice_per_class(reference, predicted, len(plan.classes)))
        if picture is None:
            picture = three_planes(
                case[IMAGE][0].numpy(),
                {"reference": reference, "prediction": predicted},
                plan.class_names,
                plan.spacing or plan.typical_spacing,
                title=case["name"],
                orientation=plan.orientation,
            )
    network.train()
    assert picture is not None
    table = np.array(rows)
    counted = np.isfinite(table)
    totals = np.where(counted, table, 0).sum(0)
    with np.errstate(invalid="ignore"):
        means = totals / counted.sum(0)
    return Validation(dict(zip(plan.class_names[1:], means.tolist(), strict=True)), picture)


def dice_per_class(reference: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Dice of classes 1, 2, ... over the labelled voxels; NaN where both are empty.

    Args:
        reference: class numbers, negative where there is no label.
        predicted: class numbers, of the same shape.
        classes: number of classes, background included.
    """
    labelled = reference >= 0
    pairs = reference[labelled] * classes + predicted[labelled]
    confusion = np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
    size = confusion.sum(0) + confusion.sum(1)
    with np.errstate(invalid="ignore"):
        return (2 * confusion.diagonal() / size)[1:]
