"""Prediction as it is defined: of the whole volume in memory, by MONAI's transforms and inferer."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from torch import Tensor, nn

from seg3d.config import Config
from seg3d.geometry import Shape3
from seg3d.losses import heads
from seg3d.plan import Plan
from tests.monai_preprocessing import on_the_files_grid, prediction_image


def scores_of(
    network: nn.Module,
    image: Tensor,
    window: Shape3,
    overlap: float,
    mirror_axes: Sequence[int] = (),
) -> Tensor:
    """Scores `(K, D, H, W)` of a volume `(C, D, H, W)`."""
    flips = [
        [axis + 2 for axis in axes]
        for count in range(len(mirror_axes) + 1)
        for axes in itertools.combinations(mirror_axes, count)
    ]

    def score(windows: Tensor) -> Tensor:
        results = [heads(network(windows.flip(axes)))[0].flip(axes) for axes in flips]
        return torch.stack(results).mean(0)

    with torch.inference_mode():
        scores = sliding_window_inference(
            image[None], window, 1, score, overlap=overlap, mode="gaussian"
        )
    assert isinstance(scores, Tensor)
    return scores[0]


def probabilities_of(
    network: nn.Module, config: Config, plan: Plan, images: Sequence[Path]
) -> np.ndarray:
    """Probabilities `(K, X, Y, Z)` on the grid of the files."""
    image = prediction_image(plan, images)
    mirror = config.augment.flip.axes if config.predict.mirror else ()
    scores = scores_of(network, image.as_tensor(), plan.patch_size, config.predict.overlap, mirror)
    return on_the_files_grid(plan, scores.softmax(0), image)
