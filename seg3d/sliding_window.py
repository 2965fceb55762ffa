"""Class scores of a whole volume from overlapping windows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from monai.inferers import sliding_window_inference
from torch import Tensor, nn

from seg3d.geometry import Shape3
from seg3d.networks.factory import heads


def score_volume(
    network: nn.Module,
    image: Tensor,
    window: Shape3,
    *,
    overlap: float,
    window_batch: int = 1,
    mirror_axes: Sequence[int] = (),
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    advance: Callable[[int], object] = lambda windows: None,
) -> Tensor:
    """Class scores (before softmax), averaged over windows with Gaussian weights.

    Args:
        network: in eval mode, on ``device``.
        image: `(C, D, H, W)`, in memory; smaller volumes than the window are padded with zeros.
        window: voxels, the patch size of training.
        overlap: share of a window that neighbouring windows have in common.
        window_batch: windows per forward pass.
        mirror_axes: average over all combinations of flips along these axes (0, 1, 2).
        device: where the network computes; the sum over windows is kept in RAM.
        dtype: of the forward pass (autocast).
        advance: told the number of windows that have just been done.

    Returns:
        `(K, D, H, W)` float32 on the CPU.
    """
    flips = [
        [axis + 2 for axis in axes]
        for count in range(len(mirror_axes) + 1)
        for axes in itertools.combinations(mirror_axes, count)
    ]

    def score(windows: Tensor) -> Tensor:
        total: Tensor | None = None
        for axes in flips:
            scores = heads(network(windows.flip(axes)))[0].flip(axes).float()
            total = scores if total is None else total + scores
        advance(len(windows))
        assert total is not None
        return total / len(flips)

    with torch.inference_mode(), torch.autocast(device.type, dtype, dtype != torch.float32):
        scores = sliding_window_inference(
            image.as_tensor()[None] if hasattr(image, "as_tensor") else image[None],
            window,
            window_batch,
            score,
            overlap=overlap,
            mode="gaussian",
            sw_device=device,
            device=torch.device("cpu"),
        )
    assert isinstance(scores, Tensor)
    return scores[0]


def window_count(shape: Sequence[int], window: Shape3, overlap: float) -> int:
    """How many windows `score_volume` needs, for progress bars."""
    count = 1
    for length, size in zip(shape, window, strict=True):
        step = max(int(size * (1 - overlap)), 1)
        count *= math.ceil(max(length - size, 0) / step) + 1
    return count
